"""Fine-tuning of `garment-detector` on a shop's own boxes: one command, from a COCO file to a file for `lookbook model add`.

    python finetune_detector.py --coco FILE [--map shirt=upper]... [--name NAME] [--steps N] [--out FOLDER]

Owns: reading the boxes, the scenes and the schedule of the continued training, the comparison before and after. Must not know: the data
folder (none is needed). Invariants as in `finetune.py`; the categories stay the shipped ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
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
import shop
import torch
from nets import Detector, DetectorExport, still_norms
from PIL import Image
from torch import nn

SEED = 17
HELD_OUT = 0.25
LARGEST = 1e6  # pixels, of a box's coordinate
BOX_WEIGHT = detector.CONTINUED[5]


def read(file: Path, mapped: dict[str, str]) -> list[dict]:
    """Photos: `path`, `boxes` [n, 4] as corners in pixels, `groups` [n] (places in CLASSES), `counts` [n] (0: a crowd, ignored).

    A category is one of the shipped model's, or is mapped to one, or to nothing. A photo may have no box: what is found in it is wrong.
    The file is read as `lookbook eval detection` reads it (`loader/src/eval/coco.rs`), but for boxes without extent, which teach nothing.
    """
    coco = _loaded(file)
    place = _places(file, coco["categories"], mapped)
    photos = _photos(file, coco["images"])
    for number, annotation in enumerate(coco["annotations"]):
        what = f"annotation {annotation['id'] if 'id' in annotation else f'number {number + 1}'}"
        group = _known(file, what, annotation, "category_id", place)
        photo = _known(file, what, annotation, "image_id", photos)
        is_crowd = bool(_field(file, what, {"iscrowd": 0} | annotation, "iscrowd", (bool, int, float, type(None))))
        if is_crowd and annotation.get("bbox") is None:
            continue  # a mask alone: no box can be compared with it
        corners = _corners(file, what, annotation)
        if group is not None:
            photo["boxes"].append(corners)
            photo["groups"].append(group)
            photo["counts"].append(0 if is_crowd else 1)
    made = _once(file, photos)
    for photo in made:
        photo["boxes"] = np.asarray(photo["boxes"], np.float32).reshape(-1, 4)
        photo["groups"], photo["counts"] = np.asarray(photo["groups"], np.int64), np.asarray(photo["counts"], np.float32)
    boxed = sum(photo["counts"].any() for photo in made)
    if boxed < 4:
        sys.exit(f"{file}: {boxed} photos have boxes; at least 4 are needed")
    return made


def _once(file: Path, photos: dict[int, dict]) -> list[dict]:
    """In the order of their ids, without images of a photo that another shows; an end of the program where these have other boxes."""
    first: dict[str, int] = {}
    for key, photo in sorted(photos.items()):
        twin = first.setdefault(run_files.content(photo["path"]), key)
        if _annotated(photo) != _annotated(photos[twin]):
            sys.exit(f"{file}: the images {twin} and {key} are the same photo with other boxes")
    if len(first) < len(photos):
        print(f"{file}: left out {len(photos) - len(first)} images whose photo it lists before")
    return [photos[key] for key in first.values()]


def _annotated(photo: dict) -> list[tuple]:
    return sorted(zip(photo["boxes"], photo["groups"], photo["counts"]))


def _loaded(file: Path) -> dict:
    """The lists of a COCO file, their entries being objects."""
    try:
        coco = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        sys.exit(f"{file}: cannot be read as JSON ({error})")
    for name in ("images", "annotations", "categories"):
        entries = coco.get(name) if isinstance(coco, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            sys.exit(f'{file}: is no COCO file: "{name}" is no list of objects')
    return coco


def _field(file: Path, what: str, entry: dict, name: str, kinds: type | tuple[type, ...] = int):
    if name not in entry:
        sys.exit(f"{file}: {what} has no {name}")
    value = entry[name]
    if not isinstance(value, kinds) or kinds is int and isinstance(value, bool):
        sys.exit(f"{file}: {what} has the {name} {json.dumps(value)}, which is not what COCO has there")
    return value


def _known(file: Path, what: str, entry: dict, name: str, known: dict):
    """What the entry's id stands for."""
    key = _field(file, what, entry, name)
    if key not in known:
        sys.exit(f"{file}: {what} has the {name} {key}, which the file does not list")
    return known[key]


def _places(file: Path, categories: list[dict], mapped: dict[str, str]) -> dict:
    """By a category's id: its place in CLASSES, or nothing where it is left out."""
    place, names = {}, set()
    for number, category in enumerate(categories, 1):
        own = _field(file, f"category number {number}", category, "name", str)
        key = _field(file, f'category "{own}"', category, "id")
        if own in names or key in place:
            sys.exit(f"{file}: two categories have the {f'name {own}' if own in names else f'id {key}'}")
        names.add(own)
        name = mapped.get(own, own)
        if name and name not in data.CLASSES:
            sys.exit(f'{file}: category "{own}" is none of {", ".join(data.CLASSES)}; add --map "{own}=…" (empty: leave out)')
        place[key] = data.CLASSES.index(name) if name else None
    unknown = mapped.keys() - names
    if unknown:
        sys.exit(f"{file}: no category is named {', '.join(sorted(unknown))}, which --map gives a name")
    return place


def _photos(file: Path, images: list[dict]) -> dict:
    photos = {}
    for number, image in enumerate(images, 1):
        key = _field(file, f"image number {number}", image, "id")
        path = file.parent / _field(file, f"image {key}", image, "file_name", str)
        if key in photos:
            sys.exit(f"{file}: image {key} is listed twice")
        if not path.is_file():
            sys.exit(f"{file}: image {key}: there is no photo {path}")
        photos[key] = {"path": path, "boxes": [], "groups": [], "counts": []}
    return photos


def _corners(file: Path, what: str, annotation: dict) -> list[float]:
    box = _field(file, what, annotation, "bbox", list)
    is_box = len(box) == 4 and all(isinstance(value, (int, float)) and abs(value) < LARGEST for value in box)
    if not is_box or min(box[2:]) <= 0:
        sys.exit(f"{file}: {what} has the bbox {box}; x, y, width and height are needed, in pixels, the last two above 0")
    x, y, width, height = box
    return [x, y, x + width, y + height]


def held_out(photos: list[dict]) -> np.ndarray:
    """A quarter of the photos with boxes, and of those without."""
    rng = np.random.default_rng([SEED, 1])
    boxed = np.array([photo["counts"].any() for photo in photos])
    held = np.zeros(len(photos), bool)
    for alike, least in ((np.flatnonzero(boxed), 1), (np.flatnonzero(~boxed), 0)):
        held[rng.permutation(alike)[: max(least, round(len(alike) * HELD_OUT))]] = True
    return held


class Scenes(detector.Scenes):
    """Windows of the shop's photos, as the recipe draws them of street photos."""

    dressed = 0.0

    def __init__(self, photos: list[dict], height: int, width: int, count: int):
        self.height, self.width, self.count = height, width, count
        self.shares = {"street": 1.0}
        self.photos = photos
        self.weight = np.full(len(photos), 1 / len(photos))
        # On disk, since half a megabyte a photo adds up; gone with the program.
        data.RUNS.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=data.RUNS)
        self.pixels = np.memmap(file, np.uint8, "w+", shape=(len(photos), data.PHOTO_SIDE, data.PHOTO_SIDE, 3))
        for canvas, photo in zip(self.pixels, photos):
            canvas[:] = data.PAD
            image = shop.opened(photo["path"])
            photo["width"], photo["height"] = image.size
            photo["scale"] = data.PHOTO_SIDE / max(image.size)
            size = [max(1, round(side * photo["scale"])) for side in image.size]
            canvas[: size[1], : size[0]] = np.asarray(image.resize(size, Image.Resampling.BILINEAR))


class Learner(nn.Module):
    """The detector; norms keep their statistics, since a shop has few photos."""

    def __init__(self, network: Detector):
        super().__init__()
        self.detector = network

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        still_norms(self)
        return self

    def forward(self, images):
        return self.detector(images)


def figures(model: metrics.Model, photos: list[dict]) -> dict[str, float]:
    """AP@0.5 of each category that the held-out photos have, and their mean; a detection in a photo without boxes is false."""
    found = [model.detect(shop.opened(photo["path"]), 0.01) for photo in photos]
    present = sorted(set(np.concatenate([photo["groups"][photo["counts"] > 0] for photo in photos]).tolist()))
    each = {data.CLASSES[label]: metrics.average_precision(found, photos, label) for label in present}
    return {"mAP@0.5": float(np.mean(list(each.values())))} | each


def described(photos: list[dict]) -> str:
    empty = sum(not photo["counts"].any() for photo in photos)
    crowds = sum(int((photo["counts"] == 0).sum()) for photo in photos)
    return f"{len(photos)} photos, {empty} without boxes" + (f", crowds ignored: {crowds}" if crowds else "")


def run(options: argparse.Namespace) -> None:
    old = metrics.Model(data.SHIPPED / f"{detector.NAME}.json")
    photos = read(options.coco, dict(options.map))
    shop.check([photo["path"] for photo in photos])
    run_files.make_folder(options.out)
    held = held_out(photos)
    apart = [photo for photo, is_held in zip(photos, held) if is_held]
    print(f"{options.coco}: {described(photos)}; held out: {described(apart)}", flush=True)
    name = f"finetune-{options.name}"
    known = ((photo["path"], [photo[part].tolist() for part in ("boxes", "groups", "counts")]) for photo in photos)
    facts = {"photos": run_files.fingerprint(options.coco.parent, known), "from": old.manifest["sha256"], "seed": SEED}
    run_files.begin(data.RUNS / name, facts | {"steps": options.steps, "batch": options.batch, "rate": options.rate})
    before = figures(old, apart)
    height, width = old.manifest["input"]["height"], old.manifest["input"]["width"]
    trained = [photo for photo, is_held in zip(photos, held) if not is_held]
    scenes = Scenes(trained, height, width, options.batch)
    torch.manual_seed(SEED)
    learner = Learner(Detector(detector.CLASSES))
    shipped.adopt(learner.detector, detector.NAME, scenes.draw(0)[0])
    learner.detector.backbone.freeze(detector.FROZEN)
    # No evaluation: the held-out photos choose nothing.
    plan = loop.Plan(name, options.steps, options.rate, seed=SEED, warmup=20, average=0.98, threads=options.threads)
    learner = loop.fit(plan, learner, lambda model, step: detector.losses(model, scenes.draw(step), BOX_WEIGHT)).cpu()
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
        path = integers.convert(path, options.name, path.parent, (shop.opened(photo["path"]) for photo in trained[: run_files.CALIBRATED]))
    run_files.deliver(path, options, before, figures(metrics.Model(path), apart), "mAP@0.5")


def mapping(text: str) -> tuple[str, str]:
    name, equals, group = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("NAME=GROUP, such as shirt=upper")
    if group and group not in data.CLASSES:
        raise argparse.ArgumentTypeError(f'"{group}" in {text} is none of {", ".join(data.CLASSES)} (or empty: leave {name} out)')
    return name, group


def main() -> None:
    parser = argparse.ArgumentParser(prog="models/train garment-detector", description="Continue garment-detector on your own boxes.")
    parser.add_argument("--coco", type=Path, required=True, help="a COCO file; its photos' names are relative to it")
    parser.add_argument("--map", type=mapping, action="append", default=[], metavar="NAME=GROUP", help="a category of yours is one of the model's")
    run_files.add_options(parser, "shop-detector")
    parser.set_defaults(steps=300, batch=12, rate=3e-5)
    options = parser.parse_args()
    with run_files.stoppable():
        run(options)


if __name__ == "__main__":
    main()
