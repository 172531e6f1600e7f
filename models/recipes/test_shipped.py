"""Promises of the shipped files and of the figures computed on them. Needs numpy, onnx and onnxruntime, no PyTorch, no data."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import metrics  # noqa: E402

MODELS = Path(__file__).resolve().parent.parent
SHIPPED = ["full-front-pose", "garment-detector", "garment-embedder", "resnet-preact-64"]
IN_INTEGERS = ["full-front-pose", "garment-detector", "garment-embedder"]  # what `shipped` holds in integers, `optional` holds in float
OPTIONAL = ["attention-texture", *(f"{name}-float" for name in IN_INTEGERS)]
NAMES = SHIPPED + OPTIONAL


def file(name: str, ending: str) -> Path:
    return MODELS / ("optional" if name in OPTIONAL else "shipped") / f"{name}.{ending}"


def manifest(name: str) -> dict:
    return json.loads(file(name, "json").read_text())


def session(name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(file(name, "onnx")), providers=["CPUExecutionProvider"])


def batch_for(name: str, count: int) -> np.ndarray:
    spec = manifest(name)["input"]
    return np.random.default_rng(1).normal(size=(count, 3, spec["height"], spec["width"])).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_describes_the_file_beside_it(name):
    weights = file(name, "onnx").read_bytes()
    assert manifest(name)["sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest(name)["name"] == name
    assert len(weights) < 15_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_whole_and_old_enough_for_every_runtime(name):
    model = onnx.load(file(name, "onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert all(entry.version <= 17 for entry in model.opset_import)
    assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_axis_is_dynamic_and_a_batch_equals_its_photos(name):
    runner, batch = session(name), batch_for(name, 3)
    together = runner.run(None, {"image": batch})
    alone = [runner.run(None, {"image": batch[i : i + 1]}) for i in range(3)]
    for place, output in enumerate(together):
        np.testing.assert_allclose(output, np.concatenate([one[place] for one in alone]), rtol=1e-3, atol=1e-3)


def test_the_detector_gives_boxes_and_chances():
    labels = manifest("garment-detector")["output"]["labels"]
    (raw,) = session("garment-detector").run(None, {"image": batch_for("garment-detector", 1)})
    assert raw.shape[:2] == (1, 4 + len(labels))
    assert [entry["name"] for entry in labels if entry["group"] == "accessory"] == ["bag", "headwear"]
    assert (raw[:, 2:4] > 0).all() and (raw[:, 4:] >= 0).all() and (raw[:, 4:] <= 1).all()


@pytest.mark.parametrize("name", [name for name in NAMES if manifest(name)["kind"] == "embedder"])
def test_an_embedder_gives_unit_vectors(name):
    (rows,) = session(name).run(None, {"image": batch_for(name, 2)})
    assert rows.shape == (2, manifest(name)["output"]["dimensions"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)


def test_the_pose_model_gives_chances_and_offsets_per_point():
    heat, offsets = session("full-front-pose").run(None, {"image": batch_for("full-front-pose", 1)})
    cells = manifest("full-front-pose")["input"]["width"] // manifest("full-front-pose")["output"]["stride"]
    assert heat.shape == (1, 17, cells, cells) and offsets.shape == (1, 34, cells, cells)
    assert (heat >= 0).all() and (heat <= 1).all()


@pytest.mark.parametrize("name", IN_INTEGERS)
def test_integers_have_seven_bits_and_one_scale_a_channel(name):
    """Eight bits saturate on processors without VNNI."""
    graph = onnx.load(file(name, "onnx")).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read = [node.input for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    weights = [(tensors[values], tensors[scale]) for values, scale, _ in read if tensors[values].ndim == 4]
    assert len(weights) > 10
    for values, scales in weights:
        assert values.dtype == np.int8 and np.abs(values.astype(int)).max() <= 64
        assert len(scales) == len(values)


def crops(name: str) -> np.ndarray:
    """Drawn photos as the model sees them."""
    photos = sorted((MODELS.parent / "tests/catalogue/queries").glob("*.jpg"))
    model = metrics.Model(file(name, "json"))
    return np.stack([model.prepare(Image.open(photo).convert("RGB"))[0] for photo in photos])


@pytest.mark.parametrize("name", IN_INTEGERS)
def test_integers_compute_what_their_float_file_does(name):
    batch = crops(name)
    ours, theirs = (session(one).run(None, {"image": batch})[0] for one in (name, f"{name}-float"))
    assert {key: value for key, value in manifest(name).items() if key in ("input", "output", "kind")} == {
        key: value for key, value in manifest(f"{name}-float").items() if key in ("input", "output", "kind")
    }
    ours, theirs = (rows.reshape(len(rows), -1) for rows in (ours, theirs))
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() > 0.97, cosines


def test_every_file_is_listed_here():
    for folder, names in (("shipped", SHIPPED), ("optional", OPTIONAL)):
        assert sorted(path.stem for path in (MODELS / folder).glob("*.onnx")) == sorted(names)


def photo(*boxes):
    return {"boxes": np.array(boxes, float).reshape(-1, 4), "groups": np.zeros(len(boxes), int)}


def test_average_precision_follows_coco():
    near, far = np.array([0, 0, 10, 10.0]), np.array([50, 50, 60, 60.0])
    photos = [photo(near, far)]
    assert metrics.average_precision([[(0, 0.9, near), (0, 0.8, far)]], photos, 0) == 1.0
    assert metrics.average_precision([[]], photos, 0) == 0.0
    # One of two found first: recalls 0 to 0.50 have precision 1, that is 51 of 101.
    assert metrics.average_precision([[(0, 0.9, near)]], photos, 0) == pytest.approx(51 / 101)
    # A second box on a found garment is a miss; then the other one: precision 2/3 for the upper half.
    found = [[(0, 0.9, near), (0, 0.8, near + 0.5), (0, 0.7, far)]]
    assert metrics.average_precision(found, photos, 0) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_decoding_suppresses_overlaps_within_a_class_only():
    raw = np.array([[10, 10, 8, 8, 0.9, 0.0], [10, 10.5, 8, 8, 0.8, 0.0], [10, 10, 8, 8, 0.0, 0.7], [30, 30, 8, 8, 0.005, 0]]).T
    found = metrics.decode(raw, 0.01, 0.5, 20)
    assert [(label, score) for label, score, _ in found] == [(0, 0.9), (1, 0.7)]
    np.testing.assert_allclose(found[0][2], [6, 6, 14, 14])


def test_precision_does_not_count_the_query_itself():
    rows = metrics.normalized(np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]))
    names = np.array(["a", "b", "a", "a"])
    assert metrics.precision_at(1, np.array([0, 2]), rows, names) == 0.5
