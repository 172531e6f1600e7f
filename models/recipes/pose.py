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
from pathlib import Path

import augment
import data
import export
import integers
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
VIEWS = 4  # of a window, over which the teacher's scores are averaged
MOVED, SCALED = 0.02, 0.06  # how far views are moved (share of the longer side) and scaled (logarithm)
CLOSET = 600  # closet train photos: mostly nobody in them
GATE = [0, 1, 2, 11, 12, 15, 16]
HEIGHT_WEIGHTS = [4.0 if point in GATE else 1.0 for point in range(17)]
LOW = 0.15  # the teacher's score of a point that is not in the picture
BATCH, STEPS, RATE = 32, 1000, 1.5e-3


def _letterbox(image: Image.Image) -> np.ndarray:
    """As the manifest and the teacher want it: centred on black."""
    spec = {"width": SIDE, "height": SIDE, "filter": "bilinear", "resize": "letterbox", "pad": [0] * 3, "scale": 1}
    return metrics.prepare(image, spec)[0].transpose(1, 2, 0).astype(np.uint8)


def _square(window: np.ndarray) -> np.ndarray:
    """x, y and side of the square that a letterboxed window fills, in the photo's pixels."""
    low, extent = window[:2], window[2:] - window[:2]
    return np.array([*(low - (extent.max() - extent) / 2), extent.max()])


class Teacher:
    def __init__(self):
        self.session = metrics.session(data.root() / TEACHER)

    def points(self, pixels: np.ndarray) -> np.ndarray:
        """[17, 3]: y, x in 0..1 of the square, score."""
        return self.session.run(None, {"serving_default_input:0": pixels[None]})[0][0, 0]

    def looks(self, image: Image.Image, window: tuple[int, int, int, int], views: int, rng: np.random.Generator) -> np.ndarray:
        """[views, 17, 3] of the window's square, from views that are moved, scaled and, every other one, mirrored."""
        window, found = np.array(window), []
        ours, extent = _square(window), window[2:] - window[:2]
        for view in range(views):
            centre = (window[:2] + window[2:]) / 2 + rng.uniform(-MOVED, MOVED, 2) * extent.max()
            half = extent / 2 * np.exp(rng.uniform(-SCALED, SCALED))
            box = np.concatenate([centre - half, centre + half]).round().astype(int)
            pixels = _letterbox(image.crop(tuple(box)))
            points = self.points(np.ascontiguousarray(pixels[:, ::-1]) if view % 2 else pixels)
            if view % 2:
                points = points[MIRRORED] * [1, -1, 1] + [0, 1, 0]
            theirs = _square(box)
            places = (points[:, 1::-1] * theirs[2] + theirs[:2] - ours[:2]) / ours[2]
            found.append(np.concatenate([places[:, ::-1], points[:, 2:]], 1))
        return np.stack(found)

    def mean(self, image: Image.Image, window: tuple[int, int, int, int], views: int, rng: np.random.Generator) -> np.ndarray:
        """[17, 3]: median place and mean score of the looks. Of one look alone the score is half chance: see the card."""
        found = self.looks(image, window, views, rng)
        return np.concatenate([np.median(found, 0)[:, :2], found.mean(0)[:, 2:]], 1).astype(np.float32)


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


_worker: dict = {}


def _looked(task: tuple[list[int], Path, list[tuple[int, int, int, int]], int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One photo's windows: pixels, and the teacher's mean points."""
    seed, path, windows, views = task
    if not _worker:
        _worker["teacher"] = Teacher()
    teacher = _worker["teacher"]
    image, rng = Image.open(path).convert("RGB"), np.random.default_rng(seed)
    windows = windows or [(0, 0, *image.size)]
    return [_letterbox(image.crop(window)) for window in windows], [teacher.mean(image, window, views, rng) for window in windows]


def _look(tasks: list[tuple]) -> dict[str, np.ndarray]:
    with data.pool() as pool:
        found = pool.map(_looked, tasks, 8)
    return {"pixels": np.concatenate([pixels for pixels, _ in found]), "points": np.concatenate([points for _, points in found])}


def seen() -> tuple[np.ndarray, np.ndarray]:
    """Training windows u8 [n, 192, 192, 3] and the teacher's mean points f32 [n, 17, 3]: the street photos' windows first, of each
    photo the whole one first, then closet photos."""

    def make() -> dict[str, np.ndarray]:
        tasks = []
        for index, photo in enumerate(data.street("train")):
            windows = [_window(np.random.default_rng([SEED, index, number]), photo, number) for number in range(WINDOWS)]
            tasks.append(([SEED, index], photo["path"], windows, VIEWS))
        closet = data.closet("train")
        for index in np.random.default_rng(SEED).permutation(len(closet))[:CLOSET]:
            tasks.append(([SEED, 1, int(index)], data.root() / "catalogue" / closet[index]["path"], [], 2))
        return _look(tasks)

    stored = data.keep(data.CACHE / "pose_means.npz", make)
    return stored["pixels"], stored["points"]


def gate(points: np.ndarray) -> np.ndarray:
    """Nose, an eye, a hip and an ankle above 0.5, of [n, 17, 3]."""
    high = points[:, :, 2] > 0.5
    return high[:, 0] & high[:, 1:3].any(1) & high[:, 11:13].any(1) & high[:, 15:17].any(1)


def draw(pixels: np.ndarray, points: np.ndarray, step: int) -> tuple[Tensor, Tensor]:
    """Windows moved by up to an eighth, scaled, half of them mirrored, in other colours."""
    rng = np.random.default_rng([SEED, step])
    chosen = rng.choice(len(pixels), BATCH, replace=False)
    target, flip = points[chosen].copy(), rng.random(BATCH) < 0.5
    half = 0.5 * np.exp(rng.uniform(-0.15, 0.15, (BATCH, 1)))
    centre = 0.5 + rng.uniform(-0.12, 0.12, (BATCH, 2))
    boxes = np.concatenate([centre - half, centre + half], 1)
    images = augment.windows(pixels[chosen], boxes, flip, np.zeros(BATCH), (SIDE, SIDE), torch.zeros(BATCH, 3, 1, 1))
    target[..., :2] = (target[..., :2] - (centre - half)[:, None, ::-1]) / (2 * half[:, None])
    target[flip] = target[flip][:, MIRRORED] * [1, -1, 1] + [0, 1, 0]
    out = ((target[..., :2] < 0) | (target[..., :2] > 1)).any(2)
    target[..., 2] = np.where(out, np.minimum(target[..., 2], LOW), target[..., 2])
    return augment.whiten(augment.colours(images, rng, 0.6)), torch.from_numpy(target)


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Heat against a bump as high as the teacher's mean score, its highest value against the score itself (most of all of the points
    that the gate reads), offsets near the point."""
    images, target = (part.to(loop.device()) for part in batch)
    with loop.autocast():
        logits, offsets = model(images)
    logits, offsets = logits.float(), offsets.float().unflatten(1, (2, len(POINTS)))
    cells = torch.arange(logits.shape[2], device=logits.device) * STRIDE
    y, x, score = (target[..., part, None, None] * (SIDE if part < 2 else 1) for part in range(3))
    away = torch.stack([(y - cells.view(-1, 1)).expand_as(logits), (x - cells.view(1, -1)).expand_as(logits)], 1)
    bump = torch.exp(-away.square().sum(1) / (2 * (0.9 * STRIDE) ** 2))
    bump = bump / bump.amax((2, 3), keepdim=True).clamp_min(0.3)  # a point between cells is no less sure
    heat = bump * score
    weight = 1 + 15 * bump
    heat = (F.binary_cross_entropy_with_logits(logits, heat, reduction="none") * weight).mean() * 10
    height = F.binary_cross_entropy_with_logits(logits.flatten(2).amax(2), target[..., 2], reduction="none")
    height = (height * torch.tensor(HEIGHT_WEIGHTS, device=height.device)).mean()
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


def validation() -> dict:
    """Street and closet validation photos (letterboxed), the teacher's points from one look, its mean over views, and how many are
    street photos."""

    def make() -> dict[str, np.ndarray]:
        street = [photo["path"] for photo in data.street("val")]
        tasks = [([SEED, 2, index], path_of, [], 16) for index, path_of in enumerate(street)]
        tasks += [([SEED, 3, index], data.root() / "catalogue" / row["path"], [], 2) for index, row in enumerate(data.closet("val"))]
        seen, teacher = _look(tasks), Teacher()
        once = np.stack([teacher.points(one) for one in seen["pixels"]])
        return {"pixels": seen["pixels"], "once": once, "mean": seen["points"], "street": np.array(len(street))}

    return data.keep(data.CACHE / "val_pose_means.npz", make)


def cut() -> tuple[np.ndarray, np.ndarray]:
    """Windows of street validation photos, drawn as in training (heads and feet are cut off in many), and the teacher's mean points."""

    def make() -> dict[str, np.ndarray]:
        tasks = []
        for index, photo in enumerate(data.street("val")):
            windows = [_window(np.random.default_rng([SEED, 4, index, number]), photo, number) for number in range(1, WINDOWS)]
            tasks.append(([SEED, 4, index], photo["path"], windows, VIEWS))
        return _look(tasks)

    stored = data.keep(data.CACHE / "val_pose_windows.npz", make)
    return stored["pixels"], stored["points"]


def compare(ours: np.ndarray, val: dict) -> dict[str, float]:
    """Agreement on the gate with one look and with the mean of the teacher's looks, and how near the points are where it is sure."""
    street, means = int(val["street"]), val["mean"]
    once, mean = gate(ours) == gate(val["once"]), gate(ours) == gate(means)
    sure = means[:street, :, 2] > 0.5
    distance = np.linalg.norm(ours[:street, :, :2] - means[:street, :, :2], axis=2)
    height = np.abs(ours[:street, GATE, 2] - means[:street, GATE, 2]).mean()
    return {
        "score": float(mean[:street].mean() - height),
        "once": float(once.mean()),
        "once_street": float(once[:street].mean()),
        "mean": float(mean.mean()),
        "mean_street": float(mean[:street].mean()),
        "closet": float(once[street:].mean()),
        "passes": float(gate(ours)[:street].mean()),
        "height": float(height),
        "near": float((distance[sure] < 0.05).mean()),
    }


def evaluate(model: nn.Module) -> dict[str, float]:
    val, rows = validation(), []
    with torch.inference_mode():
        for start in range(0, len(val["pixels"]), 32):
            batch = torch.from_numpy(val["pixels"][start : start + 32]).permute(0, 3, 1, 2).float() / 255
            logits, offsets = model(augment.whiten(batch).to(loop.device()))
            rows.append(_read(logits.sigmoid().cpu().numpy(), offsets.cpu().numpy()))
    return compare(np.concatenate(rows), val)


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    pixels, points = seen()
    model = PoseNet(len(POINTS))
    shipped.adopt(model.trunk, "garment-detector", draw(pixels, points, 0)[0], prefix=True)
    model.trunk.freeze()
    plan = loop.Plan(
        "pose", round(STEPS * options.schedule), RATE, seed=SEED, average=0.99, evaluate_every=100, save_every=50, threads=options.threads
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
    loop.adopt(model, options.weights or loop.best("pose"))
    export.write(
        data.in_float(NAME).stem,
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
        data.OPTIONAL,
    )
    integers.ship(NAME)


def points_of(model: metrics.Model, pixels: np.ndarray) -> np.ndarray:
    rows = []
    for one in pixels:
        values, _ = model.prepare(Image.fromarray(one))
        rows.append(_read(*model.session.run(None, {"image": values[None]}))[0])
    return np.stack(rows)


def report(_: argparse.Namespace) -> None:
    """Agreement with the teacher on the gate over the street and closet validation photos."""
    model, val = metrics.Model(data.SHIPPED / f"{NAME}.json"), validation()
    ours, street = points_of(model, val["pixels"]), int(val["street"])
    figures = compare(ours, val)
    print(f"gate, {street} street and {len(ours) - street} closet photos; agreement with the teacher's")
    print(f"  one look: {figures['once']:.4f}, street {figures['once_street']:.4f}")
    print(f"  mean of its looks: {figures['mean']:.4f}, street {figures['mean_street']:.4f}")
    for title, points in (("ours", ours), ("one look", val["once"]), ("mean of looks", val["mean"])):
        passed = gate(points)
        print(f"  passed by {title}: street {passed[:street].mean():.4f}, closet {passed[street:].mean():.4f}")
    again = (gate(val["once"]) == gate(val["mean"]))[:street].mean()
    print(f"  the teacher's one look and the mean of its own: street {again:.4f}")
    print(f"points within 5 % of the square where the teacher's mean score is above 0.5: {figures['near']:.4f}")
    pixels, theirs = cut()
    mine, wanted = gate(points_of(model, pixels)), gate(theirs)
    print(f"gate, {len(pixels)} windows of street photos, {wanted.mean():.4f} of which the teacher's mean passes: same {(mine == wanted).mean():.4f}")
    print(f"  passed of those that it passes {mine[wanted].mean():.4f}, of the others {mine[~wanted].mean():.4f}")
    export.latency(model)


def doubts(_: argparse.Namespace) -> None:
    """How far the teacher's gate agrees with itself on the street validation photos."""
    teacher, rng, val = Teacher(), np.random.default_rng(SEED), validation()
    street = int(val["street"])
    pixels, plain = val["pixels"][:street], gate(val["once"][:street])

    def same(changed: list[np.ndarray]) -> float:
        return float((gate(np.stack([teacher.points(np.ascontiguousarray(one)) for one in changed])) == plain).mean())

    noisy = [np.clip(np.rint(one + rng.normal(0, 0.5, one.shape)), 0, 255).astype(np.uint8) for one in pixels]
    print(f"noise of half a grey level: {same(noisy):.4f}")
    for title, axis in (("right", 1), ("down", 0)):
        print(f"moved {title} by a pixel: {same([np.roll(one, 1, axis) for one in pixels]):.4f}")
    print(f"mirrored: {same([one[:, ::-1] for one in pixels]):.4f}")
    photos = [Image.open(photo["path"]).convert("RGB") for photo in data.street("val")]
    looks = np.stack([teacher.looks(one, (0, 0, *one.size), 16, np.random.default_rng([SEED, 5, at])) for at, one in enumerate(photos)])
    print(f"looks 1 to 8 against 9 to 16: {(gate(looks[:, :8].mean(1)) == gate(looks[:, 8:].mean(1))).mean():.4f}")
    nose = looks[:, :, 0, 2]
    print(f"variance of the nose's score: between photos {nose.mean(1).var():.4f}, between looks at one {nose.var(1).mean():.4f}")


def _extend(verbs) -> None:
    verbs.add_parser("doubts", help="measure how far the teacher agrees with itself").set_defaults(run=doubts)


if __name__ == "__main__":
    export.command(NAME, train, write, report, _extend)
