"""Recipe of `full-front-pose`: 17 COCO keypoints of the one person in the photo, for the gate `is_full_front_pose`.

    python pose.py train      # continues a stopped run
    python pose.py export     # models/shipped/full-front-pose.{onnx,json}
    python pose.py eval       # agreement with the teacher, from the exported file

Owns: windows, targets and losses of this model. Must not know: how the detector is trained (it starts from the shipped detector's
early layers). Invariant: no validation photo is trained on; no photo carries a keypoint but the teacher's.

The teacher is MoveNet Lightning (Apache-2.0). It sees windows of street and closet train photos; the network learns its heat, whose
height is the teacher's score, and the way from the cell to its point.
"""

from __future__ import annotations

import argparse
import sys

import augment
import data
import export
import loop
import metrics
import numpy as np
import shipped
import torch
import torch.nn.functional as F
from nets import PoseNet
from PIL import Image
from torch import Tensor, nn

NAME = "full-front-pose"
SEED = 9
SIDE = 192
STRIDE = 8
TEACHER = "models/movenet_lightning_192_int8.onnx"
POINTS = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
]  # fmt: skip
MIRRORED = [0] + [place + (1 if place % 2 else -1) for place in range(1, 17)]
WINDOWS = 5  # of a street photo
CLOSET = 600  # closet train photos: mostly nobody in them
BATCH, STEPS, RATE = 32, 600, 1.5e-3


def _letterbox(image: Image.Image) -> np.ndarray:
    """As the manifest and the teacher want it: centred on black."""
    model = metrics.Model.__new__(metrics.Model)
    model.manifest = {"input": {"width": SIDE, "height": SIDE, "filter": "bilinear", "resize": "letterbox", "pad": [0] * 3, "scale": 1}}
    return model.prepare(image)[0].transpose(1, 2, 0).astype(np.uint8)


class Teacher:
    def __init__(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(data.root() / TEACHER), options, providers=["CPUExecutionProvider"])

    def points(self, pixels: np.ndarray) -> np.ndarray:
        """[17, 3]: y, x in 0..1 of the square, score."""
        return self.session.run(None, {"serving_default_input:0": pixels[None]})[0][0, 0]


def _window(rng: np.random.Generator, photo: dict, number: int) -> tuple[int, int, int, int]:
    """The whole photo; then parts of a person, and persons of other sizes and places."""
    width, height = photo["width"], photo["height"]
    if number == 0:
        return 0, 0, width, height
    grow = np.exp(rng.uniform(-0.9, 0.5) if number > 2 else rng.uniform(-0.25, 0.35))
    extent = np.array([width * np.exp(rng.uniform(-0.2, 0.5)), height]) * grow
    slack = np.abs(np.array([width, height]) - extent)
    low = np.minimum(0, np.array([width, height]) - extent) + rng.uniform(0, 1, 2) * slack
    return tuple(int(value) for value in np.concatenate([low, low + extent]))


def seen() -> tuple[np.ndarray, np.ndarray]:
    """Training windows u8 [n, 192, 192, 3] and the teacher's points f32 [n, 17, 3]."""
    path = data.CACHE / "pose.npz"
    if not path.exists():
        teacher, pixels, points = Teacher(), [], []
        for index, photo in enumerate(data.street("train")):
            image = Image.open(photo["path"]).convert("RGB")
            for number in range(WINDOWS):
                rng = np.random.default_rng([SEED, index, number])
                pixels.append(_letterbox(image.crop(_window(rng, photo, number))))
                points.append(teacher.points(pixels[-1]))
        closet = data.closet("train")
        for index in np.random.default_rng(SEED).permutation(len(closet))[:CLOSET]:
            pixels.append(_letterbox(Image.open(data.root() / "catalogue" / closet[index]["path"]).convert("RGB")))
            points.append(teacher.points(pixels[-1]))
        np.savez(path.with_suffix(".part.npz"), pixels=np.stack(pixels), points=np.stack(points).astype(np.float32))
        path.with_suffix(".part.npz").rename(path)
    stored = np.load(path)
    return stored["pixels"], stored["points"]


def gate(points: np.ndarray) -> np.ndarray:
    """Nose, an eye, a hip and an ankle above 0.5, of [n, 17, 3]."""
    high = points[:, :, 2] > 0.5
    return high[:, 0] & high[:, 1:3].any(1) & high[:, 11:13].any(1) & high[:, 15:17].any(1)


def draw(pixels: np.ndarray, points: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng([SEED, step])
    chosen = rng.choice(len(pixels), BATCH, replace=False)
    images, target = torch.from_numpy(pixels[chosen]).permute(0, 3, 1, 2).float() / 255, points[chosen].copy()
    for place in np.flatnonzero(rng.random(BATCH) < 0.5):
        images[place] = images[place].flip(2)
        target[place] = target[place][MIRRORED]
        target[place, :, 1] = 1 - target[place, :, 1]
    return augment.whiten(augment.colours(images, rng, 0.6)), torch.from_numpy(target)


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Heat against a bump as high as the teacher's score, its highest value against the score itself, offsets near the point."""
    images, target = (part.to(loop.device()) for part in batch)
    with loop.autocast():
        logits, offsets = model(images)
    logits, offsets = logits.float(), offsets.float().unflatten(1, (2, len(POINTS)))
    cells = torch.arange(logits.shape[2], device=logits.device) * STRIDE
    y, x, score = (target[..., part, None, None] * (SIDE if part < 2 else 1) for part in range(3))
    away = torch.stack([(y - cells.view(-1, 1)).expand_as(logits), (x - cells.view(1, -1)).expand_as(logits)], 1)
    bump = torch.exp(-away.square().sum(1) / (2 * (0.9 * STRIDE) ** 2))
    heat = bump * score
    weight = 1 + 15 * bump
    heat = (F.binary_cross_entropy_with_logits(logits, heat, reduction="none") * weight).mean() * 10
    height = F.binary_cross_entropy_with_logits(logits.flatten(2).amax(2), target[..., 2])
    near = (bump > 0.3) * score
    offset = (F.smooth_l1_loss(offsets, away, reduction="none", beta=2.0).sum(1) * near).sum() / near.sum().clamp_min(1)
    return {"loss": heat + height + 0.1 * offset, "heat": heat, "height": height, "offset": offset}


def _read(heat: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Points [n, 17, 3] as y, x in 0..1 and score, as the manifest says a heat map is read."""
    count, points, _, width = heat.shape
    best = heat.reshape(count, points, -1).argmax(2)
    row, column = best // width, best % width
    n, p = np.arange(count)[:, None], np.arange(points)[None]
    y = (row * STRIDE + offsets[n, p, row, column]) / SIDE
    x = (column * STRIDE + offsets[n, p + points, row, column]) / SIDE
    return np.stack([y, x, heat[n, p, row, column]], 2)


def validation() -> tuple[np.ndarray, np.ndarray, int]:
    """Street and closet validation photos (letterboxed), the teacher's points, and how many are street photos."""
    path = data.CACHE / "val_pose.npz"
    if not path.exists():
        street = [photo["path"] for photo in data.street("val")]
        paths = street + [data.root() / "catalogue" / row["path"] for row in data.closet("val")]
        pixels = np.stack([_letterbox(Image.open(path).convert("RGB")) for path in paths])
        teacher = Teacher()
        np.savez(path, pixels=pixels, points=np.stack([teacher.points(one) for one in pixels]), street=len(street))
    stored = np.load(path)
    return stored["pixels"], stored["points"], int(stored["street"])


def compare(ours: np.ndarray, theirs: np.ndarray, street: int) -> dict[str, float]:
    """Agreement on the gate, and how near the points are where the teacher is sure."""
    same = gate(ours) == gate(theirs)
    sure = theirs[:street, :, 2] > 0.5
    distance = np.linalg.norm(ours[:street, :, :2] - theirs[:street, :, :2], axis=2)
    return {
        "score": float(same.mean()),
        "street": float(same[:street].mean()),
        "closet": float(same[street:].mean()),
        "passes": float(gate(theirs)[:street].mean()),
        "near": float((distance[sure] < 0.05).mean()),
    }


def evaluate(model: nn.Module) -> dict[str, float]:
    pixels, theirs, street = validation()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 32):
            batch = torch.from_numpy(pixels[start : start + 32]).permute(0, 3, 1, 2).float() / 255
            logits, offsets = model(augment.whiten(batch).to(loop.device()))
            rows.append(_read(logits.sigmoid().cpu().numpy(), offsets.cpu().numpy()))
    return compare(np.concatenate(rows), theirs, street)


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    pixels, points = seen()
    model = PoseNet(len(POINTS))
    shipped.adopt(model.trunk, "garment-detector", draw(pixels, points, 0)[0], prefix=True)
    model.trunk.freeze()
    plan = loop.Plan(
        "pose", round(STEPS * options.schedule), RATE, average=0.99, evaluate_every=200, save_every=50, threads=options.threads
    )
    loop.fit(plan, model, lambda model, step: losses(model, draw(pixels, points, step)), evaluate)


class Export(nn.Module):
    def __init__(self, model: PoseNet):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits, offsets = self.model(image)
        return logits.sigmoid(), offsets


def write(options: argparse.Namespace) -> None:
    model = PoseNet(len(POINTS))
    loop.adopt(model, options.weights or data.RUNS / "pose" / "best.pt")
    export.write(
        NAME,
        Export(model),
        (SIDE, SIDE),
        {
            "version": options.version,
            "kind": "pose",
            "description": "17 COCO keypoints of one person, for the gate of full-length frontal photos.",
            "source": "models/recipes/pose.py, distilled from MoveNet Lightning on street photos (Apache-2.0) and closet photos (CC0)",
            "resize": "letterbox",
            "pad": [0, 0, 0],
        },
        {"family": "heatmaps", "names": {"heatmaps": "heatmaps", "offsets": "offsets"}, "stride": STRIDE},
    )


def report(_: argparse.Namespace) -> None:
    """Agreement with the teacher on the gate over the street and closet validation photos."""
    model = metrics.Model(data.SHIPPED / f"{NAME}.json")
    pixels, theirs, street = validation()
    rows = []
    for one in pixels:
        values, _ = model.prepare(Image.fromarray(one))
        rows.append(_read(*model.session.run(None, {"image": values[None]}))[0])
    ours = np.stack(rows)
    figures = compare(ours, theirs, street)
    print(f"gate agreement over {len(pixels)} photos: {figures['score']:.4f}")
    print(f"  street {figures['street']:.4f} ({street} photos, the teacher passes {figures['passes']:.3f}), closet {figures['closet']:.4f}")
    both, either = (gate(ours) & gate(theirs)).sum(), (gate(ours) | gate(theirs)).sum()
    print(f"  passed by both {both}, by one only {either - both}")
    print(f"points within 5 % of the square where the teacher's score is above 0.5: {figures['near']:.4f}")
    export.latency(model)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=f"{NAME}: train, export, eval")
    verbs = parser.add_subparsers(required=True)
    export.verbs(verbs, train, write, report)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main(sys.argv[1:])
