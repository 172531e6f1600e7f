"""A shop's own photos: which there are, what they show, and which are held out.

Owns: reading folders and CSV files, opening a user's photo, the crop that the product would embed, the split. Must not know: PyTorch,
networks. Invariants: the split depends on the names and the seed alone, and no held-out photo is trained on, nor a copy of it; a photo's
pixels are those that the product reads (`crates/vision/src/codecs.rs`).
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import data
import metrics
import numpy as np
import run_files
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
MARGIN = 0.05  # of a box's size on each side, as the product crops
HELD_OUT = 0.25
FEW = 20  # labels from here on are held out whole: new products are what a shop will look for


@dataclass
class Photos:
    """Paths, the label of each, and whether it is held out (a query, not trained on); the folder that they are given in."""

    folder: Path
    paths: list[Path]
    labels: np.ndarray
    held: np.ndarray
    whole_labels: bool  # whether labels are held out whole


def read(source: Path, seed: int) -> Photos:
    """Photos of a folder, whose sub-folders are the labels, or of a CSV file with the columns `path` and `item_id` or `label`.

    Labels of one photo are left out: nothing can be learnt of or measured by them. A photo that is there twice counts once.
    """
    if not source.exists():
        sys.exit(f"{source}: there is no such folder or CSV file")
    folder = source if source.is_dir() else source.parent
    pairs = _once(source, _of_folder(source) if source.is_dir() else _of_csv(source))
    counts: dict[str, int] = {}
    for _, label in pairs:
        counts[label] = counts.get(label, 0) + 1
    kept = sorted((path, label) for path, label in pairs if counts[label] > 1)
    if len({label for _, label in kept}) < 2:
        sys.exit(f"{source}: needs two labels with two photos each, has {len(pairs)} photos of {len(counts)} labels")
    paths, labels = [path for path, _ in kept], np.array([label for _, label in kept])
    held, whole = _split(labels, seed)
    print(f"{source}: {len(paths)} photos of {len(set(labels))} labels, {held.sum()} held out{' (whole labels)' if whole else ''}")
    return Photos(folder, paths, labels, held, whole)


def _once(source: Path, pairs: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Without further rows and copies of a photo; an end of the program where these have another label."""
    first: dict[str, tuple[Path, str]] = {}
    contrary = []
    for path, label in sorted(pairs):
        twin, known = first.setdefault(run_files.content(path), (path, label))
        if known != label:
            contrary.append(f"{path} is the same photo as {twin}, but the one is of {label}, the other of {known}")
    if contrary:
        sys.exit("\n".join([*contrary, f"{source}: a photo has one label"]))
    if len(first) < len(pairs):
        print(f"{source}: left out {len(pairs) - len(first)} that are a photo given before, listed again or copied")
    return list(first.values())


def _of_folder(folder: Path) -> list[tuple[Path, str]]:
    """Photos in sub-folders. What begins with a dot is no photo: macOS leaves `._NAME.jpg` beside NAME.jpg."""
    pairs, loose, others = [], 0, Counter()
    for path in folder.rglob("*"):
        inner = path.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts) or path.is_dir():
            continue
        if path.suffix.lower() not in SUFFIXES:
            others[path.suffix.lower() or path.name] += 1
        elif len(inner.parts) == 1:
            loose += 1
        else:
            pairs.append((path, inner.parent.as_posix()))
    if others:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(others.items()))
        print(f"{folder}: left out what is no photo of a kind that is read: {kinds}")
    if loose:
        print(f"{folder}: left out {loose} photos that lie in no sub-folder: the name of the sub-folder is a photo's label")
    return pairs


def _of_csv(file: Path) -> list[tuple[Path, str]]:
    try:
        # Spreadsheets write a byte order mark.
        with open(file, newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            return _labelled(file, rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        sys.exit(f"{file}: cannot be read as CSV in UTF-8 ({error})")


def _labelled(file: Path, rows: csv.DictReader) -> list[tuple[Path, str]]:
    """The rows that have a label."""
    columns = rows.fieldnames or []
    by = next((column for column in ("item_id", "label") if column in columns), None)
    if "path" not in columns or by is None:
        sys.exit(f"{file}: needs the columns path and item_id or label, has {', '.join(columns) or 'none'}")
    pairs = []
    for row in rows:
        if not row["path"]:
            sys.exit(f"{file}, line {rows.line_num}: has no path")
        path = file.parent / row["path"]
        if not path.is_file():
            sys.exit(f"{file}, line {rows.line_num}: there is no photo {path}")
        if row[by]:
            pairs.append((path, row[by]))
    return pairs


def _split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, bool]:
    """Whole labels where there are enough of them, else photos of every label; one photo of a label always stays to be found."""
    rng = np.random.default_rng([seed, 1])
    names = np.unique(labels)
    if len(names) >= FEW:
        chosen = rng.permutation(names)[: round(len(names) * HELD_OUT)]
        return np.isin(labels, chosen), True
    held = np.zeros(len(labels), bool)
    for name in names:
        mine = rng.permutation(np.flatnonzero(labels == name))
        held[mine[: max(1, round(len(mine) * HELD_OUT))]] = True
    return held, False


def opened(path: Path) -> Image.Image:
    """A photo upright in RGB as the product reads it, or an end of the program that names it."""
    try:
        return flattened(ImageOps.exif_transpose(Image.open(path)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        sys.exit(f"{path}: cannot be read ({error}); leave it out")


def check(paths: list[Path]) -> None:
    """Ends the program where photos cannot be read, and names all of them."""
    unread = []
    for path in paths:
        try:
            opened(path)
        except SystemExit as end:
            unread.append(str(end))
    if unread:
        sys.exit("\n".join([*unread, f"{len(unread)} of {len(paths)} photos cannot be read"]))


def flattened(image: Image.Image) -> Image.Image:
    """RGB of 8 bits: alpha over white, gray of 16 bits by its value. Pillow would drop alpha and cut gray off at 255; of 16-bit colours it
    keeps the high byte, which is at most one level less than the product reads."""
    if image.mode.startswith("I") or image.mode == "F":
        full = 1.0 if image.mode == "F" else 65535.0  # white
        grey = np.clip(np.asarray(image, np.float64) / full, 0, 1) * 255
        return Image.fromarray(np.floor(grey + 0.5).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    pixels = np.asarray(image.convert("RGBA"), np.uint32)
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    return Image.fromarray(((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8))


def crops(photos: Photos, detector: metrics.Model | None) -> list[Image.Image]:
    """What the product embeds of each photo: its best garment with a margin, or the whole photo where none is found or wanted."""
    made = []
    for place, path in enumerate(photos.paths):
        image = opened(path)
        if detector is not None:
            found = detector.detect(image, detector.manifest["output"]["score_threshold"])
            if found:
                x1, y1, x2, y2 = found[0][2]
                grow = np.array([x1 - x2, y1 - y2, x2 - x1, y2 - y1]) * MARGIN
                low = np.floor(np.maximum([x1, y1] + grow[:2], 0)).astype(int)
                high = np.minimum(np.ceil([x2, y2] + grow[2:]), image.size).astype(int)
                image = image.crop((*low.tolist(), *np.maximum(high, low + 1).tolist()))
        # Twice what a step reads is enough, and thousands of photos fit into memory.
        image.thumbnail((2 * data.GARMENT_SIZE[1], 2 * data.GARMENT_SIZE[1]), Image.Resampling.LANCZOS)
        made.append(image)
        if (place + 1) % 500 == 0:
            print(f"photos prepared: {place + 1}/{len(photos.paths)}", flush=True)
    return made


def retrieval(rows: np.ndarray, photos: Photos) -> dict[str, float]:
    """Each held-out photo looked for among all others: `top1` and `top5` (one of its label among so many), and `precision5`, the
    share of its label among the nearest five, or among as many as there are others of it."""
    queries = np.flatnonzero(photos.held)
    similar = rows[queries] @ rows.T
    similar[np.arange(len(queries)), queries] = -np.inf
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :5]
    same = photos.labels[nearest] == photos.labels[queries][:, None]
    others = np.array([(photos.labels == label).sum() - 1 for label in photos.labels[queries]])
    most = np.minimum(others, 5)
    share = [row[:count].mean() for row, count in zip(same, most)]
    return {"top1": float(same[:, 0].mean()), "top5": float(same.any(1).mean()), "precision5": float(np.mean(share))}
