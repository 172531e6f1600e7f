"""The shipped models continued on a handful of drawn photos, two steps: from photos to a file that can be added. Needs PyTorch."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training is tested where PyTorch is installed: .lookbook/train-venv/bin/pytest models/recipes")
sys.path.insert(0, str(Path(__file__).parent))
import data  # noqa: E402
import finetune  # noqa: E402
import finetune_detector  # noqa: E402
import metrics  # noqa: E402
import torch  # noqa: E402

CATALOGUE = Path(__file__).resolve().parents[2] / "tests" / "catalogue" / "photos"
KINDS = {"jeans": "*jeans*.jpg", "boots": "*boots*.jpg", "shirt": "*shirt*.jpg"}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for kind, pattern in KINDS.items():
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for path in sorted(CATALOGUE.glob(pattern))[:4]:
            (tmp_path / "photos" / kind / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(data, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("LOOKBOOK_DATA", str(tmp_path / "none"))  # a shop has no data folder
    return tmp_path / "photos"


def run(monkeypatch, photos, *more):
    monkeypatch.chdir(photos.parent)
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--photos", str(photos), "--name", "tiny-shop", "--batch", "6", "--anyway", *more])
    finetune.main()


def test_the_adopted_network_computes_what_the_shipped_file_computes():
    network = finetune.load()
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(12, 3, *finetune.embedder.INPUT)).astype(np.float32))
    finetune.adopt(network, images)  # ends the program where they differ
    with torch.inference_mode():
        assert torch.allclose(network(images).norm(dim=1), torch.ones(12), atol=1e-4)


def test_photos_become_a_model_of_another_name_and_a_stopped_run_goes_on(photos, monkeypatch, capsys):
    run(monkeypatch, photos, "--steps", "2", "--version", "2.1.0", "--licence", "ours")
    said = capsys.readouterr().out
    assert "3 held out" in said and "before    after" in said and "lookbook model add tiny-shop" in said
    assert said.count("starting from garment-embedder-float.onnx") == 1 and "score" not in said
    manifest = json.loads((photos.parent / "tiny-shop.json").read_text())
    assert (manifest["name"], manifest["version"], manifest["licence"], manifest["kind"]) == ("tiny-shop", "2.1.0", "ours", "embedder")
    model = metrics.Model(photos.parent / "tiny-shop.json")  # checks the digest
    row = model.embed([Image.open(next(photos.rglob("*.jpg"))).convert("RGB")])
    assert row.shape == (1, 256) and np.isfinite(row).all()
    losses = (photos.parent / "runs" / "finetune-tiny-shop" / "losses.csv").read_text().splitlines()
    assert len(losses) == 3

    # Finished: nothing is trained again. Other photos under the same name: refused.
    run(monkeypatch, photos, "--steps", "2")
    assert "continuing at step 2 of 2" in capsys.readouterr().out
    next(photos.rglob("*.jpg")).unlink()
    with pytest.raises(SystemExit, match="begun with other photos"):
        run(monkeypatch, photos, "--steps", "2")


def coco(folder: Path) -> Path:
    """Drawn people with boxes: the upper half of each is a shirt, the lower half trousers; and a category that is left out, a crowd, and
    a photo without boxes."""
    names = [{"id": 3, "name": "shirt"}, {"id": 5, "name": "lower"}, {"id": 9, "name": "person"}]
    images, annotations = [], []
    for number, path in enumerate(sorted(CATALOGUE.glob("*-worn.jpg"))[:5], 1):
        (folder / path.name).write_bytes(path.read_bytes())
        width, height = Image.open(path).size
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for category, top, tall in ((3, 0.15, 0.35), (5, 0.5, 0.4), (9, 0.0, 1.0)):
            box = [0.25 * width, top * height, 0.5 * width, tall * height]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": category, "bbox": box, "iscrowd": 0})
    Image.new("RGBA", (30, 40), (90, 20, 20, 0)).save(folder / "empty.png")
    images.append({"id": 6, "file_name": "empty.png", "width": 30, "height": 40})
    annotations.append({"id": 15, "image_id": 1, "category_id": 3, "bbox": [0, 0, 40, 40], "iscrowd": 1})
    (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    return folder / "boxes.json"


def test_boxes_become_a_detector_of_another_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("LOOKBOOK_DATA", str(tmp_path / "none"))
    file = coco(tmp_path)
    with pytest.raises(SystemExit, match='"person" is none of'):
        finetune_detector.read(file, {"shirt": "upper"})
    photos = finetune_detector.read(file, {"shirt": "upper", "person": ""})
    assert [photo["groups"].tolist() for photo in photos] == [[0, 1, 0], *[[0, 1]] * 4, []]
    assert [photo["counts"].tolist() for photo in photos] == [[1, 1, 0], *[[1, 1]] * 4, []]
    assert finetune_detector.held_out(photos).sum() == 1 and not finetune_detector.held_out(photos)[5]
    assert finetune_detector.held_out(photos[:5] + [photos[5]] * 8)[5:].sum() == 2
    argv = ["finetune_detector.py", "--coco", str(file), "--map", "shirt=upper", "--map", "person=", "--name", "tiny-boxes"]
    monkeypatch.setattr(sys, "argv", [*argv, "--steps", "2", "--batch", "2", "--rate", "1e-6", "--out", str(tmp_path), "--anyway"])
    finetune_detector.main()
    said = capsys.readouterr().out
    assert "6 photos, 1 without boxes, crowds ignored: 1; held out: 1 photos, 0 without boxes" in said and "mAP@0.5" in said
    manifest = json.loads((tmp_path / "tiny-boxes.json").read_text())
    shipped = json.loads((data.SHIPPED / "garment-detector.json").read_text())
    assert (manifest["name"], manifest["output"]) == ("tiny-boxes", shipped["output"])
    image = Image.open(tmp_path / photos[0]["path"].name).convert("RGB")
    before = metrics.Model(data.SHIPPED / "garment-detector.json").detect(image, 0.3)
    after = metrics.Model(tmp_path / "tiny-boxes.json").detect(image, 0.3)
    # Two tiny steps leave the model where it was: the file is that of the network that was adopted.
    assert before and after and metrics.overlaps(before[0][2][None], after[0][2][None])[0, 0] > 0.95


def test_scenes_show_photos_without_boxes_and_ignore_crowds(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "RUNS", tmp_path / "runs")
    photos = finetune_detector.read(coco(tmp_path), {"shirt": "upper", "person": ""})
    empty = finetune_detector.Scenes(photos[5:], 64, 64, 4)
    batch = empty.draw(0)
    assert (batch[2] == -1).all() and not batch[3].any()
    assert (empty.pixels[0, :400, :300] == 255).all()  # what shows nothing lies over white
    assert isinstance(empty.pixels, np.memmap) and not list((tmp_path / "runs").iterdir())
    network = finetune_detector.Detector(finetune_detector.detector.CLASSES)
    assert torch.isfinite(finetune_detector.detector.losses(network, batch, 1.0)["loss"])
    photos[0]["boxes"], photos[0]["groups"], photos[0]["counts"] = (photos[0][part][2:] for part in ("boxes", "groups", "counts"))
    batch = finetune_detector.Scenes(photos[:1], 64, 64, 16).draw(0)
    assert (batch[2] == 0).any() and not batch[3].any()


def spoilt(folder: Path, part: str, number: int, **changed) -> Path:
    """The COCO file with another entry; a value of None takes it away."""
    file = coco(folder)
    known = json.loads(file.read_text())
    entry = known[part][number] | changed
    known[part][number] = {name: value for name, value in entry.items() if value is not None}
    file.write_text(json.dumps(known), encoding="utf-8-sig")
    return file


@pytest.mark.parametrize(
    ("part", "changed", "says"),
    [
        ("annotations", {"image_id": 77}, "annotation 1 has the image_id 77, which the file does not list"),
        ("annotations", {"category_id": 77}, "annotation 1 has the category_id 77, which the file does not list"),
        ("annotations", {"image_id": "2"}, 'annotation 1 has the image_id "2", which is not'),
        ("annotations", {"iscrowd": "0"}, 'annotation 1 has the iscrowd "0", which is not'),
        ("annotations", {"category_id": 9, "bbox": None}, "annotation 1 has no bbox"),
        ("annotations", {"image_id": None}, "annotation 1 has no image_id"),
        ("annotations", {"bbox": None}, "annotation 1 has no bbox"),
        ("annotations", {"bbox": None, "id": None}, "annotation number 2 has no bbox"),
        ("annotations", {"bbox": [1, 2, float("nan"), 4]}, r"annotation 1 has the bbox \[1, 2, nan, 4\]"),
        ("annotations", {"bbox": [1, float("inf"), 3, 4]}, r"annotation 1 has the bbox \[1, inf, 3, 4\]"),
        ("annotations", {"bbox": [1, 2, -3, 4]}, "annotation 1 has the bbox"),
        ("annotations", {"bbox": [1, 2, 3, 0]}, "annotation 1 has the bbox"),
        ("annotations", {"bbox": [1, 2, 3]}, "annotation 1 has the bbox"),
        ("images", {"file_name": "nope.jpg"}, "image 2: there is no photo .*nope.jpg"),
        ("images", {"id": 1}, "image 1 is listed twice"),
        ("images", {"id": "2"}, 'image number 2 has the id "2", which is not'),
        ("images", {"id": True}, "image number 2 has the id true, which is not"),
        ("categories", {"id": 3}, "two categories have the id 3"),
        ("categories", {"name": "shirt"}, "two categories have the name shirt"),
        ("images", {"file_name": None}, "image 2 has no file_name"),
        ("categories", {"name": None}, "category number 2 has no name"),
    ],
)
def test_a_fault_of_a_coco_file_is_one_sentence(tmp_path, part, changed, says):
    with pytest.raises(SystemExit, match=f"boxes.json: {says}"):
        finetune_detector.read(spoilt(tmp_path, part, 1, **changed), {"shirt": "upper", "person": ""})


def test_a_coco_file_is_read_as_eval_detection_reads_it(tmp_path):
    names = {"shirt": "upper", "person": ""}
    with pytest.raises(SystemExit, match="boxes.json: no category is named skirt, uper, which --map gives a name"):
        finetune_detector.read(coco(tmp_path), names | {"uper": "lower", "skirt": ""})
    for flag in (1, 1.0, True):
        photos = finetune_detector.read(spoilt(tmp_path, "annotations", 1, iscrowd=flag), names)
        assert photos[0]["counts"].tolist() == [1, 0, 0]
    mask_alone = spoilt(tmp_path, "annotations", 1, iscrowd=1, bbox=None, segmentation={"counts": [3], "size": [1, 3]})
    assert finetune_detector.read(mask_alone, names)[0]["groups"].tolist() == [0, 0]


def test_an_image_that_is_there_twice_counts_once(tmp_path, capsys):
    """Under one name or two: else a held-out photo is trained on, too."""
    names = {"shirt": "upper", "person": ""}
    file = coco(tmp_path)
    known = json.loads(file.read_text())
    shown = known["images"][1]["file_name"]
    (tmp_path / "copy.jpg").write_bytes((tmp_path / shown).read_bytes())
    for image, name in ((7, shown), (8, "copy.jpg")):
        known["images"].append({"id": image, "file_name": name})
        known["annotations"] += [one | {"image_id": image} for one in known["annotations"] if one["image_id"] == 2]
    file.write_text(json.dumps(known))
    photos = finetune_detector.read(file, names)
    assert len(photos) == 6 and f"{file}: left out 2 images whose photo it lists before" in capsys.readouterr().out
    assert [photo["groups"].tolist() for photo in photos] == [[0, 1, 0], *[[0, 1]] * 4, []]
    known["annotations"].pop()  # no loss: of the category that is left out
    known["annotations"].pop()
    file.write_text(json.dumps(known))
    with pytest.raises(SystemExit, match="boxes.json: the images 2 and 8 are the same photo with other boxes"):
        finetune_detector.read(file, names)


def test_a_coco_file_may_begin_with_a_mark_and_has_to_be_one(tmp_path):
    assert len(finetune_detector.read(spoilt(tmp_path, "images", 1), {"shirt": "upper", "person": ""})) == 6
    for text, says in (("[1]", "is no COCO file"), ('{"images": [3]}', "is no COCO file"), ("{", "cannot be read as JSON")):
        (tmp_path / "boxes.json").write_text(text)
        with pytest.raises(SystemExit, match=f"boxes.json: {says}"):
            finetune_detector.read(tmp_path / "boxes.json", {})
    with pytest.raises(SystemExit, match="nope.json: cannot be read"):
        finetune_detector.read(tmp_path / "nope.json", {})


def test_a_category_is_mapped_to_one_of_the_models(monkeypatch, capsys):
    assert finetune_detector.mapping("person=") == ("person", "")
    monkeypatch.setattr(sys, "argv", ["finetune_detector.py", "--coco", "boxes.json", "--map", "upper=accessory"])
    with pytest.raises(SystemExit):
        finetune_detector.main()
    assert 'argument --map: "accessory" in upper=accessory is none of upper, lower' in capsys.readouterr().err
