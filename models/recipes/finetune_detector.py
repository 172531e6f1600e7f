"""Fine-tuning of `garment-detector` on a shop's own boxes: one command, from a COCO file to a file for `lookbook model add`.

    python finetune_detector.py --coco FILE [--map shirt=upper]... [--name NAME] [--steps N] [--out FOLDER]

Owns: reading the boxes, the scenes and the schedule of the continued training, the comparison before and after. Must not know: the data
folder (none is needed). Invariants as in `finetune.py`; the categories stay the shipped ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import data
import detector
import export
import integers
import loop
import metrics
import numpy as np
import run_files
import shipped
import torch
from nets import Detector, DetectorExport
from PIL import Image, ImageOps
from torch import nn

SEED = 17
HELD_OUT = 0.25
BOX_WEIGHT = detector.CONTINUED[5]


def read(file: Path, mapped: dict[str, str]) -> list[dict]:
    """Photos with boxes: `path`, `width`, `height`, `boxes` [n, 4] as corners in pixels, `groups` [n] (places in CLASSES).

    A category is one of the shipped model's, or is mapped to one, or to nothing.
    """
    coco = json.loads(file.read_text())
    place = {}
    for category in coco["categories"]:
        name = mapped.get(category["name"], category["name"])
        if name and name not in data.CLASSES:
            sys.exit(f'{file}: category "{category["name"]}" is none of {", ".join(data.CLASSES)}; add --map "{category["name"]}=…" (empty: leave out)')
        if name:
            place[category["id"]] = data.CLASSES.index(name)
    photos = {image["id"]: {"path": file.parent / image["file_name"], "boxes": [], "groups": []} for image in coco["images"]}
    for annotation in coco["annotations"]:
        if annotation["category_id"] in place and not annotation.get("iscrowd"):
            x, y, w, h = annotation["bbox"]
            photos[annotation["image_id"]]["boxes"].append([x, y, x + w, y + h])
            photos[annotation["image_id"]]["groups"].append(place[annotation["category_id"]])
    kept = [photos[key] for key in sorted(photos) if photos[key]["boxes"]]
    if len(kept) < 4:
        sys.exit(f"{file}: {len(kept)} photos have boxes; at least 4 are needed")
    for photo in kept:
        photo["boxes"], photo["groups"] = np.asarray(photo["boxes"], np.float32), np.asarray(photo["groups"], np.int64)
    return kept


def held_out(count: int) -> np.ndarray:
    chosen = np.random.default_rng([SEED, 1]).permutation(count)[: max(1, round(count * HELD_OUT))]
    return np.isin(np.arange(count), chosen)


class Scenes(detector.Scenes):
    """Windows of the shop's photos, as the recipe draws them of street photos."""

    dressed = 0.0

    def __init__(self, photos: list[dict], height: int, width: int, count: int):
        self.height, self.width, self.count = height, width, count
        self.shares = {"street": 1.0}
        self.photos = photos
        self.weight = np.full(len(photos), 1 / len(photos))
        self.pixels = np.full((len(photos), data.PHOTO_SIDE, data.PHOTO_SIDE, 3), data.PAD, np.uint8)
        for canvas, photo in zip(self.pixels, photos):
            image = opened(photo)
            photo["width"], photo["height"] = image.size
            photo["scale"] = data.PHOTO_SIDE / max(image.size)
            size = [max(1, round(side * photo["scale"])) for side in image.size]
            canvas[: size[1], : size[0]] = np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def opened(photo: dict) -> Image.Image:
    try:
        return ImageOps.exif_transpose(Image.open(photo["path"])).convert("RGB")
    except OSError as error:
        sys.exit(f"{photo['path']}: cannot be read ({error})")


class Learner(nn.Module):
    """The detector; norms keep their statistics, since a shop has few photos."""

    def __init__(self, network: Detector):
        super().__init__()
        self.detector = network

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        return self

    def forward(self, images):
        return self.detector(images)


def figures(model: metrics.Model, photos: list[dict]) -> dict[str, float]:
    """AP@0.5 of each category that the held-out photos have, and their mean."""
    found = [model.detect(opened(photo), 0.01) for photo in photos]
    present = sorted(set(np.concatenate([photo["groups"] for photo in photos]).tolist()))
    each = {data.CLASSES[label]: metrics.average_precision(found, photos, label) for label in present}
    return {"mAP@0.5": float(np.mean(list(each.values())))} | each


def run(options: argparse.Namespace) -> None:
    old = metrics.Model(data.SHIPPED / f"{detector.NAME}.json")
    photos = read(options.coco, dict(options.map))
    held = held_out(len(photos))
    apart = [photo for photo, is_held in zip(photos, held) if is_held]
    print(f"{options.coco}: {len(photos)} photos with boxes, {len(apart)} held out", flush=True)
    name = f"finetune-{options.name}"
    listing = json.dumps([[str(photo["path"]), photo["boxes"].tolist(), photo["groups"].tolist()] for photo in photos])
    facts = {"photos": hashlib.sha256(listing.encode()).hexdigest(), "from": old.manifest["sha256"], "seed": SEED}
    run_files.begin(data.RUNS / name, facts | {"steps": options.steps, "batch": options.batch, "rate": options.rate})
    before = figures(old, apart)
    height, width = old.manifest["input"]["height"], old.manifest["input"]["width"]
    trained = [photo for photo, is_held in zip(photos, held) if not is_held]
    scenes = Scenes(trained, height, width, options.batch)
    torch.manual_seed(SEED)
    learner = Learner(Detector(detector.CLASSES))
    shipped.adopt(learner.detector, detector.NAME, scenes.draw(0)[0])
    learner.detector.backbone.freeze(detector.FROZEN)
    # One evaluation at the end: the held-out photos choose nothing.
    plan = loop.Plan(name, options.steps, options.rate, warmup=20, average=0.98, evaluate_every=max(1, options.steps), threads=options.threads)
    loop.fit(plan, learner, lambda model, step: detector.losses(model, scenes.draw(step), BOX_WEIGHT), lambda _: {"score": 0.0})
    state = torch.load(data.RUNS / name / "last.pt", map_location="cpu", weights_only=True)["averaged"]
    learner.cpu().load_state_dict(state)
    about = {
        "version": options.version,
        "kind": "detector",
        "description": f"{detector.NAME} {old.manifest['version']}, continued on photos of our own.",
        "source": f"models/recipes/finetune_detector.py from {detector.NAME} {old.manifest['version']} (sha256 {old.manifest['sha256']})",
        "licence": options.licence,
        "resize": old.manifest["input"]["resize"],
    }
    module = DetectorExport(learner.detector, height, width)
    path = export.write(run_files.file_name(options), module, (height, width), about, old.manifest["output"], data.RUNS / name / "export")
    if not options.in_float:
        path = integers.convert(path, options.name, path.parent, (opened(photo) for photo in trained[: run_files.CALIBRATED]))
    run_files.deliver(path, options, before, figures(metrics.Model(path), apart), "mAP@0.5")


def mapping(text: str) -> tuple[str, str]:
    name, equals, group = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("NAME=GROUP, such as shirt=upper")
    return name, group


def main() -> None:
    parser = argparse.ArgumentParser(prog="models/train garment-detector", description="Continue garment-detector on your own boxes.")
    parser.add_argument("--coco", type=Path, required=True, help="a COCO file; its photos' names are relative to it")
    parser.add_argument("--map", type=mapping, action="append", default=[], metavar="NAME=GROUP", help="a category of yours is one of the model's")
    run_files.add_options(parser, "shop-detector")
    parser.set_defaults(steps=300, batch=12, rate=3e-5)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
