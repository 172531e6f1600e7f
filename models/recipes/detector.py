"""Recipe of `garment-detector`: boxes of upper, lower, full_body, footwear, bags and headwear.

    python detector.py train      # the stages below, each resumable
    python detector.py export     # models/shipped/garment-detector.{onnx,json}; with --name another model, which may read another size
    python detector.py eval       # the figures of the card, from the exported file

Owns: scenes, targets, losses and stages of this model. Must not know: how the embedder is trained, from whose first stage it takes the
backbone. Invariant: no validation photo is trained on.

Centre points with elliptic Gaussians as targets and box regression weighted by them: Liu et al., Training-Time-Friendly Network for
Real-Time Object Detection, 2019; penalty-reduced focal loss: Zhou et al., Objects as Points, 2019; box loss: Rezatofighi et al.,
Generalized IoU, 2019.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import augment
import cutouts
import data
import embedder
import export
import integers
import loop
import metrics
import numpy as np
import run_files
import shipped
import torch
import torch.nn.functional as F
from nets import STRIDE, Detector, DetectorExport, centres
from PIL import Image
from torch import Tensor, nn

NAME = "garment-detector"
SEED = 5
CLASSES = len(data.CLASSES)
HINTS = len(data.HINTS)
HINT_WEIGHT = 0.5  # of their class loss beside that of the classes
MOST = 24  # boxes of one scene
DRESSED = 0.15  # of street photos: cut-outs pasted over the person
CLOSET = [0.26, 0.22, 0.26, 0.22, 0.0, 0.04]  # how often a scene of one garment shows each class; no closet photo shows a bag
OUTFITS = [[0, 1], [0, 1, 3], [2, 3], [1, 3], [0, 3], [0, 1, 3]]  # from top to bottom; what is listed twice is drawn twice as often
TALL = {0: 1.0, 1: 1.1, 2: 1.8, 3: 0.4, 5: 0.3}  # a class beside the others of an outfit
STAGES = [  # height, width, batch, steps, rate, weight of the box loss, share of street photos
    (256, 192, 16, 1100, 2e-3, 2.5, 0.70),
    (320, 224, 16, 1150, 1.2e-3, 6.0, 0.70),
    (384, 256, 16, 200, 5e-4, 6.0, 0.88),
]
CONTINUED = (384, 256, 12, 10000, 1.2e-3, 6.0, 0.72)  # the stage of `--from shipped`
FROZEN = 1  # stages that it leaves as they are: a third less time a step
INPUT = (384, 256)  # multiples of 32
RADIUS = 0.54  # of the box's half side, where the Gaussian ends


def _window(rng: np.random.Generator, photo: dict, aspect: float) -> np.ndarray:
    """x1, y1, x2, y2 (canvas pixels) of the part of a street photo that a scene shows, of the input's aspect."""
    size = np.array([photo["width"], photo["height"]]) * photo["scale"]
    boxes = photo["boxes"][photo["groups"] < CLASSES] * photo["scale"]
    kind = rng.random()
    if kind < 0.5:
        low, high = np.zeros(2), size
        grow = rng.uniform(-0.12, 0.15)
    elif kind < 0.8 and len(boxes):
        some = boxes[rng.permutation(len(boxes))[: rng.integers(1, len(boxes) + 1)]]
        low, high = some[:, :2].min(0), some[:, 2:].max(0)
        grow = rng.uniform(0.1, 0.6)
    elif kind < 0.93:
        extent = size * rng.uniform(0.4, 0.9)
        low = rng.uniform(0, 1, 2) * (size - extent)
        high = low + extent
        grow = 0.0
    else:
        low, high = np.zeros(2), size
        grow = rng.uniform(0.2, 0.9)
    middle, extent = (low + high) / 2, (high - low) * (1 + grow)
    height = max(extent[1], extent[0] / aspect)
    extent = np.array([height * aspect, height]) * np.exp(rng.uniform(-0.12, 0.12) * np.array([1, -1]))
    middle = middle + rng.uniform(-0.06, 0.06, 2) * extent
    return np.concatenate([middle - extent / 2, middle + extent / 2])


def _clip(boxes: np.ndarray, limit: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut to the input (width, height), and the share of each that stays."""
    cut = np.clip(boxes, 0, [*limit, *limit])
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3), axis=1)
    return cut, np.prod(np.maximum(cut[:, 2:] - cut[:, :2], 0), axis=1) / area


class Scenes:
    """Training scenes and their boxes, drawn by seed and step."""

    dressed = DRESSED

    def __init__(self, height: int, width: int, count: int, street: float):
        self.height, self.width, self.count = height, width, count
        self.shares = {"street": street, "closet": 0.43 * (1 - street), "composed": 0.57 * (1 - street)}
        self.pixels, self.photos = data.street_pixels()
        dressed = np.array([3.0 if (photo["groups"] == 2).any() else 1.0 for photo in self.photos])
        self.weight = dressed / dressed.sum()
        self.cutouts = cutouts.closet_cutouts()
        clear = np.isfinite(self.cutouts["box"][:, 0])
        self.by_group = [np.flatnonzero(clear & (self.cutouts["group"] == group)) for group in range(CLASSES)]

    def _street(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, the window to read, and the boxes, their groups and 1 where one counts."""
        index = rng.choice(len(self.photos), p=self.weight)
        photo = self.photos[index]
        window = _window(rng, photo, self.width / self.height)
        boxes, groups = photo["boxes"] * photo["scale"], photo["groups"]
        if rng.random() < self.dressed and (groups < 3).any():
            pixels, boxes, groups, counts = self._dress(rng, self.pixels[index], boxes, groups)
            return pixels, window, boxes, groups, counts
        return self.pixels[index], window, boxes, groups, photo.get("counts", np.ones(len(boxes)))

    def _dress(
        self, rng: np.random.Generator, pixels: np.ndarray, boxes: np.ndarray, groups: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A cut-out dress, or a top and something below it, over what the person wears: pixels, boxes, groups, and 1 where a box counts.
        What is hidden is no longer there, what still shows does not count."""
        known = groups < CLASSES
        boxes, groups = boxes[known], groups[known]
        worn = boxes[groups < 3]
        low, high = worn[:, :2].min(0), worn[:, 2:].max(0)
        canvas = pixels.astype(np.float32)
        middle, width, height = (low[0] + high[0]) / 2, high[0] - low[0], high[1] - low[1]
        waist = rng.uniform(0.38, 0.5)
        parts = [(2, 0.0, rng.uniform(0.75, 1.05))] if rng.random() < 0.5 else [(1, waist, 1.0), (0, 0.0, waist + 0.06)]
        pasted, kinds = [], []
        for group, top, bottom in parts:
            cutout = rng.choice(self.by_group[group])
            wide = width * rng.uniform(0.95, 1.25) * (0.8 if group == 1 else 1.0)
            box = np.array([middle - wide / 2, low[1] + top * height, middle + wide / 2, low[1] + bottom * height])
            box = np.clip(box, 0, data.PHOTO_SIDE)
            if cutouts.paste(canvas, self.cutouts, cutout, box, rng):
                pasted.append(box)
                kinds.append(group)
        if not pasted:
            return pixels, boxes, groups, np.ones(len(boxes))
        pasted = np.array(pasted)
        whole = np.concatenate([pasted[:, :2].min(0), pasted[:, 2:].max(0)])
        hidden = _clip(boxes - np.tile(whole[:2], 2), whole[2:] - whole[:2])[1]
        stays = hidden < 0.75
        counts = np.concatenate([hidden[stays] < 0.15, np.ones(len(pasted))])
        pixels = np.clip(canvas, 0, 255).astype(np.uint8)
        return pixels, np.concatenate([boxes[stays], pasted]), np.concatenate([groups[stays], kinds]), counts

    def _closet(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One closet photo as it is, with its weak box."""
        index = rng.choice(self.by_group[rng.choice(CLASSES, p=CLOSET)])
        canvas = np.full((data.PHOTO_SIDE, data.PHOTO_SIDE, 3), data.PAD, np.uint8)
        image = self.cutouts["pixels"][index]
        height, width = image.shape[:2]
        canvas[:height, :width] = image
        box = self.cutouts["box"][index] * [width, height, width, height]
        extent = np.array([width, height]) * np.exp(rng.uniform(-0.35, 0.35)) * np.exp(rng.uniform(-0.15, 0.15, 2))
        middle = np.array([width, height]) / 2 + rng.uniform(-0.1, 0.1, 2) * extent
        window = np.concatenate([middle - extent / 2, middle + extent / 2])
        return canvas, window, box[None], self.cutouts["group"][index : index + 1], np.ones(1)

    def _composed(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cut-outs on a made background: one garment, or an outfit laid out from top to bottom."""
        canvas = cutouts.background(rng, self.height, self.width)
        outfit = [int(rng.choice(CLASSES, p=CLOSET))] if rng.random() < 0.55 else OUTFITS[rng.integers(len(OUTFITS))]
        boxes, groups = [], []
        reach = self.height * rng.uniform(0.55, 0.97)
        parts = np.array([TALL[group] for group in outfit]) * rng.uniform(0.8, 1.2, len(outfit))
        if len(outfit) == 1:
            reach = self.height * rng.uniform(0.3, 0.95)
        tall = parts / parts.sum() * reach
        top = rng.uniform(0, self.height - reach)
        across = self.width * rng.uniform(0.4, 0.6)
        for group, height in zip(outfit, tall):
            index = rng.choice(self.by_group[group])
            size = self.cutouts["box"][index] * [*data.GARMENT_SIZE, *data.GARMENT_SIZE]
            aspect = (size[2] - size[0]) / (size[3] - size[1]) * np.exp(rng.uniform(-0.15, 0.15))
            fit = height * rng.uniform(0.85, 1.0)
            wide = min(fit * aspect, self.width * 0.96)
            fit = wide / aspect
            left = np.clip(across + rng.normal(0, 0.04) * self.width - wide / 2, 0, self.width - wide)
            box = (left, top + (height - fit) / 2, left + wide, top + (height + fit) / 2)
            if cutouts.paste(canvas, self.cutouts, index, box, rng):
                boxes.append(box)
                groups.append(group)
            top += height
        return canvas, np.array(boxes, np.float32).reshape(-1, 4), np.array(groups, np.int64)

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, boxes [n, MOST, 4] in input pixels, class per box (−1: none), and 1 where a box counts (0: ignored)."""
        rng = np.random.default_rng([SEED, step])
        kinds = rng.choice(list(self.shares), self.count, p=list(self.shares.values()))
        limit = (self.width, self.height)
        photos, frames, flips, placed, images = [], [], [], [], [None] * self.count
        for kind in kinds:
            if kind == "composed":
                canvas, boxes, groups = self._composed(rng)
                image = torch.from_numpy(np.clip(canvas, 0, 255).astype(np.float32) / 255).permute(2, 0, 1)
                images[len(placed)] = image
                placed.append((boxes, groups, np.ones(len(boxes))))
                continue
            pixels, window, boxes, groups, counted = self._street(rng) if kind == "street" else self._closet(rng)
            extent = window[2:] - window[:2]
            moved = (boxes - np.tile(window[:2], 2)) / np.tile(extent, 2) * [*limit, *limit]
            flip = rng.random() < 0.5
            if flip:
                moved = np.stack([self.width - moved[:, 2], moved[:, 1], self.width - moved[:, 0], moved[:, 3]], 1)
            photos.append(pixels)
            frames.append(window / data.PHOTO_SIDE)
            flips.append(flip)
            placed.append((moved.astype(np.float32), groups, counted))
        grey = data.PAD / 255
        fill = torch.full((len(photos), 3, 1, 1), grey)
        read = augment.windows(np.stack(photos), np.stack(frames), np.array(flips), np.zeros(len(photos)), (self.height, self.width), fill)
        position = [index for index, image in enumerate(images) if image is None]
        for index, image in zip(position, read):
            images[index] = image
        batch = augment.erase(augment.colours(torch.stack(images), rng), rng, 0.15, (0.01, 0.06))
        boxes = np.zeros((self.count, MOST, 4), np.float32)
        classes = np.full((self.count, MOST), -1, np.int64)
        counts = np.zeros((self.count, MOST), np.float32)
        for index, (own, groups, counted) in enumerate(placed):
            cut, stays = _clip(own, limit)
            keep = np.flatnonzero(stays > 0.08)[:MOST]
            boxes[index, : len(keep)], classes[index, : len(keep)] = cut[keep], groups[keep]
            counts[index, : len(keep)] = (stays[keep] > 0.35) * counted[keep]
        return augment.whiten(batch), torch.from_numpy(boxes), torch.from_numpy(classes), torch.from_numpy(counts)


def _gaussians(boxes: Tensor, height: int, width: int) -> Tensor:
    """[n, m, h, w]: 1 at each box's centre cell, falling to its ellipse's rim, 0 outside."""
    cell = ((boxes[..., :2] + boxes[..., 2:]) / 2 / STRIDE).floor()
    radius = (boxes[..., 2:] - boxes[..., :2]) / 2 / STRIDE * RADIUS
    sigma = ((2 * radius.floor().clamp_min(0) + 1) / 6)[..., None, None]
    x = torch.arange(width, device=boxes.device).view(1, 1, 1, -1) - cell[..., 0, None, None]
    y = torch.arange(height, device=boxes.device).view(1, 1, -1, 1) - cell[..., 1, None, None]
    heat = torch.exp(-(x**2 / (2 * sigma[:, :, 0] ** 2) + y**2 / (2 * sigma[:, :, 1] ** 2)))
    return torch.where(heat < 0.01, 0.0, heat)


def _giou(ours: Tensor, theirs: Tensor) -> Tensor:
    """Generalised IoU of boxes given as x1, y1, x2, y2 in dimension 2 of [n, m, 4, h, w]."""
    a, b = ours.unbind(2), theirs.unbind(2)
    shared = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp_min(0) * (
        torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])
    ).clamp_min(0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    hull = (torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])) * (torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1]))
    return shared / union.clamp_min(1e-3) - (hull - union) / hull.clamp_min(1e-3)


def losses(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor], box_weight: float) -> dict[str, Tensor]:
    images, boxes, classes, counts = (part.to(loop.device()) for part in batch)
    with loop.autocast():
        logits, sides = model(images)
    logits, sides = logits.float(), sides.float()
    height, width = logits.shape[2:]
    heat = _gaussians(boxes, height, width) * (classes >= 0)[..., None, None]
    place = classes.clamp_min(0)[..., None, None].expand_as(heat)
    target = torch.zeros_like(logits).scatter_reduce(1, place, heat, "amax")
    positive = torch.zeros_like(logits).scatter_reduce(1, place, ((heat == 1) & (counts > 0)[..., None, None]).float(), "amax")
    chance = logits.sigmoid()
    hit = F.logsigmoid(logits) * (1 - chance) ** 2 * positive
    miss = F.logsigmoid(-logits) * chance**2 * (1 - target) ** 4 * (1 - positive)
    wrong, sure = -(hit + miss).sum((2, 3)), positive.sum((2, 3))
    focal = wrong[:, :CLASSES].sum() / sure[:, :CLASSES].sum().clamp_min(1)
    told = (classes >= CLASSES).any(1)  # a scene without hints says nothing of them
    hints = wrong[told, CLASSES:].sum() / sure[told, CLASSES:].sum().clamp_min(1)
    counts = counts * (classes < CLASSES)
    weight = heat * counts[..., None, None]
    weight = weight / weight.sum((2, 3), keepdim=True).clamp_min(1e-6) * counts[..., None, None]
    own = sides.gather(1, classes.clamp(0, CLASSES - 1)[:, :, None, None, None].expand(-1, -1, *sides.shape[2:]))
    middle = centres(height, width, images.device)[None, None]
    found = torch.cat([middle - own[:, :, :2], middle + own[:, :, 2:]], 2)
    giou = _giou(found, boxes[..., None, None].expand_as(found))
    box = ((1 - giou) * weight).sum() / counts.sum().clamp_min(1)
    return {"loss": focal + HINT_WEIGHT * hints + box_weight * box, "focal": focal, "hints": hints, "box": box}


def val_inputs(height: int, width: int) -> tuple[np.ndarray, list[dict], list[tuple]]:
    """Validation photos as the manifest's letterbox makes them, their rows, and each one's geometry."""
    spec = {"width": width, "height": height, "filter": "bilinear", "resize": "letterbox", "pad": [data.PAD] * 3}
    photos = data.street("val", extras=True)
    made = [metrics.prepare(Image.open(photo["path"]).convert("RGB"), spec) for photo in photos]
    return np.stack([values for values, _ in made]), photos, [geometry for _, geometry in made]


def evaluate(model: Detector, inputs: tuple[np.ndarray, list[dict], list[tuple]]) -> dict[str, float]:
    """mAP@0.5 of the four groups on the validation photos, from PyTorch: picks the best checkpoint."""
    images, photos, geometries = inputs
    decoder = DetectorExport(model, *images.shape[2:]).to(loop.device()).eval()
    found = []
    with torch.inference_mode(), loop.autocast():
        for start in range(0, len(images), 16):
            batch = augment.whiten(torch.from_numpy(images[start : start + 16])).to(loop.device())
            for raw, (sx, sy, ox, oy) in zip(decoder(batch).float().cpu().numpy(), geometries[start:]):
                kept = metrics.decode(raw, 0.01, 0.5, 100)
                found.append([(label, score, (box - [ox, oy, ox, oy]) / [sx, sy, sx, sy]) for label, score, box in kept])
    each = [metrics.average_precision(found, photos, label) for label in range(CLASSES)]
    return {"score": float(np.mean(each[: len(data.GROUPS)]))} | dict(zip(data.CLASSES, each))


def _run(name: str, stage: tuple, model: Detector, options: argparse.Namespace) -> Path:
    height, width, count, steps, rate, box_weight, street = stage
    scenes = Scenes(height, width, count, street)
    inputs = val_inputs(height, width)
    if options.start == "shipped":
        shipped.adopt(model, NAME, scenes.draw(0)[0])
        model.backbone.freeze(FROZEN)
    plan = loop.Plan(
        name,
        round(steps * options.schedule),
        rate,
        seed=SEED,
        evaluate_every=500 if steps > 500 else 100,
        threads=options.threads,
    )
    loop.fit(plan, model, lambda model, step: losses(model, scenes.draw(step), box_weight), lambda model: evaluate(model, inputs))
    return loop.best(name)


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(SEED)
    if options.start == "shipped":
        _run("detector-continued", CONTINUED, Detector(CLASSES, HINTS), options)
        return
    before = embedder.train_first(options)
    for number, stage in enumerate(STAGES[: options.stages], 1):
        torch.manual_seed(SEED)
        model = Detector(CLASSES, HINTS)
        if number == 1:
            loop.adopt(model.backbone, before, "embedder.backbone.")
        else:
            loop.adopt(model, before)
        before = _run(f"detector-{number}", stage, model, options)


def _blend() -> dict[str, Tensor]:
    """Midway between the best weights of the stage before the last and the last weights of the last: better than either on the
    validation photos (Wortsman et al., Robust fine-tuning of zero-shot models, 2022)."""
    before = loop.read(loop.best(f"detector-{len(STAGES) - 1}"))
    after = loop.read(data.RUNS / f"detector-{len(STAGES)}" / "last.pt")["averaged"]
    return {key: value.lerp(after[key], 0.5) if value.dtype.is_floating_point else value for key, value in before.items()}


def write(options: argparse.Namespace) -> None:
    """The two files that ship, or with --name NAME-float and NAME in --out."""
    if options.size and not options.name:
        sys.exit("--size needs --name: a file of another input size is another model than the shipped one")
    if options.out and not options.name:
        sys.exit("--out needs --name: without it the shipped and the optional file are written anew")
    size = tuple(options.size or INPUT)
    model = Detector(CLASSES, HINTS)
    if options.start == "shipped":
        images, *_ = Scenes(*CONTINUED[:3], CONTINUED[-1]).draw(0)
        shipped.adopt(model, NAME, images)
    elif options.weights:
        loop.adopt(model, options.weights)
    elif (continued := loop.best("detector-continued")).exists():
        loop.adopt(model, continued)
    else:
        model.load_state_dict(_blend())
    output = {
        "family": "yolo_v8",
        "names": {"boxes": "boxes"},
        "labels": [{"name": name, "group": "accessory" if name in data.EXTRAS else name} for name in data.CLASSES],
        "score_threshold": 0.3,
        "iou_threshold": 0.5,
        "max_detections": 20,
    }
    facts = {
        "version": options.version,
        "kind": "detector",
        "description": "Boxes of upper, lower, full-body garments, footwear, bags and headwear in street photos, flat-lays and product shots.",
        "source": "models/recipes/detector.py, trained on the street photos of clothing-co-parsing (Apache-2.0) and closet photos (CC0)",
        "resize": "letterbox",
    }
    module = DetectorExport(model, *size)
    if options.name:
        name, folder = f"{options.name}-float", options.out or Path(".")
    else:
        name, folder = data.in_float(NAME).stem, data.OPTIONAL
    path = export.write(name, module, size, facts, output, folder)
    output["score_threshold"] = round(_measure(metrics.Model(path))[2], 2)
    export.write(name, module, size, facts, output, folder)
    if options.name:
        integers.convert(path, options.name, folder, integers.train_photos(garments=False))
    else:
        integers.ship(NAME)


def _measure(model: metrics.Model) -> tuple[dict, dict, float, float]:
    """AP@0.5 and AP@0.5:0.95 by group on the validation photos, the score threshold to ship, and the best F1."""
    photos = data.street("val", extras=True)
    found = [model.detect(Image.open(photo["path"]).convert("RGB"), 0.01) for photo in photos]
    half = {g: metrics.average_precision(found, photos, i) for i, g in enumerate(data.CLASSES)}
    steps = np.linspace(0.5, 0.95, 10)
    strict = {g: np.mean([metrics.average_precision(found, photos, i, iou) for iou in steps]) for i, g in enumerate(data.CLASSES)}
    return half, strict, *metrics.operating_point(found, photos, len(data.GROUPS))


def report(_: argparse.Namespace) -> None:
    """AP of the exported file on the detection validation photos."""
    model = metrics.Model(data.SHIPPED / f"{NAME}.json")
    half, strict, threshold, f1 = _measure(model)
    for group in data.CLASSES:
        print(f"{group:10} AP@0.5 {half[group]:.4f}   AP@0.5:0.95 {strict[group]:.4f}")
    mean = [np.mean([ap[group] for group in data.GROUPS]) for ap in (half, strict)]
    print(f"mean of the four groups  AP@0.5 {mean[0]:.4f}   AP@0.5:0.95 {mean[1]:.4f}")
    print(f"best F1 {f1:.4f}; threshold {threshold:.3f}")
    export.latency(model)


def _side(text: str) -> int:
    if not text.isdecimal() or int(text) < 1 or int(text) % 32:
        raise argparse.ArgumentTypeError(f"{text} is no multiple of 32")
    return int(text)


def _extend(verbs) -> None:
    verb = verbs.choices["export"]
    verb.add_argument("--size", type=_side, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input size, multiples of 32; needs --name")
    verb.add_argument("--name", type=run_files.model_name, help="write NAME and NAME-float to --out instead of the shipped and the optional file")
    verb.add_argument("--out", type=Path, metavar="FOLDER", help="for the files of --name; default: the current folder")
    text = "write the shipped file's weights again, without training: for another input size"
    verb.add_argument("--from", dest="start", choices=["runs", "shipped"], default="runs", help=text)


if __name__ == "__main__":
    export.command(NAME, train, write, report, _extend)
