"""Recipe of `garment-embedder`: a 256-d vector for one garment.

    python embedder.py train      # the stages below, each resumable
    python embedder.py export     # models/shipped/garment-embedder.{onnx,json}
    python embedder.py eval       # the figures of the card, from the exported file

Owns: the data, losses and stages of this model. Must not know: the detector. Invariant: no myntra photo and no validation photo
is trained on.

Losses, on one random window of every garment: cross-entropy over the 17 closet labels by cosine to learned class vectors (a street
crop knows its group only: the sum over the group's labels); cosine to the teacher's centred feature of the nearest cached window
through one linear layer; and the teacher's similarities within the batch, as in similarity-preserving and relational distillation
(Tung and Mori 2019, Park et al. 2019).
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import augment
import data
import export
import loop
import metrics
import numpy as np
import torch
import torch.nn.functional as F
from nets import Embedder
from PIL import Image
from torch import Tensor, nn

NAME = "garment-embedder"
DIMENSIONS = 256
SEED = 7
STAGES = [  # height, width, batch, steps, rate
    (128, 96, 64, 700, 3e-3),
    (160, 128, 64, 1500, 2e-3),
]
INPUT = (160, 128)


class Learner(nn.Module):
    """The embedder with what only training needs: class vectors and the layer that predicts the teacher."""

    def __init__(self, classes: int, teacher: int):
        super().__init__()
        self.embedder = Embedder(DIMENSIONS)
        self.classes = nn.Parameter(torch.randn(classes, DIMENSIONS))
        self.teach = nn.Linear(DIMENSIONS, teacher)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with loop.autocast():
            features = self.embedder.features(images)
        vectors = self.embedder.norm(self.embedder.project(features.float()))
        vectors = F.normalize(vectors, dim=1)
        return vectors, 14.0 * vectors @ F.normalize(self.classes, dim=1).T, self.teach(vectors * 4.0)


class Batches:
    """Garments, their windows and targets, drawn by seed and step."""

    def __init__(self, height: int, width: int, count: int):
        cache = data.garments()
        self.pixels, self.views = cache["pixels"], np.asarray(cache["views"])
        features = np.asarray(cache["teacher"], np.float32)
        centred = features - features[:, 0].mean(0)
        self.teacher = (centred / np.linalg.norm(centred, axis=2, keepdims=True)).astype(np.float16)
        self.labels = data.labels()
        groups = data.group_of_label()
        member = {g: [groups[label] == g for label in self.labels] for g in set(groups.values())}
        self.allowed = np.array(
            [
                [item["label"] == label for label in self.labels] if item["label"] else member[item["group"]]
                for item in cache["items"]
            ]
        )
        known = np.array([item["label"] is not None for item in cache["items"]])
        frequency = self.allowed[known].sum(0)
        weight = (self.allowed / np.sqrt(frequency)).max(1) * np.where(known, 1.0, 0.5)
        self.weight = weight / weight.sum()
        self.size, self.count = (height, width), count

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([SEED, step])
        chosen = rng.choice(len(self.weight), self.count, replace=False, p=self.weight)
        view = np.where(rng.random(self.count) < 0.5, 0, rng.integers(1, data.VIEWS, self.count))
        boxes = self.views[chosen, view]
        side = boxes[:, 2:] - boxes[:, :2]
        boxes = boxes + rng.uniform(-0.1, 0.1, (self.count, 4)) * np.concatenate([side, side], 1)
        images = augment.windows(
            np.stack([self.pixels[i] for i in chosen]),
            boxes,
            rng.random(self.count) < 0.5,
            rng.uniform(-0.2, 0.2, self.count),
            self.size,
            torch.from_numpy(rng.uniform(0.2, 1.0, (self.count, 1, 1, 1))).float().expand(-1, 3, 1, 1),
        )
        images = augment.erase(augment.colours(images, rng, 0.8), rng, 0.25, (0.03, 0.2))
        teacher = torch.from_numpy(self.teacher[chosen, view].astype(np.float32))
        return augment.whiten(images), torch.from_numpy(self.allowed[chosen]), teacher


def losses(learner: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    images, allowed, teacher = (part.to(loop.device()) for part in batch)
    vectors, logits, taught = learner(images)
    logs = logits.log_softmax(1)
    label = -(logs.masked_fill(~allowed, -torch.inf).logsumexp(1) * 0.9 + logs.mean(1) * 0.1).mean()
    taught = 1 - F.cosine_similarity(taught, teacher).mean()
    own = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    near = (teacher @ teacher.T / 0.1)[own].view(len(vectors), -1)
    ours = (vectors @ vectors.T / 0.1)[own].view(len(vectors), -1)
    relation = F.kl_div(ours.log_softmax(1), near.log_softmax(1), reduction="batchmean", log_target=True)
    hit = allowed.gather(1, logits.argmax(1, keepdim=True)).float().mean()
    return {"loss": label + 4.0 * taught + relation, "label": label, "teacher": taught, "relation": relation, "hit": hit}


def closet_pixels(height: int, width: int) -> np.ndarray:
    """Every closet photo, stretched as the manifest says: u8 [n, height, width, 3]."""
    path = data.CACHE / f"val_closet_{width}x{height}.npy"
    if not path.exists():
        rows = data.closet()
        pixels = np.empty((len(rows), height, width, 3), np.uint8)
        for target, row in zip(pixels, rows):
            image = Image.open(data.root() / "catalogue" / row["path"]).convert("RGB")
            target[:] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        np.save(path.with_suffix(".part.npy"), pixels)
        path.with_suffix(".part.npy").rename(path)
    return np.load(path, mmap_mode="r")


def evaluate(learner: Learner, size: tuple[int, int]) -> dict[str, float]:
    """Label precision@5 of the closet validation photos, from PyTorch: picks the best checkpoint."""
    pixels = closet_pixels(*size)
    rows = []
    with torch.inference_mode(), loop.autocast():
        for start in range(0, len(pixels), 128):
            batch = torch.from_numpy(pixels[start : start + 128]).permute(0, 3, 1, 2).float() / 255
            rows.append(learner.embedder(augment.whiten(batch).to(loop.device())).float().cpu())
    score = closet_precision(torch.cat(rows).numpy())
    return {"score": score}


def closet_precision(rows: np.ndarray) -> float:
    closet = data.closet()
    queries = np.flatnonzero([row["split"] == "val" for row in closet])
    return metrics.precision_at(5, queries, metrics.normalized(rows), np.array([row["label"] for row in closet]))


def train(options: argparse.Namespace) -> None:
    start = None
    for number, (height, width, count, steps, rate) in enumerate(STAGES[: options.stages], 1):
        torch.manual_seed(SEED)
        batches = Batches(height, width, count)
        learner = Learner(len(batches.labels), batches.teacher.shape[2])
        plan = loop.Plan(
            f"embedder-{number}",
            round(steps * options.schedule),
            rate,
            evaluate_every=500,
            threads=options.threads,
            start=start,
        )
        closet_pixels(height, width)
        start = loop.fit(
            plan, learner, lambda model, step: losses(model, batches.draw(step)), lambda model: evaluate(model, (height, width))
        )


def write(options: argparse.Namespace) -> None:
    learner = Learner(len(data.labels()), 1280)
    loop.adopt(learner, options.weights or data.RUNS / f"embedder-{len(STAGES)}" / "best.pt")
    export.write(
        NAME,
        learner.embedder.eval(),
        INPUT,
        {
            "version": options.version,
            "kind": "embedder",
            "description": "256-d vector of one garment: crops of people's photos, flat-lays and product shots.",
            "source": "models/recipes/embedder.py, trained on the closet photos (CC0) and street crops, distilled from MobileNetV2",
            "resize": "stretch",
        },
        {"name": "embedding", "dimensions": DIMENSIONS, "pool": "none", "normalize": True},
    )


def report(_: argparse.Namespace) -> None:
    """Closet precision@5 and, never trained on, `family` retrieval over myntra, of the exported file."""
    model = metrics.Model(data.SHIPPED / f"{NAME}.json")
    catalogue = data.root() / "catalogue"

    def rows(paths: list[Path]) -> np.ndarray:
        return model.embed([Image.open(path).convert("RGB") for path in paths])

    closet = rows([catalogue / row["path"] for row in data.closet()])
    print(f"closet val label precision@5: {closet_precision(closet):.4f}")
    with open(catalogue / "catalogue.csv", newline="") as lines:
        studio = [f"catalogue/{row['path']}" for row in csv.DictReader(lines) if row["source"].startswith("myntra")]
    with open(data.root() / "retrieval" / "retrieval.csv", newline="") as lines:
        family = {row["path"]: row for row in csv.DictReader(lines) if row["set"] == "family"}
    items = np.array([family[path]["item_id"] if path in family else path for path in studio])
    queries = np.flatnonzero([path in family and family[path]["role"] == "query" for path in studio])
    first, fifth = metrics.recall_at([1, 5], queries, rows([data.root() / path for path in studio]), items)
    print(f"family retrieval on myntra ({len(queries)} queries, {len(studio)} photos): R@1 {first:.4f}, R@5 {fifth:.4f}")
    export.latency(model)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="garment-embedder: train, export, eval")
    verbs = parser.add_subparsers(required=True)
    export.verbs(verbs, train, write, report)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
