"""What the detector's scenes and losses promise. Needs PyTorch, no data."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="scenes and losses are tested where PyTorch is installed: .lookbook/train-venv/bin/pytest models/recipes")
sys.path.insert(0, str(Path(__file__).parent))
import data  # noqa: E402
import detector  # noqa: E402
import torch  # noqa: E402
from nets import Detector, DetectorExport  # noqa: E402

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
