"""Recipe of `garment-embedder`: a 256-d vector for one garment.

    python embedder.py train      # the stages below, each resumable
    python embedder.py export     # models/shipped/garment-embedder.{onnx,json}; --from shipped: closed forms over its own backbone
    python embedder.py eval       # the figures of the card, from the exported file

Owns: the data, losses and stages of this model. Must not know: the detector. Invariant: no myntra photo and no validation photo
is trained on.

Losses, on two random windows of every garment, some cut out onto white: cross-entropy over the 17 closet labels (a street crop knows
its group only: the sum over the group's labels); telling the garment's other window from all others by the look; cosine to the
teacher's centred feature of the nearest cached window through one linear layer; and the teacher's similarities within the batch, as
in similarity-preserving and relational distillation (Tung and Mori 2019, Park et al. 2019). Export fits `look` anew, in closed form, on
views (`views.py`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import augment
import cutouts
import data
import export
import integers
import loop
import metrics
import numpy as np
import retrieval
import shipped
import torch
import torch.nn.functional as F
import views
from nets import Embedder, still_norms
from PIL import Image
from torch import Tensor, nn

NAME = "garment-embedder"
DIMENSIONS = 256
SEED = 7
STAGES = [  # height, width, garments (each is seen twice), steps, rate
    (128, 96, 48, 900, 3e-3),
    (160, 128, 48, 2000, 2e-3),
]
CONTINUED = (160, 128, 40, 1500, 5e-4)  # the stage of `--from shipped`
FROZEN = 2  # stages of the backbone that it leaves as they are
INPUT = (160, 128)
ALIKE = 8  # garments of one label that a batch holds at least
SHARE = (1.0, 1.6, 1.0)  # weight of kind, weight of look, temperature of the label chances
LOOK_WEIGHTS = (0.6, 0.3, 0.5, 0.7, 0.5, 0.7, 0.7, 0.6)  # of the blocks that `look` reads
STEADY = 0.3  # of the mean variance between two views of a garment, added to every direction's
WHITEN = 0.4  # a component is divided by its deviation to this power


class Learner(nn.Module):
    """The embedder with what only training needs: the layer that predicts the teacher."""

    def __init__(self, labels: int, teacher: int, still: bool):
        super().__init__()
        self.embedder = Embedder(labels, DIMENSIONS)
        self.teach = nn.Linear(self.embedder.look.out_features, teacher)
        self.still = still

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        if self.still:  # batches of few labels would pull them
            still_norms(self)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with loop.autocast():
            logits, look = self.embedder.parts(images)
        logits, look = logits.float(), look.float()
        return logits, look, self.teach(look * 4.0)


class Batches:
    """Garments, two windows of each and their targets, drawn by seed and step."""

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
        self.known = np.array([item["label"] is not None for item in cache["items"]])
        frequency = self.allowed[self.known].sum(0)
        weight = (self.allowed / np.sqrt(frequency)).max(1) * np.where(self.known, 1.0, 0.5)
        self.weight = weight / weight.sum()
        names = np.array([item["label"] or item["group"] for item in cache["items"]])
        self.alike = {name: np.flatnonzero(names == name) for name in set(names)}
        self.names = names
        self.cutouts = cutouts.closet_cutouts()
        self.clear = np.isfinite(self.cutouts["box"][:, 0])
        self.size, self.count = (height, width), count

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        """Some garments, and of each some others of its label: telling those apart needs their look."""
        chosen: list[int] = []
        while len(chosen) < self.count:
            first = self.names[rng.choice(len(self.weight), p=self.weight)]
            some = rng.permutation(self.alike[first])[:ALIKE]
            chosen += [index for index in some if index not in chosen]
        return np.array(chosen[: self.count])

    def _studio(self, rng: np.random.Generator, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A closet garment cut out onto a studio's white, framed as a product photo: pixels and window."""
        ground = rng.uniform(225, 255) if rng.random() < 0.4 else 255.0
        return cutouts.framed(self.cutouts, index, ground, rng.uniform(0.03, 0.18, 4))

    def _view(self, rng: np.random.Generator, chosen: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """One window of every garment, and which cached view it is nearest to."""
        count = len(chosen)
        view = np.where(rng.random(count) < 0.6, 0, rng.integers(1, data.VIEWS, count))
        boxes = self.views[chosen, view]
        side = boxes[:, 2:] - boxes[:, :2]
        boxes = boxes + rng.uniform(-0.1, 0.1, (count, 4)) * np.concatenate([side, side], 1)
        pixels = [self.pixels[index] for index in chosen]
        studio = rng.random(count) < 0.4
        for place, index in enumerate(chosen):
            if studio[place] and index < len(self.clear) and self.clear[index]:
                pixels[place], boxes[place] = self._studio(rng, index)
                view[place] = 0
            else:
                studio[place] = False
        fill = np.where(studio, 1.0, rng.uniform(0.2, 1.0, count)).reshape(-1, 1, 1, 1)
        images = augment.windows(
            np.stack(pixels),
            boxes,
            rng.random(count) < 0.5,
            rng.uniform(-0.12, 0.12, count),
            self.size,
            torch.from_numpy(fill).float().expand(-1, 3, 1, 1),
        )
        return augment.erase(augment.colours(images, rng, 0.4), rng, 0.15, (0.03, 0.15)), view

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images (the first windows, then the second ones), allowed labels, the teacher's features."""
        rng = np.random.default_rng([SEED, step])
        chosen = self._choose(rng)
        pair = [self._view(rng, chosen) for _ in range(2)]
        teacher = np.concatenate([self.teacher[chosen, view] for _, view in pair]).astype(np.float32)
        allowed = np.concatenate([self.allowed[chosen]] * 2)
        return augment.whiten(torch.cat([images for images, _ in pair])), torch.from_numpy(allowed), torch.from_numpy(teacher)


def losses(learner: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    images, allowed, teacher = (part.to(loop.device()) for part in batch)
    logits, look, taught = learner(images)
    logs = logits.log_softmax(1)
    label = -(logs.masked_fill(~allowed, -torch.inf).logsumexp(1) * 0.95 + logs.mean(1) * 0.05).mean()
    taught = 1 - F.cosine_similarity(taught, teacher).mean()
    itself = torch.eye(len(look), dtype=torch.bool, device=look.device)
    similar = look @ look.T / 0.1
    pair = torch.arange(len(look), device=look.device).roll(len(look) // 2)
    instance = F.cross_entropy(similar.masked_fill(itself, -1e4), pair)
    near = (teacher @ teacher.T / 0.1)[~itself].view(len(look), -1)
    relation = F.kl_div(similar[~itself].view(len(look), -1).log_softmax(1), near.log_softmax(1), reduction="batchmean", log_target=True)
    hit = allowed.gather(1, logits.argmax(1, keepdim=True)).float().mean()
    loss = label + instance + 2.0 * taught + 0.5 * relation
    return {"loss": loss, "label": label, "instance": instance, "teacher": taught, "relation": relation, "hit": hit}


@torch.no_grad()
def prime(embedder: Embedder, size: tuple[int, int]) -> None:
    """What follows a backbone that is trained already: `kind` by logistic regression on the closet train photos as inference sees
    them, `look` as `settle` leaves it."""
    rows, names = data.closet(), data.labels()
    known = np.flatnonzero([row["split"] == "train" for row in rows])
    pixels, semantic = closet_pixels(*size), []
    for start in range(0, len(known), 64):
        batch = torch.from_numpy(pixels[known[start : start + 64]]).permute(0, 3, 1, 2).float() / 255
        semantic.append(embedder.eval().pooled(augment.whiten(batch))[0])
    semantic = torch.cat(semantic)
    labels = torch.tensor([names.index(rows[index]["label"]) for index in known])
    _regress(embedder.kind, _standard(embedder.kind_norm, semantic)(semantic), labels)
    settle(embedder, size)


@torch.no_grad()
def settle(embedder: Embedder, size: tuple[int, int]) -> None:
    """`look` in closed form over the final backbone, from two views of every garment. On the studio photos it is better than the
    layer that the instance loss trains (the card's table)."""
    pooled = [[embedder.eval().pooled(view)[1] for view in pair] for pair in views.pairs(size)]
    cut, photo = (torch.cat(rows) for rows in zip(*pooled))
    norm = _standard(embedder.look_norm, cut)
    scale = torch.cat([torch.full((width,), w / width**0.5) for width, w in zip(embedder.blocks, LOOK_WEIGHTS)])
    cut, photo = norm(cut) * scale, norm(photo) * scale
    embedder.look.weight.copy_(components(cut, cut - photo, embedder.look.out_features).T * scale)
    embedder.look.bias.zero_()


def components(rows: Tensor, apart: Tensor, count: int) -> Tensor:
    """[width, count]: half-whitened principal components of the centred `rows` after within-class covariance normalisation (Hatch,
    Kajarekar and Stolcke, Interspeech 2006) with a garment as the class: a direction is divided by the deviation of `apart`, the
    differences of two views of one garment, so that what a view adds (ground, light, framing) counts less."""
    spread, turn = torch.linalg.eigh(apart.T @ apart / len(apart))
    steady = turn / (spread.clamp_min(0) + STEADY * spread.mean()).sqrt()
    seen = rows @ steady
    spread, turn = torch.linalg.eigh(seen.T @ seen / len(seen))
    spread, turn = spread.flip(0)[:count], turn.flip(1)[:, :count]
    return steady @ turn * (spread / spread[0]) ** (-WHITEN / 2)


def _standard(norm: nn.BatchNorm1d, rows: Tensor) -> nn.BatchNorm1d:
    """The norm with the statistics of these rows."""
    norm.running_mean.copy_(rows.mean(0))
    norm.running_var.copy_(rows.var(0))
    return norm


@torch.enable_grad()
def _regress(layer: nn.Linear, rows: Tensor, labels: Tensor) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=150)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(rows), labels, label_smoothing=0.05) + 0.06 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)


def closet_pixels(height: int, width: int) -> np.ndarray:
    """Every closet photo, stretched as the manifest says: u8 [n, height, width, 3]."""

    def make() -> np.ndarray:
        rows = data.closet()
        pixels = np.empty((len(rows), height, width, 3), np.uint8)
        for target, row in zip(pixels, rows):
            image = Image.open(data.root() / "catalogue" / row["path"]).convert("RGB")
            target[:] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return pixels

    return data.keep(data.CACHE / f"val_closet_{width}x{height}.npy", make)


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


def _run(name: str, stage: tuple, start: Path | None, options: argparse.Namespace) -> Path:
    height, width, count, steps, rate = stage
    torch.manual_seed(SEED)
    batches = Batches(height, width, count)
    learner = Learner(len(batches.labels), batches.teacher.shape[2], still=options.start == "shipped")
    learner.embedder.share.copy_(torch.tensor(SHARE))
    if start is not None:
        loop.adopt(learner, start)
    fresh = options.start == "shipped" and not (data.RUNS / name / "last.pt").exists()
    if fresh:
        shipped.adopt(learner.embedder, NAME, batches.draw(0)[0])
        prime(learner.embedder, (height, width))
    if options.start == "shipped":
        learner.embedder.backbone.freeze(FROZEN)
    plan = loop.Plan(name, round(steps * options.schedule), rate, seed=SEED, evaluate_every=250, threads=options.threads)
    closet_pixels(height, width)
    if fresh:
        print(f"{name}: before training {evaluate(learner, (height, width))}", flush=True)
    loop.fit(plan, learner, lambda model, step: losses(model, batches.draw(step)), lambda model: evaluate(model, (height, width)))
    return loop.best(name)


def train_first(options: argparse.Namespace) -> Path:
    """The weights of the first stage, trained as far as they are not."""
    return _run("embedder-1", STAGES[0], None, options)


def train(options: argparse.Namespace) -> None:
    if options.start == "shipped":
        _run("embedder-continued", CONTINUED, None, options)
        return
    start = train_first(options)
    for number, stage in enumerate(STAGES[1 : options.stages], 2):
        start = _run(f"embedder-{number}", stage, start, options)


def write(options: argparse.Namespace) -> None:
    embedder = Embedder(len(data.labels()), DIMENSIONS)
    if options.start == "shipped":
        shipped.adopt(embedder, NAME, torch.cat(next(views.pairs(INPUT))))
        prime(embedder, INPUT)
    else:
        continued = loop.best("embedder-continued")
        best = continued if continued.exists() else loop.best(f"embedder-{len(STAGES)}")
        loop.adopt(embedder, options.weights or best, "embedder.")
        settle(embedder, INPUT)
    embedder.share.copy_(torch.tensor(SHARE))
    export.write(
        data.in_float(NAME).stem,
        embedder.eval(),
        INPUT,
        {
            "version": options.version,
            "kind": "embedder",
            "description": "256-d vector of one garment: crops of people's photos, flat-lays and product shots.",
            "source": "models/recipes/embedder.py, trained on the closet photos (CC0) and street crops, distilled from MobileNetV2",
            "resize": "stretch",
        },
        {"name": "embedding", "dimensions": DIMENSIONS, "pool": "none", "normalize": True},
        data.OPTIONAL,
    )
    integers.ship(NAME)


def report(_: argparse.Namespace) -> None:
    """Closet precision@5 and, never trained on, `family` retrieval over myntra, of the exported file."""
    model = metrics.Model(data.SHIPPED / f"{NAME}.json")

    def rows(paths: list[str]) -> np.ndarray:
        return model.embed([Image.open(data.root() / path).convert("RGB") for path in paths])

    closet = rows([f"catalogue/{row['path']}" for row in data.closet()])
    print(f"closet val label precision@5: {closet_precision(closet):.4f}")
    studio, queries, items = retrieval.family()
    first, fifth = metrics.recall_at([1, 5], queries, rows(studio), items)
    print(f"family retrieval on myntra ({len(queries)} queries, {len(studio)} photos): R@1 {first:.4f}, R@5 {fifth:.4f}")
    export.latency(model)


def extend(verbs) -> None:
    text = "fit kind and look anew over the shipped file's backbone, without training"
    verbs.choices["export"].add_argument("--from", dest="start", choices=["runs", "shipped"], default="runs", help=text)


if __name__ == "__main__":
    export.command(NAME, train, write, report, extend)
