"""What `look` is made of. Needs PyTorch, no data."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the closed form is tested where PyTorch is installed: .lookbook/train-venv/bin/pytest models/recipes")
sys.path.insert(0, str(Path(__file__).parent))
import embedder  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402


def found(rows: torch.Tensor, others: torch.Tensor) -> float:
    """Share of the rows whose own other view is nearest by cosine."""
    return ((F.normalize(rows) @ F.normalize(others).T).argmax(1) == torch.arange(len(rows))).float().mean().item()


def test_the_closed_form_looks_past_what_a_view_adds():
    """200 garments of 12 values, seen twice; what the photo adds in 3 of 40 directions is four times as strong."""
    drawn = torch.Generator().manual_seed(1)
    mix = torch.linalg.qr(torch.randn(40, 40, generator=drawn))[0]
    garment = torch.randn(200, 12, generator=drawn)

    def seen() -> torch.Tensor:
        added = 4 * torch.randn(200, 3, generator=drawn)
        return torch.cat([garment, added, 0.1 * torch.randn(200, 25, generator=drawn)], 1) @ mix

    cut, photo = seen(), seen()
    mean = cut.mean(0)
    axes = embedder.components(cut - mean, cut - photo, 15)
    assert axes.shape == (40, 15)
    assert found(cut - mean, photo - mean) < 0.3
    assert found((cut - mean) @ axes, (photo - mean) @ axes) > 0.9
    again, other = seen() - mean, seen() - mean  # views that it was not fitted on
    assert found(again @ axes, other @ axes) > 0.9
