"""The photos of the data folder as memory-mapped arrays, and what is known about each.

Owns: where data lives (`LOOKBOOK_DATA`), which sets may train weights (closet, detection; never myntra), the caches under
`models/runs/cache`. Must not know: networks, losses. Invariant: a cache is made by one process and written whole or not at all, and
holds no validation photo unless its name says `val`.
"""

from __future__ import annotations

import csv
import json
import multiprocessing.pool
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import files
import metrics
import numpy as np
from PIL import Image

MODELS = Path(__file__).resolve().parent.parent
RUNS = MODELS / "runs"
CACHE = RUNS / "cache"
SHIPPED = MODELS / "shipped"  # registered by CREATE EXTENSION
OPTIONAL = MODELS / "optional"  # stored by `lookbook model add` where it is wanted
GROUPS = ["upper", "lower", "full_body", "footwear"]
EXTRAS = ["bag", "headwear"]  # accessories that the detector knows beside the four groups
CLASSES = GROUPS + EXTRAS
# Fine classes of at least 20 street train boxes: what the detector also learns to tell apart, and does not report.
HINTS = ["blazer", "blouse", "boots", "coat", "dress", "jacket", "jeans", "leggings", "pants", "purse", "sandals", "shirt", "shoes", "shorts",
         "skirt", "socks", "stockings", "suit", "sweater", "sweatshirt", "t-shirt", "top", "vest"]  # fmt: skip
GARMENT_SIZE = (160, 208)  # width, height of a cached garment
PHOTO_SIDE = 416  # longest side of a cached street photo, on a square canvas
VIEWS = 3  # whole garment, then random crops, each with the teacher's feature
CROP_MARGIN = 0.12
PAD = 114
TEACHER = "models/mobilenet_v2_224_embed1280_int8.onnx"


def root() -> Path:
    """The data folder, or an end of the program that says how to name it."""
    folder = Path(os.environ.get("LOOKBOOK_DATA", MODELS.parent.parent / "shared" / "data"))
    if not (folder / "detection").is_dir():
        sys.exit(f"no training data in {folder}: set LOOKBOOK_DATA to the folder that holds detection/ and catalogue/")
    return folder


def keep(path: Path, make: Callable[[], np.ndarray | dict[str, np.ndarray]]):
    """What `make` gave when `path` was missing: the array of a .npy file, memory-mapped, or the arrays of an .npz file by name."""
    if not path.exists():
        with files.alone(path.parent):
            if not path.exists():  # nor made by another process meanwhile
                made = make()
                with files.whole(path) as part:
                    if path.suffix == ".npy":
                        np.save(part, made)
                    else:
                        np.savez(part, **made)
    return np.load(path, mmap_mode="r") if path.suffix == ".npy" else dict(np.load(path))


def in_float(name: str) -> Path:
    """The manifest of a shipped model's float file: what the integers were made of, and what training continues from."""
    return OPTIONAL / f"{name}-float.json"


def closet(split: str | None = None) -> list[dict]:
    """Rows of the CC0 closet photos, in the catalogue's order."""
    with open(root() / "catalogue" / "catalogue.csv", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] == "clothing-dataset"]
    return [row for row in rows if split in (None, row["split"])]


def street(split: str, extras: bool = False, hints: bool = False) -> list[dict]:
    """Street photos: `path`, `width`, `height`, `boxes` [n, 4] as x1, y1, x2, y2 in pixels, `groups` [n] (positions in CLASSES;
    bags and headwear with `extras` only; with `hints` the fine boxes, too: positions in CLASSES + HINTS)."""
    coco = json.loads((root() / "detection" / f"groups_{split}.json").read_text())
    names = {category["id"]: GROUPS.index(category["name"]) for category in coco["categories"]}
    photos = {
        image["id"]: {
            "path": root() / "detection" / image["file_name"],
            "width": image["width"],
            "height": image["height"],
            "boxes": [],
            "groups": [],
        }
        for image in coco["images"]
    }
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        photos[annotation["image_id"]]["boxes"].append([x, y, x + w, y + h])
        photos[annotation["image_id"]]["groups"].append(names[annotation["category_id"]])
    if extras or hints:
        _add_fine(photos.values(), split, (EXTRAS if extras else []), (HINTS if hints else []))
    for photo in photos.values():
        photo["boxes"] = np.asarray(photo["boxes"], np.float32).reshape(-1, 4)
        photo["groups"] = np.asarray(photo["groups"], np.int64)
    return [photos[key] for key in sorted(photos)]


def fine_boxes(split: str) -> dict[str, list[dict]]:
    """By a street photo's file name: its annotations of one fine class each, with `corners` x1, y1, x2, y2 in pixels."""
    coco = json.loads((root() / "detection" / f"instances_{split}.json").read_text())
    names = {image["id"]: Path(image["file_name"]).name for image in coco["images"]}
    found: dict[str, list[dict]] = {name: [] for name in names.values()}
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        found[names[annotation["image_id"]]].append(annotation | {"corners": [x, y, x + w, y + h]})
    return found


def _add_fine(photos: Iterable[dict], split: str, extras: list[str], hints: list[str]) -> None:
    by_name = fine_boxes(split)
    for photo in photos:
        for annotation in by_name.get(photo["path"].name, []):
            labels = [CLASSES.index(annotation["group"])] if annotation["group"] in extras else []
            labels += [len(CLASSES) + hints.index(annotation["fine"])] if annotation["fine"] in hints else []
            photo["boxes"] += [annotation["corners"]] * len(labels)
            photo["groups"] += labels


def labels() -> list[str]:
    """The closet's labels, sorted: the classes of the embedder's label loss."""
    return sorted({row["label"] for row in closet()})


def group_of_label() -> dict[str, str]:
    return {row["label"]: row["group"] for row in closet()}


def _garment_items() -> list[dict]:
    """What the garment cache holds, in order: closet train photos, then every box of the street train photos."""
    items = [
        {"path": root() / "catalogue" / row["path"], "box": None, "label": row["label"], "group": row["group"]}
        for row in closet("train")
    ]
    for photo in street("train"):
        for box, group in zip(photo["boxes"], photo["groups"]):
            grow = np.array([box[0] - box[2], box[1] - box[3], box[2] - box[0], box[3] - box[1]]) * CROP_MARGIN
            x1, y1, x2, y2 = box + grow
            inside = (max(x1, 0), max(y1, 0), min(x2, photo["width"]), min(y2, photo["height"]))
            items.append({"path": photo["path"], "box": inside, "label": None, "group": GROUPS[group]})
    return items


def pool() -> multiprocessing.pool.Pool:
    """Two processes, which Ctrl-C leaves to the program to end."""
    return multiprocessing.Pool(2, signal.signal, (signal.SIGINT, signal.SIG_IGN))


_worker: dict = {}


def _prepare_garment(task: tuple[int, dict]):
    """One garment: the view boxes in 0..1 and the teacher's feature of each view."""
    index, item = task
    if not _worker:
        _worker["teacher"] = metrics.session(root() / TEACHER)
    image = _seen(item)
    rng = np.random.default_rng([11, index])
    boxes, features = [], []
    for view in range(VIEWS):
        if view == 0:
            box = np.array([0.0, 0.0, 1.0, 1.0])
        else:
            size = np.sqrt(rng.uniform(0.35, 0.85)) * np.exp(rng.uniform(-0.12, 0.12, 2) * [1, -1])
            size = np.minimum(size, 1.0)
            start = rng.uniform(0, 1, 2) * (1 - size)
            box = np.concatenate([start, start + size])
        scaled = box * [image.width, image.height, image.width, image.height]
        seen = image.resize((224, 224), Image.Resampling.BILINEAR, box=tuple(scaled))
        (feature,) = _worker["teacher"].run(None, {"input": np.asarray(seen)[None]})
        boxes.append(box)
        features.append(feature[0] / max(float(np.linalg.norm(feature)), 1e-6))
    return index, np.asarray(boxes, np.float32), np.asarray(features, np.float16)


def _seen(item: dict) -> Image.Image:
    image = Image.open(item["path"]).convert("RGB")
    return image if item["box"] is None else image.crop([round(value) for value in item["box"]])


def garment_pixels() -> dict:
    """Training garments: `pixels` u8 [n, 208, 160, 3], `items`; all that the detector needs of them."""
    items = _garment_items()

    def make() -> np.ndarray:
        return np.stack([np.asarray(_seen(item).resize(GARMENT_SIZE, Image.Resampling.BILINEAR)) for item in items])

    return {"pixels": keep(CACHE / "garments_pixels.npy", make), "items": items}


def garments() -> dict:
    """Training garments with the teacher: also `views` f32 [n, 3, 4], `teacher` f16 [n, 3, 1280]."""
    cache = garment_pixels()
    items = cache["items"]

    def make() -> dict[str, np.ndarray]:
        views, teacher = np.empty((len(items), VIEWS, 4), np.float32), np.empty((len(items), VIEWS, 1280), np.float16)
        with pool() as workers:
            for count, (index, *values) in enumerate(workers.imap_unordered(_prepare_garment, enumerate(items), 16)):
                views[index], teacher[index] = values
                if count % 500 == 0:
                    print(f"garments prepared: {count}/{len(items)}", flush=True)
        return {"views": views, "teacher": teacher}

    return cache | keep(CACHE / "garments.npz", make)


def street_pixels() -> tuple[np.ndarray, list[dict]]:
    """Street train photos u8 [n, 416, 416, 3], top left on a grey canvas; their rows gain `scale` (canvas pixels per pixel)."""
    photos = street("train", extras=True, hints=True)
    for photo in photos:
        photo["scale"] = PHOTO_SIDE / max(photo["width"], photo["height"])

    def make() -> np.ndarray:
        pixels = np.full((len(photos), PHOTO_SIDE, PHOTO_SIDE, 3), PAD, np.uint8)
        for canvas, photo in zip(pixels, photos):
            size = (round(photo["width"] * photo["scale"]), round(photo["height"] * photo["scale"]))
            image = Image.open(photo["path"]).convert("RGB").resize(size, Image.Resampling.BILINEAR)
            canvas[: size[1], : size[0]] = np.asarray(image)
        return pixels

    return keep(CACHE / f"street_{PHOTO_SIDE}.npy", make), photos


if __name__ == "__main__":
    street_pixels()
    garments()
    print("caches ready")
