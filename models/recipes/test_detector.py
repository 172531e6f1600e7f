"""What the detector's scenes, losses and exports promise. Needs PyTorch, no data."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="scenes and losses are tested where PyTorch is installed: .lookbook/train-venv/bin/pytest models/recipes")
sys.path.insert(0, str(Path(__file__).parent))
import attention  # noqa: E402
import data  # noqa: E402
import detector  # noqa: E402
import embedder  # noqa: E402
import export  # noqa: E402
import integers  # noqa: E402
import metrics  # noqa: E402
import nets  # noqa: E402
import torch  # noqa: E402
from nets import Detector, DetectorExport  # noqa: E402
from PIL import Image  # noqa: E402
from test_files import LARGE, full_disk  # noqa: E402

SIDE = data.PHOTO_SIDE


@pytest.fixture
def scenes() -> detector.Scenes:
    """Scenes whose only cut-out of each class is a white rectangle."""
    made = detector.Scenes.__new__(detector.Scenes)
    width, height = data.GARMENT_SIZE
    whole = np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)
    made.cutouts = {"pixels": np.full((1, height, width, 3), 255, np.uint8), "mask": np.full((1, height, width), 255, np.uint8), "box": whole}
    made.by_group = [np.array([0])] * len(data.CLASSES)
    return made


def test_a_pasted_outfit_takes_the_place_of_what_it_hides(scenes):
    photo = np.zeros((SIDE, SIDE, 3), np.uint8)
    fine = len(data.CLASSES) + data.HINTS.index("blouse")
    boxes = np.array([[150, 80, 250, 200], [160, 190, 240, 330], [170, 340, 230, 380], [150, 80, 250, 200]], np.float32)
    groups = np.array([0, 1, 3, fine])
    outfits = set()
    for seed in range(20):
        pixels, after, kinds, counts = scenes._dress(np.random.default_rng(seed), photo, boxes, groups)
        outfit = (2,) if kinds[-1] == 2 else tuple(kinds[-2:])
        assert outfit in ((2,), (1, 0)) and counts[-len(outfit) :].all()
        assert fine not in kinds and counts[list(kinds).index(3)] == 1, "shoes stay, hints of what is hidden do not"
        assert pixels.any() and not photo.any() and after.shape == (len(kinds), 4)
        outfits.add(outfit)
    assert len(outfits) == 2


def test_scenes_without_hints_say_nothing_of_them():
    torch.manual_seed(0)
    model = Detector(len(data.CLASSES), len(data.HINTS)).eval()
    box = torch.tensor([[[8.0, 8.0, 56.0, 56.0]]])
    images, counts = torch.zeros(1, 3, 64, 64), torch.ones(1, 1)
    hinted = detector.losses(model, (images, box, torch.tensor([[len(data.CLASSES)]]), counts), 1.0)
    plain = detector.losses(model, (images, box, torch.tensor([[0]]), counts), 1.0)
    assert plain["hints"] == 0 and plain["focal"] > 0 and plain["box"] > 0
    assert hinted["hints"] > 0 and hinted["box"] == 0, "a hint has no box of its own"


def test_hints_stay_behind_in_the_export():
    model = Detector(len(data.CLASSES), len(data.HINTS))
    exported = DetectorExport(model, 64, 64).eval()
    assert exported(torch.zeros(1, 3, 64, 64)).shape == (1, 4 + len(data.CLASSES), len(data.CLASSES) * 64)
    assert model.class_head.out_channels == len(model.class_head.weight) == len(data.CLASSES) + len(data.HINTS)


def test_from_nothing_the_backbone_is_that_of_the_embedders_first_stage(tmp_path, monkeypatch):
    theirs = {f"embedder.{key}": torch.randn_like(value) if value.dtype.is_floating_point else value for key, value in nets.Embedder(3).state_dict().items()}
    torch.save(theirs, tmp_path / "best.pt")
    monkeypatch.setattr(embedder, "train_first", lambda options: tmp_path / "best.pt")
    stages = []
    monkeypatch.setattr(detector, "_run", lambda name, stage, model, options: stages.append((name, model)))
    options = argparse.Namespace(start="nothing", stages=1)
    detector.train(options)
    ((name, model),) = stages
    assert name == "detector-1"
    assert all(torch.equal(value, theirs[f"embedder.backbone.{key}"]) for key, value in model.backbone.state_dict().items())


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["detector.py", *words])
    export.command(detector.NAME, None, detector.write, None, detector._extend)


def test_another_input_size_is_another_model_in_files_of_its_own(tmp_path, monkeypatch, capsys):
    class Scenes:
        def __init__(self, *_):
            pass

        def draw(self, step):
            return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(step)), None

    monkeypatch.setattr(detector, "Scenes", Scenes)
    monkeypatch.setattr(detector, "_measure", lambda model: ({}, {}, 0.34, 0.8))
    monkeypatch.setattr(integers, "train_photos", lambda garments: [Image.effect_noise((80, 90), 60).convert("RGB")] * 2)
    shipped = {path: path.read_bytes() for folder in (data.SHIPPED, data.OPTIONAL) for path in folder.glob("*")}
    again = ["export", "--from", "shipped", "--size", "96", "64"]
    with pytest.raises(SystemExit, match="--size needs --name"):
        call(monkeypatch, *again)
    with pytest.raises(SystemExit, match="--out needs --name"):
        call(monkeypatch, "export", "--out", str(tmp_path))
    for wrong in (["--name", "garment-detector"], ["--name", "garment-detector-float"], ["--name", "mine", "--size", "96", "65"]):
        with pytest.raises(SystemExit):
            call(monkeypatch, *again, *wrong)
    assert "65 is no multiple of 32" in capsys.readouterr().err
    call(monkeypatch, *again, "--name", "street-detector", "--out", str(tmp_path / "ours"))
    assert {path: path.read_bytes() for folder in (data.SHIPPED, data.OPTIONAL) for path in folder.glob("*")} == shipped
    for name in ("street-detector", "street-detector-float"):
        manifest = metrics.Model(tmp_path / "ours" / f"{name}.json").manifest  # checks the digest
        assert (manifest["name"], manifest["input"]["height"], manifest["input"]["width"]) == (name, 96, 64)
        assert manifest["version"] == json.loads((data.SHIPPED / "garment-detector.json").read_text())["version"]
        assert manifest["output"]["score_threshold"] == 0.34


def test_a_recipe_ends_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "RUNS", tmp_path)
    for option, value in (("--schedule", "nan"), ("--schedule", "-1"), ("--stages", "0"), ("--threads", "0")):
        with pytest.raises(SystemExit):
            call(monkeypatch, "train", option, value)
        assert f"argument {option}: {value} is no" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="detector-2/best.pt: there are no weights; train comes before this"):
        call(monkeypatch, "export")
    with pytest.raises(SystemExit, match="nope.pt: there are no weights"):
        call(monkeypatch, "export", "--weights", str(tmp_path / "nope.pt"))
    monkeypatch.setenv("LOOKBOOK_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["attention.py", "regions", str(tmp_path / "nope.jpg"), "--out", str(tmp_path / "out.png")])
    with pytest.raises(SystemExit, match="nope.jpg: cannot be read"):
        export.command(attention.NAME, None, None, None, attention._extend)

    def stopped(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["detector.py", "train"])
    with pytest.raises(SystemExit) as end:
        export.command(detector.NAME, stopped, None, None)
    assert end.value.code == 130 and capsys.readouterr().err == "stopped\n"


def test_a_full_disk_leaves_both_files_of_the_model_that_was_there(tmp_path):
    path = export.put(tmp_path, {"name": "mine", "sha256": ""}, b"old")
    before = path.read_bytes()
    with full_disk(), pytest.raises(SystemExit, match="mine.onnx: cannot be written"):
        export.put(tmp_path, {"name": "mine", "sha256": ""}, bytes(LARGE))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"mine.onnx": b"old", "mine.json": before}


@pytest.mark.parametrize(("recipe", "extend"), [(detector, detector._extend), (embedder, embedder.extend)])
def test_what_is_exported_from_the_shipped_file_has_its_version(monkeypatch, recipe, extend):
    given = []

    def version_of(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["recipe.py", "export", *words])
        export.command(recipe.NAME, None, lambda options: given.append(options.version), None, extend)
        return given[-1]

    assert version_of("--from", "shipped") == json.loads((data.SHIPPED / f"{recipe.NAME}.json").read_text())["version"]
    assert version_of("--from", "shipped", "--version", "7.0.0") == version_of("--version", "7.0.0") == "7.0.0"
    assert version_of() == "0.1.0"
