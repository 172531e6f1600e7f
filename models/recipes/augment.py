"""Augmentation of whole batches in a few vectorised tensor operations.

Owns: windows into images, colour changes, erasing. Must not know: labels, losses, files. Invariant: everything random comes from
the generator that is passed in.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from nets import MEAN, STD
from torch import Tensor


def windows(pixels: np.ndarray, boxes: np.ndarray, flip: np.ndarray, angle: np.ndarray, size: tuple[int, int], fill: Tensor) -> Tensor:
    """Read each image's window (x1, y1, x2, y2 in 0..1 of the image, also beyond it) into `size` (height, width).

    `pixels` u8 [n, H, W, 3]; `flip` mirrors, `angle` (radians) turns the window; outside is `fill` [n, 3, 1, 1] in 0..1.
    """
    source = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(255)
    height, width = pixels.shape[1:3]
    centre = (boxes[:, :2] + boxes[:, 2:]) - 1
    half = boxes[:, 2:] - boxes[:, :2]
    sign = np.where(flip, -1.0, 1.0)
    cos, sin = np.cos(angle), np.sin(angle)
    aspect = height / width
    theta = np.stack(
        [
            np.stack([half[:, 0] * cos * sign, -half[:, 1] * sin * aspect, centre[:, 0]], 1),
            np.stack([half[:, 0] * sin / aspect * sign, half[:, 1] * cos, centre[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(torch.from_numpy(theta).float(), [len(pixels), 3, *size], align_corners=False)
    filled = F.grid_sample(source - fill, grid, align_corners=False, padding_mode="zeros")
    return filled + fill


def colours(images: Tensor, rng: np.random.Generator, strength: float = 1.0) -> Tensor:
    """Brightness, contrast, saturation, white balance and gamma per image; sometimes grey. Values stay in 0..1."""
    count = len(images)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low * strength, high * strength, (count, *(shape or (1, 1, 1))))).float()

    images = images * draw(-0.3, 0.3).exp() * draw(-0.08, 0.08, 3, 1, 1).exp()
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * draw(-0.3, 0.3).exp()
    grey = images.mean(1, keepdim=True)
    saturation = draw(-0.4, 0.4).exp() * torch.from_numpy(rng.random((count, 1, 1, 1)) > 0.03 * strength)
    images = (grey + (images - grey) * saturation).clamp_(0.0, 1.0)
    return images.clamp_min(1e-4).pow(draw(-0.2, 0.2).exp())


def erase(images: Tensor, rng: np.random.Generator, share: float, area: tuple[float, float]) -> Tensor:
    """Paint one flat rectangle into a `share` of the images."""
    height, width = images.shape[2:]
    for image in images:
        if rng.random() < share:
            size = np.sqrt(rng.uniform(*area)) * np.exp(rng.uniform(-0.4, 0.4) * np.array([1, -1]))
            h, w = int(height * min(size[0], 0.9)), int(width * min(size[1], 0.9))
            y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            image[:, y : y + h, x : x + w] = torch.from_numpy(rng.uniform(0, 1, (3, 1, 1))).float()
    return images


def whiten(images: Tensor) -> Tensor:
    """0..1 to the manifest's (value − mean) / std, channels last in memory."""
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)
