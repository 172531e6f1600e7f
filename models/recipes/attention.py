"""Recipe of `attention-texture`: a global branch beside a recurrent attention branch over textures, trained on garment tags.

    python attention.py train --plan cpu       # or paper, the default; continues a stopped run
    python attention.py export                 # models/optional/attention-texture.{onnx,json}
    python attention.py eval                   # top-k retrieval beside the other embedders, from the exported files
    python attention.py regions PHOTO… --out PNG   # where it looks

Owns: data, losses and schedule of this model. Must not know: the other recipes. Invariant: no validation photo is trained on.

Tags: of a street photo's window the fine classes of the boxes inside it (CCP), of a closet photo its label in the same words.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path

import attend
import augment
import data
import export
import loop
import metrics
import numpy as np
import retrieval
import run_files
import shop
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

NAME = "attention-texture"
SEED = 33
RARE = 10  # tags of fewer street boxes are left out
INSIDE = 0.6  # share of a box that must lie in a window for its tag to count
CLOSET_SIZE = (192, 256)  # width, height of a cached closet photo
CLOSET_TAGS = {
    "T-Shirt": "t-shirt", "Pants": "pants", "Shoes": "shoes", "Shirt": "shirt", "Dress": "dress", "Shorts": "shorts", "Outwear": "jacket",
    "Hat": "hat", "Skirt": "skirt", "Blazer": "blazer", "Hoodie": "sweatshirt", "Top": "top", "Blouse": "blouse", "Longsleeve": "sweater",
    "Undershirt": "top", "Polo": "t-shirt",
}  # fmt: skip
DIVERSITY_WEIGHT, LOCATION_WEIGHT = 0.01, 0.01  # gamma 1, gamma 2
# `small`: the share of the steps that see photos at half the width and height, a quarter of the work.
SCHEDULES = {"paper": {"batch": 64, "epochs": 40, "rate": 1e-5, "small": 0.0}, "cpu": {"batch": 16, "epochs": 1.5, "rate": 1e-3, "small": 0.9}}


def boxes(split: str) -> list[tuple[np.ndarray, list[str]]]:
    """Per street photo, in `data.street`'s order: every fine box in pixels [n, 4], and its class."""
    by_name = data.fine_boxes(split)
    rows = [by_name.get(photo["path"].name, []) for photo in data.street(split)]
    return [(np.array([one["corners"] for one in row], np.float32).reshape(-1, 4), [one["fine"] for one in row]) for row in rows]


def tags() -> list[str]:
    counts = Counter(fine for _, names in boxes("train") for fine in names)
    return sorted(name for name, count in counts.items() if count >= RARE)


class Batches:
    """Half street windows, half closet photos."""

    def __init__(self, batch: int):
        self.batch, self.tags = batch, tags()
        self.street, photos = data.street_pixels()
        self.boxes = [(found * photo["scale"] / data.PHOTO_SIDE, names) for (found, names), photo in zip(boxes("train"), photos)]
        self.extent = np.array([[photo["width"], photo["height"]] for photo in photos]) * [[p["scale"] / data.PHOTO_SIDE] for p in photos]
        rows = [row for row in data.closet("train") if row["label"] in CLOSET_TAGS]
        self.closet = closet_pixels(rows)
        self.closet_tags = np.array([self.tags.index(CLOSET_TAGS[row["label"]]) for row in rows])

    def __len__(self) -> int:
        return len(self.street) + len(self.closet)

    def window(self, rng: np.random.Generator, photo: int) -> np.ndarray:
        """The whole photo, or one to all of its garments with a margin; x1, y1, x2, y2 in 0..1 of the canvas."""
        found, _ = self.boxes[photo]
        if len(found) == 0 or rng.random() < 0.35:
            window = np.concatenate([[0.0, 0.0], self.extent[photo]])
        else:
            chosen = found[rng.permutation(len(found))[: rng.integers(1, min(3, len(found)) + 1)]]
            window = np.concatenate([chosen[:, :2].min(0), chosen[:, 2:].max(0)])
        size = np.tile(window[2:] - window[:2], 2)
        return window + size * rng.uniform(0.0, 0.15, 4) * [-1, -1, 1, 1]

    def draw(self, step: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([SEED, step])
        count = self.batch // 2
        street = rng.choice(len(self.street), count, replace=count > len(self.street))
        closet = np.sort(rng.choice(len(self.closet), self.batch - count, replace=False))
        wanted = np.zeros((self.batch, len(self.tags)), np.float32)
        windows = np.stack([self.window(rng, photo) for photo in street])
        for row, photo, window in zip(wanted, street, windows):
            found, names = self.boxes[photo]
            low, high = np.maximum(found[:, :2], window[:2]), np.minimum(found[:, 2:], window[2:])
            inside = np.prod((high - low).clip(0), 1) / np.maximum(np.prod(found[:, 2:] - found[:, :2], 1), 1e-9)
            row[[self.tags.index(name) for name, share in zip(names, inside) if share >= INSIDE and name in self.tags]] = 1
        wanted[np.arange(count, self.batch), self.closet_tags[closet]] = 1
        near = rng.uniform(-0.05, 0.12, (self.batch - count, 4)) * [1, 1, -1, -1] + [0, 0, 1, 1]
        images = torch.cat([
            augment.windows(pixels, frame, rng.random(len(pixels)) < 0.5, np.zeros(len(pixels)), size, grey(len(pixels)))
            for pixels, frame in ((self.street[street], windows), (self.closet[closet], near))
        ])  # fmt: skip
        return augment.whiten(augment.colours(images, rng, 0.7)), torch.from_numpy(wanted)


def grey(count: int) -> Tensor:
    return torch.full((count, 3, 1, 1), data.PAD / 255)


def closet_pixels(rows: list[dict]) -> np.ndarray:
    width, height = CLOSET_SIZE

    def make() -> np.ndarray:
        pixels = np.empty((len(rows), height, width, 3), np.uint8)
        for target, row in zip(pixels, rows):
            image = Image.open(data.root() / "catalogue" / row["path"]).convert("RGB")
            target[:] = np.asarray(image.resize(CLOSET_SIZE, Image.Resampling.BILINEAR))
        return pixels

    return data.keep(data.CACHE / f"closet_{width}x{height}.npy", make)


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Squared error of the tag chances of either branch, γ₁ diversity, γ₂ localisation."""
    images, wanted = (part.to(loop.device()) for part in batch)
    with loop.autocast():
        whole, attended, places = model(images)
    whole, attended = attend.euclidean(whole.float(), wanted), attend.euclidean(attended, wanted)
    varied, located = attend.diversity(places), attend.localisation(places, model.anchors)
    loss = whole + attended + DIVERSITY_WEIGHT * varied + LOCATION_WEIGHT * located
    return {"loss": loss, "global": whole, "attention": attended, "diversity": varied, "localisation": located}


def validation(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Street validation photos as the manifest prepares them, and their tags."""
    photos = [Image.open(photo["path"]).convert("RGB") for photo in data.street("val")]
    pixels = np.stack([np.asarray(photo.resize((attend.WIDTH, attend.HEIGHT), Image.Resampling.BILINEAR)) for photo in photos])
    wanted = np.array([[name in found for name in names] for _, found in boxes("val")])
    return pixels, wanted


def evaluate(model: nn.Module, pixels: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Mean average precision of a photo's tags, of both branches together and of each alone."""
    rows = []
    with torch.inference_mode(), loop.autocast():
        for start in range(0, len(pixels), 16):
            batch = torch.from_numpy(pixels[start : start + 16]).permute(0, 3, 1, 2).float() / 255
            whole, attended, _ = model(augment.whiten(batch).to(loop.device()))
            rows.append(torch.stack([whole.float().softmax(1), attended.softmax(1)]).cpu().numpy())
    whole, attended = np.concatenate(rows, 1)
    figures = {"score": whole + attended, "global": whole, "attention": attended}
    return {name: float(np.mean([precision(*row) for row in zip(chances, wanted) if row[1].any()])) for name, chances in figures.items()}


def precision(chances: np.ndarray, wanted: np.ndarray) -> float:
    """Average precision of one photo's tags, ranked by their chances."""
    hits = wanted[np.argsort(-chances, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    plan = SCHEDULES[options.plan]
    batches = Batches(plan["batch"])
    steps = round(math.ceil(len(batches) / plan["batch"]) * plan["epochs"] * options.schedule)
    pixels, wanted = validation(batches.tags)
    fit = loop.Plan(
        NAME, steps, options.rate or plan["rate"], 0.0, seed=SEED, average=0.98, evaluate_every=200, save_every=20, threads=options.threads
    )
    network = attend.Network(len(batches.tags))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        part = 2 if step < plan["small"] * steps else 1
        return batches.draw(step, (attend.HEIGHT // part, attend.WIDTH // part))

    loop.fit(fit, network, lambda model, step: losses(model, batch(step)), lambda model: evaluate(model, pixels, wanted))


class Feature(nn.Module):
    """What is exported."""

    def __init__(self, network: attend.Network):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.feature(image)


def trained(path: Path | None) -> attend.Network:
    network = attend.Network(len(tags()))
    loop.adopt(network, path or loop.best(NAME))
    return network.eval()


def write(options: argparse.Namespace) -> None:
    dimensions = attend.CHANNELS[-1] + attend.MEMORY
    facts = {
        "version": options.version,
        "kind": "embedder",
        "description": f"{dimensions}-d feature: a global branch beside a recurrent attention branch over textures, trained on garment tags.",
        "source": "models/recipes/attention.py, trained on street photos (Apache-2.0) and closet photos (CC0)",
        "resize": "stretch",
    }
    output = {"name": "embedding", "dimensions": dimensions, "pool": "none", "normalize": True}
    export.write(NAME, Feature(trained(options.weights)), (attend.HEIGHT, attend.WIDTH), facts, output, data.OPTIONAL)


def report(_: argparse.Namespace) -> None:
    """Top-k retrieval accuracy of this and the other embedders."""
    retrieval.table()
    export.latency(metrics.Model(data.OPTIONAL / f"{NAME}.json"))


def regions(options: argparse.Namespace) -> None:
    """Each photo with the regions of all steps, one colour a step."""
    shop.check(options.photos)
    network, tiles = trained(options.weights), []
    size = (attend.WIDTH, attend.HEIGHT)
    for path in options.photos:
        photo = shop.opened(path).resize(size, Image.Resampling.BILINEAR)
        batch = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            _, _, places = network(augment.whiten(batch))
        canvas = ImageDraw.Draw(photo)
        for step, (sx, sy, tx, ty) in enumerate(places[0].tolist()):
            corners = [(tx - abs(sx), ty - abs(sy)), (tx + abs(sx), ty + abs(sy))]
            frame = [((x + 1) / 2 * size[0], (y + 1) / 2 * size[1]) for x, y in corners]
            colour = ["#e6194b", "#3cb44b", "#4363d8", "#f58231"][step % 4]
            canvas.rectangle(frame, outline=colour, width=3)
            canvas.text((frame[0][0] + 5, frame[0][1] + 3), str(step + 2), fill=colour)
        tiles.append(np.asarray(photo))
    Image.fromarray(np.concatenate(tiles, 1)).save(options.out)
    print(options.out)


def _extend(verbs) -> None:
    verb = verbs.choices["train"]
    verb.add_argument("--plan", choices=sorted(SCHEDULES), default="paper", help="batch, epochs and rate: the paper's, or a CPU's")
    verb.add_argument("--rate", type=run_files.rate, default=None, help="another rate than the plan's")
    verb = verbs.add_parser("regions", help="draw where the attention branch looks")
    verb.add_argument("photos", nargs="+", type=Path)
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--weights", type=Path, default=None)
    verb.set_defaults(run=regions)


if __name__ == "__main__":
    export.command(NAME, train, write, report, _extend)
