#!/usr/bin/env python3
"""A million vectors of 256 numbers that look like the embeddings of a shop's photos: numpy, one seed, no data.

    emb256.py FOLDER [--rows 1000000] [--queries 2000]

Writes emb256.f32 and emb256.queries.f32 (little-endian float32, row after row, unit length) and emb256.truth.i32 (for each
query the 100 nearest rows, nearest first, exact). Files that are there and whole are kept.

The picture: garments are points of a latent space, drawn from a tree (category, style, garment) with axes of falling
importance. A photo is its garment moved a little along the ways that photos differ (light, crop, pose). A fixed random
network of two layers bends the latent space into the 256 numbers, as an embedder does; noise of its own is added, and the
vector is brought to unit length. Garments have from one photo to hundreds. Queries are photos like the rows, and in no row.
`likeness.py` compares the result with the shipped embedder's vectors of real photos.

Deterministic: numpy's PCG64 and one thread of additions; matrix products may differ in the last bit between processors, and
the truth is always computed from the vectors as they are.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DIMENSIONS = 256
TRUTH = 100
BLOCK = 20_000


@dataclass(frozen=True)
class Recipe:
    seed: int = 256
    categories: int = 12
    styles: int = 500
    photos_per_item: float = 40.0
    latent: int = 40
    # Standard deviation of the latent's i-th axis: (1 + i / knee) ** -decay.
    knee: float = 6.0
    decay: float = 1.2
    hidden: int = 384
    # How far a category, a style and a garment lie from what they belong to, and a photo from its garment.
    spread: tuple = (0.7, 0.5, 0.4)
    photo: float = 0.75
    photo_axes: int = 40
    noise: float = 0.05
    # What all vectors share: the length of their mean.
    middle: float = 1.0
    # Standard deviation of the logarithm of how much wider one style, garment or photo varies than another.
    uneven: float = 0.25


class Source:
    """Draws photos. The world (network, tree of garments) depends on the seed and on `rows` only."""

    def __init__(self, rows, recipe=Recipe()):
        self.recipe = recipe
        rng = np.random.default_rng([recipe.seed, 0])
        self.photos = np.random.default_rng([recipe.seed, 1])
        axes = ((1 + np.arange(recipe.latent) / recipe.knee) ** -recipe.decay).astype(np.float32)

        def normal(*shape):
            return rng.standard_normal(shape, dtype=np.float32)

        def width(count):
            return np.exp(recipe.uneven * normal(count, 1))

        places, widths = np.zeros((1, recipe.latent), np.float32), np.ones((1, 1), np.float32)
        items = max(1, round(rows / recipe.photos_per_item))
        for count, spread in zip((recipe.categories, recipe.styles, items), recipe.spread, strict=True):
            parent = rng.integers(0, len(places), count)
            places = places[parent] + spread * widths[parent] * axes * normal(count, recipe.latent)
            widths = width(count)
        self.items, self.widths = places, widths
        # Few garments have many photos, most have few.
        share = rng.lognormal(0.0, 1.0, items)
        self.shares = np.cumsum(share / share.sum())
        # What a photo changes: fewer directions than garments have, the same for all garments.
        ways = np.linalg.qr(rng.standard_normal((recipe.latent, recipe.photo_axes)))[0]
        self.ways = (recipe.photo * ways.T * axes.mean()).astype(np.float32)
        self.first = normal(recipe.latent, recipe.hidden) / np.sqrt((axes**2).sum())
        self.bias = 0.5 * normal(recipe.hidden)
        self.second = normal(recipe.hidden, DIMENSIONS) / np.sqrt(recipe.hidden)
        self.middle = recipe.middle * normal(DIMENSIONS)

    def draw(self, count):
        """float32 [count, 256], unit length."""
        rng = self.photos
        item = np.minimum(np.searchsorted(self.shares, rng.random(count)), len(self.items) - 1)
        moved = rng.standard_normal((count, len(self.ways)), dtype=np.float32) @ self.ways
        moved *= self.widths[item] * np.exp(self.recipe.uneven * rng.standard_normal((count, 1), dtype=np.float32))
        latent = self.items[item] + moved
        hidden = np.maximum(latent @ self.first + self.bias, 0)
        out = hidden @ self.second + self.middle
        out += self.recipe.noise * rng.standard_normal(out.shape, dtype=np.float32)
        return out / np.linalg.norm(out, axis=1, keepdims=True)


def nearest(rows, queries, count=TRUTH):
    """int32 [queries, count]: exact nearest rows, nearest first, ties by row number."""
    kept = min(len(rows), count + 28)  # single precision finds the candidates, double precision orders them
    best = np.empty((len(queries), 0), np.float32)
    best_ids = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        distance = np.einsum("ij,ij->i", block, block) - 2 * (queries @ block.T)
        chosen = np.argpartition(distance, min(kept, len(block)) - 1, axis=1)[:, :kept]
        best = np.concatenate([best, np.take_along_axis(distance, chosen, 1)], 1)
        best_ids = np.concatenate([best_ids, chosen + start], 1)
        if best.shape[1] > kept:
            chosen = np.argpartition(best, kept - 1, axis=1)[:, :kept]
            best, best_ids = np.take_along_axis(best, chosen, 1), np.take_along_axis(best_ids, chosen, 1)
    out = np.empty((len(queries), min(count, len(rows))), np.int32)
    for query, ids, row in zip(queries, best_ids, out, strict=True):
        ids = np.sort(ids)
        exact = ((rows[ids].astype(np.float64) - query) ** 2).sum(1)
        row[:] = ids[np.argsort(exact, kind="stable")[: len(row)]]
    return out


def load(folder, name, dtype, width):
    return np.memmap(Path(folder) / name, dtype, "r").reshape(-1, width)


def make(folder, rows, queries):
    """Writes what is missing."""
    folder = Path(folder)
    wanted = {
        "emb256.f32": rows * DIMENSIONS * 4,
        "emb256.queries.f32": queries * DIMENSIONS * 4,
        "emb256.truth.i32": queries * TRUTH * 4,
    }
    stamp = folder / "emb256.recipe"
    said = f"{Recipe()} rows={rows} queries={queries}\n"
    if stamp.exists() and stamp.read_text() == said:
        if all((folder / name).stat().st_size == size for name, size in wanted.items() if (folder / name).exists()):
            if all((folder / name).exists() for name in wanted):
                return
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    source = Source(rows)
    for name, count in (("emb256.f32", rows), ("emb256.queries.f32", queries)):
        with open(folder / name, "wb") as out:
            for start in range(0, count, BLOCK):
                source.draw(min(BLOCK, count - start)).astype("<f4").tofile(out)
    vectors = load(folder, "emb256.f32", "<f4", DIMENSIONS)
    asked = np.array(load(folder, "emb256.queries.f32", "<f4", DIMENSIONS))
    nearest(vectors, asked).astype("<i4").tofile(folder / "emb256.truth.i32")
    stamp.write_text(said)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=2_000)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.rows, arguments.queries)


if __name__ == "__main__":
    main()
