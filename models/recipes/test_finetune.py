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
    """Drawn people with boxes: the upper half of each is a shirt, the lower half trousers; and a category that is left out."""
    names = [{"id": 3, "name": "shirt"}, {"id": 5, "name": "lower"}, {"id": 9, "name": "person"}]
    images, annotations = [], []
    for number, path in enumerate(sorted(CATALOGUE.glob("*-worn.jpg"))[:5], 1):
        (folder / path.name).write_bytes(path.read_bytes())
        width, height = Image.open(path).size
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for category, top, tall in ((3, 0.15, 0.35), (5, 0.5, 0.4), (9, 0.0, 1.0)):
            box = [0.25 * width, top * height, 0.5 * width, tall * height]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": category, "bbox": box, "iscrowd": 0})
    (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    return folder / "boxes.json"


def test_boxes_become_a_detector_of_another_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "RUNS", tmp_path / "runs")
    monkeypatch.setenv("LOOKBOOK_DATA", str(tmp_path / "none"))
    file = coco(tmp_path)
    with pytest.raises(SystemExit, match='"person" is none of'):
        finetune_detector.read(file, {"shirt": "upper"})
    photos = finetune_detector.read(file, {"shirt": "upper", "person": ""})
    assert [photo["groups"].tolist() for photo in photos] == [[0, 1]] * 5
    assert finetune_detector.held_out(5).sum() == 1
    argv = ["finetune_detector.py", "--coco", str(file), "--map", "shirt=upper", "--map", "person=", "--name", "tiny-boxes"]
    monkeypatch.setattr(sys, "argv", [*argv, "--steps", "2", "--batch", "2", "--rate", "1e-6", "--out", str(tmp_path), "--anyway"])
    finetune_detector.main()
    said = capsys.readouterr().out
    assert "5 photos with boxes, 1 held out" in said and "mAP@0.5" in said
    manifest = json.loads((tmp_path / "tiny-boxes.json").read_text())
    shipped = json.loads((data.SHIPPED / "garment-detector.json").read_text())
    assert (manifest["name"], manifest["output"]) == ("tiny-boxes", shipped["output"])
    image = Image.open(tmp_path / photos[0]["path"].name).convert("RGB")
    before = metrics.Model(data.SHIPPED / "garment-detector.json").detect(image, 0.3)
    after = metrics.Model(tmp_path / "tiny-boxes.json").detect(image, 0.3)
    # Two tiny steps leave the model where it was: the file is that of the network that was adopted.
    assert before and after and metrics.overlaps(before[0][2][None], after[0][2][None])[0, 0] > 0.95
