"""Whether `garment-embedder` finds a photo again that was altered: crop, light, background, rotation, compression.

    python robustness.py robustness [--manifest FILE]

Every closet val photo is altered and looked for among all closet photos as they are (the photo itself is one of them). Owns: the
alterations. Must not know: PyTorch, training. Invariant: an alteration depends on the photo's place and the seed alone.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import cutouts
import data
import metrics
import numpy as np
import run_files
from PIL import Image, ImageEnhance

NAME = "garment-embedder"
SEED = 31

Alter = Callable[[Image.Image, np.random.Generator], Image.Image | None]


def crop(share: float) -> Alter:
    """A window somewhere in the photo with that share of each side left out."""

    def alter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        size = np.array(image.size) * (1 - share)
        left, top = rng.uniform(0, 1, 2) * (np.array(image.size) - size)
        return image.crop((round(left), round(top), round(left + size[0]), round(top + size[1])))

    return alter


def exposure(factor: float) -> Alter:
    return lambda image, _: ImageEnhance.Brightness(image).enhance(factor)


def contrast(factor: float) -> Alter:
    return lambda image, _: ImageEnhance.Contrast(image).enhance(factor)


def warmth(red: float, blue: float) -> Alter:
    """The white balance of another lamp."""

    def alter(image: Image.Image, _: np.random.Generator) -> Image.Image:
        values = np.asarray(image, np.float32) * np.array([red, 1.0, blue], np.float32)
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))

    return alter


def turn(degrees: float) -> Alter:
    """Turned one way or the other; the corners get the colour of the border."""

    def alter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        pixels = np.asarray(image)
        rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        fill = tuple(int(value) for value in np.median(rim, axis=0))
        sign = 1 if rng.random() < 0.5 else -1
        return image.rotate(sign * degrees, Image.Resampling.BICUBIC, fillcolor=fill)

    return alter


def other_background(white: bool) -> Alter:
    """The garment cut out onto white or onto a made ground; None where it does not stand out of its own."""

    def alter(image: Image.Image, rng: np.random.Generator) -> Image.Image | None:
        small = np.asarray(image.resize(data.GARMENT_SIZE, Image.Resampling.BILINEAR))
        cut = cutouts.foreground(small)
        if cut is None:
            return None
        alpha = np.asarray(Image.fromarray(cut[0]).resize(image.size, Image.Resampling.BILINEAR), np.float32)[..., None] / 255
        ground = 255.0 if white else cutouts.background(rng, image.height, image.width)
        values = np.asarray(image, np.float32) * alpha + ground * (1 - alpha)
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))

    return alter


def compress(quality: int) -> Alter:
    def alter(image: Image.Image, _: np.random.Generator) -> Image.Image:
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=quality)
        return Image.open(stored).convert("RGB")

    return alter


def shrink(factor: float) -> Alter:
    return lambda image, _: image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), Image.Resampling.LANCZOS)


def mirror(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


ALTERATIONS: dict[str, Alter] = {
    "crop, 10 % of each side": crop(0.1),
    "crop, 20 %": crop(0.2),
    "crop, 30 %": crop(0.3),
    "light × 0.6": exposure(0.6),
    "light × 1.4": exposure(1.4),
    "contrast × 0.6": contrast(0.6),
    "warm light (red × 1.15, blue × 0.8)": warmth(1.15, 0.8),
    "cold light (red × 0.85, blue × 1.15)": warmth(0.85, 1.15),
    "cut out onto white": other_background(white=True),
    "cut out onto another ground": other_background(white=False),
    "turned by 5°": turn(5),
    "turned by 10°": turn(10),
    "turned by 20°": turn(20),
    "mirrored": mirror,
    "JPEG quality 20": compress(20),
    "a quarter of the size": shrink(0.25),
}


def ranks(gallery: np.ndarray, altered: np.ndarray, own: np.ndarray) -> np.ndarray:
    """For each altered photo the place of its own row among all rows by cosine, from 0."""
    similar = altered @ gallery.T
    return (similar > similar[np.arange(len(own)), own][:, None]).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"models/train {NAME}", description="garment-embedder: finding altered photos again")
    parser.add_argument("verb", choices=["robustness"])
    parser.add_argument("--manifest", type=Path, default=data.SHIPPED / f"{NAME}.json", help="of another embedder")
    model = metrics.Model(parser.parse_args().manifest)
    rows = data.closet()
    images = [Image.open(data.root() / "catalogue" / row["path"]).convert("RGB") for row in rows]
    gallery = model.embed(images)
    queries = np.flatnonzero([row["split"] == "val" for row in rows])
    print(f"{len(queries)} closet val photos, each looked for among {len(rows)} closet photos")
    print("| altered by | photos | R@1 | R@5 | cosine to itself, median |")
    print("|---|---|---|---|---|")
    for name, alter in ALTERATIONS.items():
        made = [(place, alter(images[place], np.random.default_rng([SEED, place]))) for place in queries]
        own = np.array([place for place, image in made if image is not None])
        altered = model.embed([image for _, image in made if image is not None])
        place = ranks(gallery, altered, own)
        cosine = np.median((altered * gallery[own]).sum(1))
        print(f"| {name} | {len(own)} | {(place < 1).mean():.3f} | {(place < 5).mean():.3f} | {cosine:.3f} |", flush=True)


if __name__ == "__main__":
    with run_files.stoppable():
        main()
