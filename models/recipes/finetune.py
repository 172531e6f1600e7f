"""Fine-tuning of `garment-embedder` on a shop's own photos: one command, from photos to a file for `lookbook model add`.

    python finetune.py --photos FOLDER|CSV [--name NAME] [--version VERSION] [--steps N] [--out FOLDER]

Owns: loss and schedule of the continued training, and the comparison before and after. Must not know: the data folder (none is
needed). Invariants: held-out photos are not trained on; the figures before and after come from the two ONNX files over the same
photos; a file that is worse is not written unless it is asked for.

Loss: supervised contrast (Khosla et al., 2020) of two windows of every photo over the labels, and the shipped model's own similarities
within the batch, so that what the labels do not speak of stays as it was.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import augment
import data
import embedder
import export
import integers
import loop
import metrics
import numpy as np
import run_files
import shipped
import shop
import torch
import torch.nn.functional as F
from nets import Embedder, still_norms
from PIL import Image
from torch import Tensor, nn

SEED = 13
ALIKE = 4  # photos of one label that a batch holds at most
TEMPERATURE = 0.1
KEEP = 1.0  # weight of the shipped model's similarities
PIXELS = data.GARMENT_SIZE  # width, height of a photo in training


def load() -> Embedder:
    """The shipped embedder's network with what comes after the convolutions."""
    stored = shipped.tensors(shipped.load(embedder.NAME))
    network = Embedder(len(stored["kind.bias"]), embedder.DIMENSIONS)
    network.share.copy_(torch.tensor(embedder.SHARE))
    own = network.state_dict()
    tail = {key: stored[key] for key in own if key in stored and key.split(".")[0] in ("kind", "kind_norm", "look", "look_norm")}
    network.load_state_dict(tail, strict=False)
    return network


def adopt(network: Embedder, images: Tensor) -> None:
    """The convolutions too; then the network must compute what the file computes."""
    shipped.adopt(network, embedder.NAME, images)
    model = metrics.Model(data.in_float(embedder.NAME))
    some = images[:8]
    with torch.inference_mode():
        ours = network.eval()(some).numpy()
    worst = float((ours * metrics.normalized(model.run(some.numpy()))).sum(1).min())
    if worst < 0.999:
        sys.exit(f"{embedder.NAME}.onnx is of another network than nets.py: cosine {worst:.4f} between the two")


class Batches:
    """Two windows of photos of several labels, drawn by seed and step."""

    def __init__(self, images: list[Image.Image], labels: np.ndarray, count: int):
        self.pixels = np.stack([np.asarray(image.resize(PIXELS, Image.Resampling.BILINEAR)) for image in images])
        self.labels = np.unique(labels, return_inverse=True)[1]
        self.members = [np.flatnonzero(self.labels == label) for label in range(self.labels.max() + 1)]
        self.count = min(count, len(images))

    def _choose(self, rng: np.random.Generator) -> np.ndarray:
        chosen: list[int] = []
        for label in rng.permutation(len(self.members)):
            chosen += rng.permutation(self.members[label])[:ALIKE].tolist()
            if len(chosen) >= self.count:
                break
        return np.array(chosen[: self.count])

    def _view(self, rng: np.random.Generator, chosen: np.ndarray) -> Tensor:
        count = len(chosen)
        size = np.sqrt(rng.uniform(0.6, 1.0, (count, 1))) * np.exp(rng.uniform(-0.08, 0.08, (count, 1)) * [1, -1])
        start = rng.uniform(-0.06, 0.06, (count, 2)) + rng.uniform(0, 1, (count, 2)) * (1 - size)
        fill = torch.from_numpy(rng.uniform(0.2, 1.0, (count, 1, 1, 1))).float().expand(-1, 3, 1, 1)
        images = augment.windows(
            self.pixels[chosen],
            np.concatenate([start, start + size], 1),
            rng.random(count) < 0.5,
            rng.uniform(-0.12, 0.12, count),
            embedder.INPUT,
            fill,
        )
        return augment.whiten(augment.erase(augment.colours(images, rng, 0.4), rng, 0.1, (0.03, 0.12)))

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (all first windows, then all second ones) and their labels."""
        rng = np.random.default_rng([SEED, step])
        chosen = self._choose(rng)
        images = torch.cat([self._view(rng, chosen), self._view(rng, chosen)])
        return images, torch.from_numpy(np.tile(self.labels[chosen], 2))


class Learner(nn.Module):
    """The embedder; norms keep their statistics, since a shop has few photos."""

    def __init__(self, network: Embedder):
        super().__init__()
        self.embedder = network

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        still_norms(self)
        return self

    def forward(self, images: Tensor) -> Tensor:
        with loop.autocast():
            return self.embedder(images).float()


def losses(learner: nn.Module, before: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    images, labels = (part.to(loop.device()) for part in batch)
    rows = learner(images)
    with torch.no_grad():
        old = before(images)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    logs = (rows @ rows.T / TEMPERATURE).masked_fill(itself, -1e4).log_softmax(1)
    same = (labels[:, None] == labels[None]) & ~itself
    contrast = -(logs * same).sum(1).div(same.sum(1)).mean()
    near = (old @ old.T / TEMPERATURE).masked_fill(itself, -1e4).log_softmax(1)
    keep = F.kl_div(logs, near, reduction="batchmean", log_target=True)
    return {"loss": contrast + KEEP * keep, "contrast": contrast, "keep": keep}


def _facts(options: argparse.Namespace, photos: shop.Photos, manifest: dict) -> dict:
    return {
        "photos": run_files.fingerprint(photos.folder, zip(photos.paths, photos.labels.tolist())),
        "from": manifest["sha256"],
        "steps": options.steps,
        "batch": options.batch,
        "rate": options.rate,
        "whole": options.whole,
        "seed": SEED,
    }


def run(options: argparse.Namespace) -> None:
    old = metrics.Model(data.SHIPPED / f"{embedder.NAME}.json")
    photos = shop.read(options.photos, SEED)
    shop.check(photos.paths)
    run_files.make_folder(options.out)
    name = f"finetune-{options.name}"
    run_files.begin(data.RUNS / name, _facts(options, photos, old.manifest))
    detector = None if options.whole else metrics.Model(data.SHIPPED / "garment-detector.json")
    images = shop.crops(photos, detector)
    before = shop.retrieval(old.embed(images), photos)
    trained = np.flatnonzero(~photos.held)
    batches = Batches([images[place] for place in trained], photos.labels[trained], options.batch)

    torch.manual_seed(SEED)
    network = load()
    adopt(network, batches.draw(0)[0])
    network.backbone.freeze(embedder.FROZEN)
    learner = Learner(network)
    reference = copy.deepcopy(learner).to(loop.device()).eval().requires_grad_(False)
    # No evaluation: the held-out photos choose nothing.
    plan = loop.Plan(name, options.steps, options.rate, seed=SEED, warmup=20, average=0.98, threads=options.threads)
    learner = loop.fit(plan, learner, lambda model, step: losses(model, reference, batches.draw(step))).cpu()
    path = _export(learner.embedder, options, old.manifest, data.RUNS / name / "export")
    if not options.in_float:
        path = integers.convert(path, options.name, path.parent, [images[place] for place in trained[: run_files.CALIBRATED]])
    after = shop.retrieval(metrics.Model(path).embed(images), photos)
    print(f"{photos.held.sum()} held-out photos, each among {len(photos.paths) - 1} others")
    run_files.deliver(path, options, before, after, "precision5")


def _export(network: Embedder, options: argparse.Namespace, manifest: dict, folder: Path) -> Path:
    facts = {
        "version": options.version,
        "kind": "embedder",
        "description": f"{embedder.NAME} {manifest['version']}, continued on photos of our own.",
        "source": f"models/recipes/finetune.py from {embedder.NAME} {manifest['version']} (sha256 {manifest['sha256']})",
        "licence": options.licence,
        "resize": manifest["input"]["resize"],
    }
    return export.write(run_files.file_name(options), network, embedder.INPUT, facts, manifest["output"], folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="models/train garment-embedder", description="Continue garment-embedder on your own photos.")
    parser.add_argument("--photos", type=Path, required=True, help="a folder whose sub-folders are labels, or a CSV file: path, item_id or label")
    run_files.add_options(parser, "shop-embedder")
    parser.set_defaults(steps=300, batch=32, rate=2e-4)
    parser.add_argument("--whole", action="store_true", help="embed whole photos instead of the garment found in each")
    options = parser.parse_args()
    with run_files.stoppable():
        run(options)


if __name__ == "__main__":
    main()
