"""From a float file of a model to one that computes its convolutions in integers: three times as fast on a CPU, half the size.

    python integers.py garment-detector [--version V]    # models/shipped/NAME from models/optional/NAME-float

Owns: static post-training quantisation (Krishnamoorthi, arXiv:1806.08342, section 3.1) by ONNX Runtime's own tool. Must not know: how
a model was trained. Invariant: no validation photo calibrates, and sums stay below 2¹⁵ on every processor.

Weights are integers of 7 bits, one scale for each output channel, activations of 8 bits, one scale for each tensor, set so that
99.995 % of the calibration's values fit. With 8 bits a processor without VNNI, whose `vpmaddubsw` adds two products in 16 bits, would
saturate and give other results. The first convolution and the last ones stay in float: their errors reach the output undiluted, and
they are small.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import data
import export
import metrics
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

PHOTOS = 100  # of the street and of the closet train photos each
KEPT = 99.995  # percentile of a tensor's values that its integers reach
MODELS = ["garment-detector", "garment-embedder", "full-front-pose"]


class Calibration(CalibrationDataReader):
    """Photos as the model sees them."""

    def __init__(self, model: metrics.Model, images: Iterable[Image.Image]):
        self.name = model.manifest["input"]["name"]
        self.batches = (model.prepare(image)[0][None] for image in images)

    def get_next(self) -> dict | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}


def train_photos(garments: bool) -> Iterator[Image.Image]:
    """Street train photos, or with `garments` one garment of each, and closet train photos."""
    for photo in data.street("train")[:PHOTOS]:
        image = Image.open(photo["path"]).convert("RGB")
        yield image.crop(photo["boxes"][0].tolist()) if garments and len(photo["boxes"]) else image
    rows = data.closet("train")
    for row in rows[:: len(rows) // PHOTOS][:PHOTOS]:
        yield Image.open(data.root() / "catalogue" / row["path"]).convert("RGB")


def _kept_in_float(graph: onnx.GraphProto) -> list[str]:
    """The first convolution, and those behind which no other one comes."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    feeds: set[str] = set()  # tensors that reach a convolution
    last = []
    for node in reversed(graph.node):
        if node.op_type == "Conv" and feeds.isdisjoint(node.output):
            last.append(node.name)
        if node.op_type == "Conv" or not feeds.isdisjoint(node.output):
            feeds.update(node.input)
    return [convolutions[0].name, *last]


def _quantise(model: metrics.Model, source: Path, target: Path, images: Iterable[Image.Image]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.onnx"
        # Folds the float16 weights back, which the tool would not find behind their casts.
        quant_pre_process(source, plain, skip_symbolic_shape=True)
        quantize_static(
            plain,
            target,
            Calibration(model, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_kept_in_float(onnx.load(plain).graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": KEPT},
        )
    written = onnx.load(target)
    export.halve(written)
    # The tool names domains that no node is of.
    used = {node.domain for node in written.graph.node}
    opsets = [entry for entry in written.opset_import if entry.domain in used]
    del written.opset_import[:], written.metadata_props[:]
    written.opset_import.extend(opsets)
    written.producer_name = "lookbook"
    onnx.checker.check_model(written, full_check=True)
    target.write_bytes(written.SerializeToString())


def convert(origin: Path, name: str, folder: Path, images: Iterable[Image.Image], version: str | None = None) -> Path:
    """Write model `name` into `folder`, from a float file with manifest `origin`; `images` calibrate."""
    model = metrics.Model(origin)
    target = folder / f"{name}.onnx"
    _quantise(model, origin.with_suffix(".onnx"), target, images)
    manifest = model.manifest | {
        "name": name,
        "version": version or model.manifest["version"],
        "source": f"{model.manifest['source']}; in integers by models/recipes/integers.py",
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }
    path = target.with_suffix(".json")
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    print(f"{path}: {target.stat().st_size / 1e6:.1f} MB")
    return path


def ship(name: str, version: str | None = None) -> Path:
    """The shipped file of one of our models, from `data.in_float`."""
    origin = data.in_float(name)
    garments = json.loads(origin.read_text())["kind"] == "embedder"
    return convert(origin, name, data.SHIPPED, train_photos(garments), version)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--version", default=None, help="default: the float file's")
    options = parser.parse_args()
    ship(options.name, options.version)
