"""Garments cut from the closet photos: weak boxes and masks, and composed scenes of them on plain and patterned backgrounds.

Owns: the foreground estimate and the composition. Must not know: networks. Invariant: only closet train photos (CC0) are cut, and a
photo whose foreground is unclear gives no cut-out.

The estimate: a Gaussian over the border's pixels, the Mahalanobis distance of every pixel to it, Otsu's threshold, then the longest
run of rows and columns that hold foreground.
"""

from __future__ import annotations

import data
import numpy as np
from PIL import Image, ImageFilter


def _otsu(values: np.ndarray) -> float:
    counts, edges = np.histogram(values, 64)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middle)
    low, high = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    return float(middle[(below * above * (low - high) ** 2).argmax()])


def _longest_run(filled: np.ndarray) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], filled.astype(np.int8), [0]])))
    starts, ends = edges[::2], edges[1::2]
    if len(starts) == 0:
        return 0, 0
    longest = (ends - starts).argmax()
    return int(starts[longest]), int(ends[longest])


def foreground(pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int, int]] | None:
    """Soft mask u8 [H, W] and box x1, y1, x2, y2 of the garment, or None where it does not stand out."""
    height, width = pixels.shape[:2]
    smooth = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5)), np.float32)
    rim = max(3, width // 24)
    border = np.concatenate([smooth[:rim].reshape(-1, 3), smooth[:, :rim].reshape(-1, 3), smooth[:, -rim:].reshape(-1, 3)])
    spread = np.cov(border.T) + 40.0 * np.eye(3)
    away = smooth - np.median(border, 0)
    distance = np.sqrt(np.maximum((away @ np.linalg.inv(spread) * away).sum(2), 0))
    distance = np.minimum(distance, 12.0)
    mask = distance > max(_otsu(distance), 2.0)
    mask = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MedianFilter(7)))
    solid = mask > 127
    y1, y2 = _longest_run(solid.mean(1) > 0.06)
    if y2 - y1 < height // 6:
        return None
    x1, x2 = _longest_run(solid[y1:y2].mean(0) > 0.06)
    if x2 - x1 < width // 6:
        return None
    inside = np.zeros_like(mask)
    inside[y1:y2, x1:x2] = mask[y1:y2, x1:x2]
    share = solid[y1:y2, x1:x2].mean()
    touched = (inside[:rim] > 127).mean() + (inside[:, :rim] > 127).mean() + (inside[:, -rim:] > 127).mean()
    covered = (x2 - x1) * (y2 - y1) / (width * height)
    if share < 0.42 or touched > 0.5 or covered < 0.08:
        return None
    return np.asarray(Image.fromarray(inside).filter(ImageFilter.GaussianBlur(0.8))), (x1, y1, x2, y2)


def closet_cutouts() -> dict:
    """For the closet part of the garment cache: `group` [n] (a position in CLASSES), `box` f32 [n, 4] in 0..1 (NaN: unclear), `mask` u8."""
    cache = data.garment_pixels()
    count = len(data.closet("train"))

    def make() -> dict[str, np.ndarray]:
        masks = np.zeros(cache["pixels"].shape[:3], np.uint8)[:count]
        boxes = np.full((count, 4), np.nan, np.float32)
        width, height = data.GARMENT_SIZE
        for index in range(count):
            found = foreground(cache["pixels"][index])
            if found is not None:
                masks[index], box = found
                boxes[index] = np.array(box) / [width, height, width, height]
        return {"mask": masks, "box": boxes}

    groups = [data.CLASSES.index(i["group"]) for i in cache["items"][:count]]
    return {"pixels": cache["pixels"], "group": np.array(groups)} | data.keep(data.CACHE / "cutouts.npz", make)


def framed(cutouts: dict, index: int, ground: float, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One garment cut out onto a plain grey, as a product photo: pixels, and a window with `margin` [4] of the garment's sides round it."""
    mask = cutouts["mask"][index][..., None].astype(np.float32) / 255
    pixels = cutouts["pixels"][index] * mask + ground * (1 - mask)
    box = cutouts["box"][index]
    return pixels.astype(np.uint8), box + np.tile(box[2:] - box[:2], 2) * margin * [-1, -1, 1, 1]


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A plain, graded, striped, chequered or grainy ground, mostly light; f32 [H, W, 3] in 0..255."""
    base = rng.uniform(150, 255) + rng.uniform(-25, 25, 3) if rng.random() < 0.7 else rng.uniform(0, 255, 3)
    ground = np.broadcast_to(base, (height, width, 3)).astype(np.float32).copy()
    kind = rng.random()
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if kind < 0.25:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = (np.cos(angle) * x + np.sin(angle) * y) / width
        ground += ramp[..., None] * rng.uniform(-60, 60) + rng.uniform(-8, 8, 3) * ramp[..., None]
    elif kind < 0.45:
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
        wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period)
        if rng.random() < 0.4:
            wave = wave * np.sin((np.cos(angle) * y - np.sin(angle) * x) * 2 * np.pi / period)
        wave = np.sign(wave) if rng.random() < 0.5 else wave
        ground += wave[..., None] * rng.uniform(-25, 25, 3)
    elif kind < 0.6:
        split = int(height * rng.uniform(0.55, 0.95))
        ground[split:] += rng.uniform(-60, 60)
    if rng.random() < 0.4:
        ground += rng.normal(0, rng.uniform(1, 10), (height, width, 1))
    return ground


def paste(canvas: np.ndarray, cutouts: dict, index: int, box: tuple[float, float, float, float], rng: np.random.Generator) -> bool:
    """Put one cut-out into `box` (pixels) of the canvas, sometimes as a flat, drawn-looking shape."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = (int(round(value)) for value in box)
    w, h = x2 - x1, y2 - y1
    if w < 6 or h < 6 or x1 < 0 or y1 < 0 or x2 > width or y2 > height:
        return False
    full = data.GARMENT_SIZE
    inner = tuple(cutouts["box"][index] * [*full, *full])
    colour = Image.fromarray(cutouts["pixels"][index]).resize((w, h), Image.Resampling.BILINEAR, box=inner)
    alpha = Image.fromarray(cutouts["mask"][index]).resize((w, h), Image.Resampling.BILINEAR, box=inner)
    colour, alpha = np.asarray(colour, np.float32), np.asarray(alpha, np.float32)[..., None] / 255
    look = rng.random()
    if look < 0.25:
        mean = (colour * alpha).sum((0, 1)) / max(alpha.sum(), 1)
        hue = rng.uniform(0, 255, 3) if rng.random() < 0.5 else mean
        texture = (colour - mean) * rng.uniform(0, 0.5)
        colour = hue + texture
        if rng.random() < 0.4:
            ys, xs = np.mgrid[0:h, 0:w]
            band = np.sin((xs * rng.uniform(-1, 1) + ys * rng.uniform(-1, 1)) * rng.uniform(0.2, 1.2))
            colour = colour + np.sign(band)[..., None] * rng.uniform(-60, 60, 3)
    if rng.random() < 0.5:
        colour, alpha = colour[:, ::-1], alpha[:, ::-1]
    part = canvas[y1:y2, x1:x2]
    if rng.random() < 0.3:
        shade = np.asarray(Image.fromarray((alpha[..., 0] * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(4)), np.float32)
        part *= 1 - shade[..., None] / 255 * rng.uniform(0.05, 0.35)
    part[:] = part * (1 - alpha) + np.clip(colour, 0, 255) * alpha
    return True
