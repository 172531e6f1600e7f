"""Where `garment-detector` fails: the share of closet photos that a box covers, and sheets of pictures of what went wrong.

    python failures.py covering [--score SCORE]     # the figure of the card
    python failures.py failures [--out FOLDER]      # drawn.jpg, and of the data folder's photos street.jpg and closet.jpg

Owns: what counts as a failure, and how it is shown. Must not know: PyTorch, training. Invariant: `drawn.jpg` shows photos of our own
making only (`tests/catalogue`); the other sheets show photos of the data folder and are for looking at, not for shipping.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cutouts
import data
import metrics
import numpy as np
import run_files
from PIL import Image, ImageDraw, ImageFont

NAME = "garment-detector"
COVERS = 0.5  # intersection over union from which a box covers a garment
KNOWN = 0.05  # the loader's LOWEST_SCORE (loader/src/load/engines.rs): of a garment that the source says is there
DRAWN = data.MODELS.parent / "tests" / "catalogue"
TILE = (180, 240)  # width, height of a photo in a sheet
CAPTION = 30
TRUTH, FOUND = (20, 150, 60), (215, 40, 40)

Box = tuple[str, float, np.ndarray]  # label, score, corners in pixels
Case = tuple[float, Image.Image, list[Box], list[Box], str]  # how bad, the photo, what should be found, what was, in words


def detections(model: metrics.Model, image: Image.Image) -> list[Box]:
    """What the product finds: the manifest's threshold and its labels."""
    output = model.manifest["output"]
    found = model.detect(image, output["score_threshold"])
    return [(output["labels"][label]["name"], score, box) for label, score, box in found]


def closet_val(model: metrics.Model) -> list[tuple[dict, Image.Image, np.ndarray, list[Box]]]:
    """Closet val photos whose garment stands out of its background: row, photo, the foreground's box, what is found."""
    seen = []
    for row in data.closet("val"):
        image = Image.open(data.root() / "catalogue" / row["path"]).convert("RGB")
        cut = cutouts.foreground(np.asarray(image.resize(data.GARMENT_SIZE, Image.Resampling.BILINEAR)))
        if cut is not None:
            scale = np.tile([image.width / data.GARMENT_SIZE[0], image.height / data.GARMENT_SIZE[1]], 2)
            seen.append((row, image, np.array(cut[1]) * scale, detections(model, image)))
    return seen


def best_overlap(truth: np.ndarray, found: list[Box], label: str | None = None) -> float:
    """The highest intersection over union with a box, of one label where it is named."""
    boxes = [box for name, _, box in found if label in (None, name)]
    return float(metrics.overlaps(truth[None], np.stack(boxes)).max()) if boxes else 0.0


def known_category(model: metrics.Model, image: Image.Image, group: str) -> list[Box]:
    """What the loader takes for a garment that the source says is there: what it finds of that group, else the likeliest box of it."""
    labels = [label["name"] for label in model.manifest["output"]["labels"]]
    found = [(labels[label], score, box) for label, score, box in model.detect(image, KNOWN) if labels[label] == group]
    likely = [box for box in found if box[1] >= model.manifest["output"]["score_threshold"]]
    return likely or sorted(found, key=lambda box: -box[1])[:1]


def covering(options: argparse.Namespace) -> None:
    """In how many closet val photos a box has an IoU of 0.5 with the garment's foreground, at the manifest's threshold or another."""
    model = metrics.Model(data.SHIPPED / f"{NAME}.json")
    if options.score is not None:
        model.manifest["output"]["score_threshold"] = options.score
    seen, total = closet_val(model), len(data.closet("val"))
    names = {label["name"] for label in model.manifest["output"]["labels"]}
    hits = np.array([best_overlap(truth, found) >= COVERS for _, _, truth, found in seen])
    right = np.array([best_overlap(truth, found, row["group"]) >= COVERS for row, _, truth, found in seen])
    known = np.array([best_overlap(truth, known_category(model, image, row["group"])) >= COVERS for row, image, truth, _ in seen])
    nothing = np.array([not found for *_, found in seen])
    print(f"closet val: {len(seen)} of {total} photos have a clear foreground")
    print(f"a box covers it (IoU {COVERS}) in {hits.mean():.1%}; a box of its group in {right.mean():.1%}; nothing is found in {nothing.mean():.1%}")
    print(f"where the source says the group (lookbook load --map sells=COLUMN), a box of it covers it in {known.mean():.1%}")
    groups = np.array([row["group"] for row, *_ in seen])
    for group in sorted(set(groups) & names):
        mine = groups == group
        print(f"{group:10} {mine.sum():4} photos: covered {hits[mine].mean():.1%}, by its own group {right[mine].mean():.1%}")


def _street_cases(model: metrics.Model) -> list[Case]:
    """A photo is as bad as its garments that nothing of their group covers and its confident boxes of garments that are not there."""
    cases = []
    for photo in data.street("val", extras=True):
        image = Image.open(photo["path"]).convert("RGB")
        found = detections(model, image)
        truth = [(data.CLASSES[group], 1.0, box) for box, group in zip(photo["boxes"], photo["groups"])]
        missed = [name for name, _, box in truth if best_overlap(box, found, name) < COVERS]
        false = [(name, score) for name, score, box in found if best_overlap(box, truth, name) < COVERS]
        badness = len(missed) + sum(score for _, score in false)
        words = [f"no {name}" for name in missed] + [f"{name} {score:.2f}" for name, score in false]
        cases.append((badness, image, truth, found, ", ".join(words)))
    return cases


def _closet_cases(model: metrics.Model) -> list[Case]:
    return [
        (1 - best_overlap(truth, found), image, [(row["group"], 1.0, truth)], found, f"{row['label']}: IoU {best_overlap(truth, found):.2f}")
        for row, image, truth, found in closet_val(model)
    ]


def drawn_cases(model: metrics.Model) -> list[Case]:
    """Photos of the drawn catalogue in which no box has the category that the picture is of; the worst has no box at all."""
    cases = []
    with open(DRAWN / "catalogue.csv", newline="") as lines:
        for row in csv.DictReader(lines):
            image = Image.open(DRAWN / row["path"]).convert("RGB")
            found = detections(model, image)
            right = max((score for name, score, _ in found if name == row["category"]), default=0.0)
            wrong = ", ".join(f"{name} {score:.2f}" for name, score, _ in found[:2]) or "nothing"
            badness = 0.0 if right else 1.0 + (not found)
            cases.append((badness, image, [], found, f"{row['category']}, {row['view']}: found {wrong}"))
    return cases


def _tile(case: Case) -> Image.Image:
    _, image, truth, found, words = case
    scale = min(TILE[0] / image.width, TILE[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    tile = Image.new("RGB", (TILE[0], TILE[1] + CAPTION), "white")
    left, top = (TILE[0] - size[0]) // 2, (TILE[1] - size[1]) // 2
    tile.paste(image.resize(size, Image.Resampling.LANCZOS), (left, top))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(9)
    for boxes, colour in ((truth, TRUTH), (found, FOUND)):
        for name, _, box in boxes:
            x1, y1, x2, y2 = (box * scale + [left, top, left, top]).tolist()
            draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
            draw.text((x1 + 3, y1 + 2), name, fill=colour, font=font)
    lines, line = [], ""
    for word in words.split():
        if line and draw.textlength(f"{line} {word}", font=font) > TILE[0] - 6:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    draw.text((3, TILE[1] + 2), "\n".join([*lines, line][:2]), fill="black", font=font, spacing=2)
    return tile


def sheet(cases: list[Case], path: Path, columns: int, most: int) -> int:
    """Write the worst cases, at most `most`, as one picture; returns how many failures there are in all."""
    bad = sorted((case for case in cases if case[0] > 0), key=lambda case: -case[0])
    shown = bad[:most]
    rows = max(1, -(-len(shown) // columns))
    canvas = Image.new("RGB", (columns * TILE[0], rows * (TILE[1] + CAPTION)), "white")
    for place, case in enumerate(shown):
        canvas.paste(_tile(case), (place % columns * TILE[0], place // columns * (TILE[1] + CAPTION)))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, quality=82)
    return len(bad)


def failures(options: argparse.Namespace) -> None:
    """Sheets of the worst photos: what should be found in green, what was found in red."""
    model = metrics.Model(data.SHIPPED / f"{NAME}.json")
    kinds = [("drawn", drawn_cases, 6, 12)]
    if not options.drawn:
        kinds += [("street", _street_cases, 6, 24), ("closet", _closet_cases, 6, 24)]
    for kind, gather, columns, most in kinds:
        cases = gather(model)
        path = options.out / f"{kind}.jpg"
        count = sheet(cases, path, columns, most)
        print(f"{path}: {count} of {len(cases)} photos fail, the worst {min(count, most)} are shown")


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"models/train {NAME}", description="garment-detector: covering, failures")
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("covering", help="the share of closet val photos that a box covers")
    verb.add_argument("--score", type=float, default=None, help="default: the manifest's threshold")
    verb.set_defaults(run=covering)
    verb = verbs.add_parser("failures", help="pictures of what went wrong")
    verb.add_argument("--out", type=Path, default=data.RUNS / "failures", help="the folder to write into")
    verb.add_argument("--drawn", action="store_true", help="the drawn catalogue only: needs no data folder")
    verb.set_defaults(run=failures)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    with run_files.stoppable():
        main()
