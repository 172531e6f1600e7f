"""Recipe of `resnet-preact-64`: a small pre-activation residual network for six categories, whose 64-d feature is the embedding.

    python preact.py train      # continues a stopped run
    python preact.py export     # models/shipped/resnet-preact-64.{onnx,json}
    python preact.py eval       # top-1 error and retrieval, from the exported file

Owns: the network, data and losses of this model. Must not know: the other recipes. Invariant: no validation photo is trained on.

He et al., Identity Mappings in Deep Residual Networks, 2016, on 64×64 pixels whitened by one mean per channel (BGR) and one standard
deviation: three stages of n blocks with 16, 32 and 64 channels, global average pool, a class head and a box head; cross-entropy,
squared error of the box and L2; SGD with momentum 0.9, the rate rising to 0.1 and falling to 0.01; categories drawn equally often.
"""

from __future__ import annotations

import argparse

import augment
import cutouts
import data
import embedder
import export
import loop
import metrics
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

NAME = "resnet-preact-64"
SEED = 21
SIDE = 64
CATEGORIES = ["T-Shirt", "Longsleeve", "Pants", "Shoes", "Dress", "Outwear"]  # of the closet, many of each and unlike each other
MEAN, STD = [103.939, 116.799, 123.68], 68.76  # BGR
BLOCKS = 3  # n
BATCH, STEPS, RATE, DECAY = 64, 3000, 0.1, 1e-4
BOX_WEIGHT = 1.0


class Block(nn.Module):
    """Norm and ReLU before each of two convolutions; the identity is untouched."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.before = nn.BatchNorm2d(inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.between = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.before(x))
        kept = x if self.short is None else self.short(active)
        return kept + self.second(F.relu(self.between(self.first(active))))


class Network(nn.Module):
    def __init__(self, blocks: int = BLOCKS):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        stages, inputs = [], 16
        for stage, width in enumerate((16, 32, 64)):
            for block in range(blocks):
                stages.append(Block(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(64)
        self.classes = nn.Linear(64, len(CATEGORIES))
        self.box = nn.Linear(64, 4)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def features(self, image: Tensor) -> Tensor:
        return F.relu(self.norm(self.stages(self.stem(image)))).mean((2, 3))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(image)
        return self.classes(features), self.box(features).sigmoid()


class Feature(nn.Module):
    """What is exported: the 64-d feature, normalised."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.network.features(image), dim=1)


def whiten(pixels: np.ndarray) -> Tensor:
    """RGB u8 [n, h, w, 3] to the input: BGR, (value − mean) / std."""
    values = (pixels[..., ::-1].astype(np.float32) - np.array(MEAN, np.float32)) / np.float32(STD)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def photos(split: str) -> dict:
    """Closet photos of the six categories, 64×64, with category and (train) the garment's weak box in 0..1."""
    rows = [row for row in data.closet(split) if row["label"] in CATEGORIES]

    def make() -> dict[str, np.ndarray]:
        images = [Image.open(data.root() / "catalogue" / row["path"]).convert("RGB") for row in rows]
        pixels = np.stack([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images])
        boxes = np.full((len(rows), 4), np.nan, np.float32)
        for place, image in enumerate(images):
            found = cutouts.foreground(np.asarray(image.resize(data.GARMENT_SIZE, Image.Resampling.BILINEAR)))
            if found is not None:
                boxes[place] = np.array(found[1]) / [*data.GARMENT_SIZE, *data.GARMENT_SIZE]
        return {"pixels": pixels, "boxes": boxes}

    stored = data.keep(data.CACHE / f"{'val_' if split == 'val' else ''}preact.npz", make)
    return stored | {"category": np.array([CATEGORIES.index(row["label"]) for row in rows])}


def draw(train: dict, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each category equally often; half of the images mirrored, moved by up to a tenth."""
    rng = np.random.default_rng([SEED, step])
    wanted = rng.integers(0, len(CATEGORIES), BATCH)
    chosen = np.array([rng.choice(np.flatnonzero(train["category"] == one)) for one in wanted])
    flip = rng.random(BATCH) < 0.5
    low = rng.uniform(-0.1, 0.1, (BATCH, 2))
    high = 1 + rng.uniform(-0.1, 0.1, (BATCH, 2))
    window = np.concatenate([low, high], 1)
    grey = torch.full((BATCH, 3, 1, 1), 0.5)
    images = augment.windows(train["pixels"][chosen], window, flip, np.zeros(BATCH), (SIDE, SIDE), grey)
    values = whiten((images * 255).round().byte().permute(0, 2, 3, 1).numpy())
    boxes = (train["boxes"][chosen] - np.tile(low, 2)) / np.tile(high - low, 2)
    boxes[flip] = np.stack([1 - boxes[flip, 2], boxes[flip, 1], 1 - boxes[flip, 0], boxes[flip, 3]], 1)
    return values, torch.from_numpy(wanted), torch.from_numpy(boxes.clip(0, 1).astype(np.float32))


def losses(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    images, category, boxes = (part.to(loop.device()) for part in batch)
    with loop.autocast():
        logits, found = model(images.contiguous(memory_format=torch.channels_last))
    logits, found = logits.float(), found.float()
    known = boxes.isfinite().all(1)
    box = (found[known] - boxes[known]).square().mean()
    label = F.cross_entropy(logits, category)
    error = (logits.argmax(1) != category).float().mean()
    return {"loss": label + BOX_WEIGHT * box, "label": label, "box": box, "error": error}


def error(model: nn.Module, photos: dict) -> float:
    wrong = 0
    with torch.inference_mode():
        for start in range(0, len(photos["pixels"]), 128):
            logits, _ = model(whiten(photos["pixels"][start : start + 128]).to(loop.device()))
            wrong += int((logits.argmax(1).cpu().numpy() != photos["category"][start : start + 128]).sum())
    return wrong / len(photos["pixels"])


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    known, val = photos("train"), photos("val")
    plan = loop.Plan(
        NAME,
        round(STEPS * options.schedule),
        RATE,
        DECAY,
        seed=SEED,
        average=0.98,
        evaluate_every=250,
        threads=options.threads,
        momentum=0.9,
        floor=0.1,
    )

    def evaluate(model: nn.Module) -> dict[str, float]:
        wrong = error(model, val)
        return {"score": 1 - wrong, "error_val": wrong, "error_train": error(model, known)}

    loop.fit(plan, Network(), lambda model, step: losses(model, draw(known, step)), evaluate)


def write(options: argparse.Namespace) -> None:
    network = Network()
    loop.adopt(network, options.weights or loop.best(NAME))
    facts = {
        "version": options.version,
        "kind": "embedder",
        "description": "64-d feature of a pre-activation residual network on 64x64 pixels, trained on six categories.",
        "source": "models/recipes/preact.py, trained on the closet photos (CC0)",
        "resize": "stretch",
        "colour": "bgr",
        "scale": 1.0,
        "mean": MEAN,
        "std": [STD] * 3,
    }
    export.write(NAME, Feature(network), (SIDE, SIDE), facts, {"name": "embedding", "dimensions": 64, "pool": "none", "normalize": True})


def report(options: argparse.Namespace) -> None:
    """Top-1 error of the heads over the exported feature's network, then what the exported file retrieves."""
    best = loop.best(NAME)
    if not best.exists():
        print(f"no {best}: the top-1 error of its heads, which the exported file has not, is not measured")
    else:
        network = Network()
        network.load_state_dict(loop.read(best))
        network.eval()
        print(f"top-1 error: train {error(network, photos('train')):.4f}, val {error(network, photos('val')):.4f} ({', '.join(CATEGORIES)})")
    model = metrics.Model(data.SHIPPED / f"{NAME}.json")
    rows = model.embed([Image.open(data.root() / "catalogue" / row["path"]).convert("RGB") for row in data.closet()])
    closet = data.closet()
    kept = np.array([row["label"] in CATEGORIES for row in closet])
    queries = np.flatnonzero([row["split"] == "val" for row, keep in zip(closet, kept) if keep])
    names = np.array([row["label"] for row in closet])[kept]
    print(f"nearest neighbour's category is wrong: {1 - metrics.precision_at(1, queries, rows[kept], names):.4f} of {len(queries)} val photos")
    print(f"closet val label precision@5, all 17 labels: {embedder.closet_precision(rows):.4f}")
    export.latency(model)


if __name__ == "__main__":
    export.command(NAME, train, write, report)
