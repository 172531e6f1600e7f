"""Every closet train garment that stands out of its photo, seen twice: cut out onto white, as a shop shows it, and as photographed.

Owns: how the two views are framed and lit. Must not know: networks. Invariant: a view depends on the seed and the garment's place
alone, and no validation photo and no myntra photo is among them.
"""

from __future__ import annotations

from collections.abc import Iterator

import augment
import cutouts
import numpy as np
import torch
from torch import Tensor

SEED = 13
BATCH = 32  # garments


def pairs(size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Whitened batches: the garments on white, and windows of the photos they were cut from. 20 seconds of CPU time, so not cached."""
    cut = cutouts.closet_cutouts()
    clear = np.flatnonzero(np.isfinite(cut["box"][:, 0]))
    for start in range(0, len(clear), BATCH):
        rng, chosen = np.random.default_rng([SEED, start]), clear[start : start + BATCH]
        white, boxes = zip(*(cutouts.framed(cut, index, 255.0, rng.uniform(0.03, 0.22, 4)) for index in chosen))
        on_white = _seen(np.stack(white), np.stack(boxes), np.ones(len(chosen)), size, rng)
        whole = np.array([0, 0, 1, 1]) + rng.uniform(-0.08, 0.08, (len(chosen), 4))
        yield on_white, _seen(cut["pixels"][chosen], whole, rng.uniform(0.5, 1, len(chosen)), size, rng)


def _seen(pixels: np.ndarray, boxes: np.ndarray, ground: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """The windows, some mirrored, slightly turned and in slightly different light; `ground` [n] is the grey beyond the photo."""
    count = len(pixels)
    fill = torch.from_numpy(ground).float().view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
    images = augment.windows(pixels, boxes, rng.random(count) < 0.5, rng.uniform(-0.07, 0.07, count), size, fill)
    return augment.whiten(augment.colours(images, rng, 0.25))
