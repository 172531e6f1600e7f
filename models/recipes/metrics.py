"""What a shipped model is measured with: the manifest's preprocessing, ONNX Runtime, AP and precision.

Owns: the figures in the model cards. Must not know: PyTorch, training. Invariant: an image reaches the network exactly as
`docs/architecture.md` says a manifest is read, so a figure here holds in the product.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
}

SLACK = 0.01  # of the best F1, for the recall that it buys


def session(path: Path):
    """Of an ONNX file, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def prepare(image: Image.Image, spec: dict) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """What a manifest's `input` makes of a photo: the tensor [3, H, W] and (scale x, scale y, offset x, offset y) from photo to input
    pixels."""
    width, height, method = spec["width"], spec["height"], FILTERS[spec["filter"]]
    if spec.get("colour") == "bgr":
        image = Image.merge("RGB", image.split()[::-1])
    if spec["resize"] == "stretch":
        canvas = np.asarray(image.resize((width, height), method))
        geometry = (width / image.width, height / image.height, 0.0, 0.0)
    elif spec["resize"] == "letterbox":
        scale = min(width / image.width, height / image.height)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas = np.empty((height, width, 3), np.uint8)
        canvas[:] = spec.get("pad", [0, 0, 0])
        canvas[top : top + inner[1], left : left + inner[0]] = np.asarray(image.resize(inner, method))
        geometry = (inner[0] / image.width, inner[1] / image.height, left, top)
    else:
        raise ValueError(f"resize {spec['resize']} is not used by the shipped models")
    values = canvas.astype(np.float32) * np.float32(spec.get("scale", 1 / 255))
    values -= np.asarray(spec.get("mean", [0, 0, 0]), np.float32)
    values /= np.asarray(spec.get("std", [1, 1, 1]), np.float32)
    return values.transpose(2, 0, 1), geometry


class Model:
    """A manifest and a session over the file beside it, one thread."""

    def __init__(self, manifest_path: Path):
        self.manifest = json.loads(manifest_path.read_text())
        file = manifest_path.with_suffix(".onnx")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != self.manifest["sha256"]:
            raise ValueError(f"{manifest_path}: sha256 is {self.manifest['sha256']}, the ONNX file has {digest}")
        self.session = session(file)

    def prepare(self, image: Image.Image) -> tuple[np.ndarray, tuple[float, float, float, float]]:
        return prepare(image, self.manifest["input"])

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.manifest["input"]["name"]: batch})[0]

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        """L2-normalised rows, one per image."""
        rows = [self.run(np.stack([self.prepare(image)[0]]))[0] for image in images]
        return normalized(np.asarray(rows))

    def detect(self, image: Image.Image, score_threshold: float) -> list[tuple[int, float, np.ndarray]]:
        """(class, score, box as x1, y1, x2, y2 in photo pixels) of one photo, best first."""
        values, (sx, sy, ox, oy) = self.prepare(image)
        output = self.manifest["output"]
        found = decode(self.run(values[None])[0], score_threshold, output["iou_threshold"], output["max_detections"])
        limit = np.array([image.width, image.height, image.width, image.height], np.float32)
        back = [(box - [ox, oy, ox, oy]) / [sx, sy, sx, sy] for _, _, box in found]
        return [(label, score, np.clip(box, 0, limit)) for (label, score, _), box in zip(found, back)]


def decode(raw: np.ndarray, score_threshold: float, iou_threshold: float, most: int) -> list[tuple[int, float, np.ndarray]]:
    """Family `yolo_v8`: [4 + classes, anchors] to class-wise non-maximum-suppressed boxes in input pixels, best first."""
    corners = np.concatenate([raw[:2] - raw[2:4] / 2, raw[:2] + raw[2:4] / 2]).T
    classes = raw[4:].argmax(0)
    scores = raw[4:].max(0)
    kept: list[tuple[int, float, np.ndarray]] = []
    for anchor in np.argsort(-scores, kind="stable"):
        if scores[anchor] < score_threshold or len(kept) == most:
            break
        same = [box for label, _, box in kept if label == classes[anchor]]
        if not same or overlaps(corners[anchor : anchor + 1], np.asarray(same)).max() <= iou_threshold:
            kept.append((int(classes[anchor]), float(scores[anchor]), corners[anchor]))
    return kept


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of x1, y1, x2, y2 boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    return shared / np.maximum(area[0][:, None] + area[1][None] - shared, 1e-9)


def covered(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of the box that lies in each of the others: COCO's overlap with a crowd."""
    shared = np.prod(np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None), axis=1)
    return shared / max(float(np.prod(box[2:] - box[:2])), 1e-9)


def matches(found: list, photos: list[dict], label: int, iou: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores and hits of one class over all photos, best first, and the number of true boxes (COCO's greedy matching).

    A photo may have `counts`: 0 for the box of a crowd, in which a detection is neither right nor wrong.
    """
    scores, hits, total = [], [], 0
    for detections, photo in zip(found, photos):
        mine, counts = photo["groups"] == label, np.asarray(photo.get("counts", np.ones(len(photo["groups"])))) > 0
        truth, crowds = photo["boxes"][mine & counts], photo["boxes"][mine & ~counts]
        total += len(truth)
        free = np.ones(len(truth), bool)
        for _, score, box in sorted((d for d in detections if d[0] == label), key=lambda d: -d[1]):
            iou_row = overlaps(box[None], truth)[0] * free if len(truth) else np.zeros(0)
            hit = len(truth) > 0 and iou_row.max() >= iou
            if hit:
                free[iou_row.argmax()] = False
            elif (covered(box, crowds) >= iou).any():
                continue
            scores.append(score)
            hits.append(hit)
    order = np.argsort(-np.asarray(scores), kind="stable")
    return np.asarray(scores)[order], np.asarray(hits, bool)[order], total


def average_precision(found: list, photos: list[dict], label: int, iou: float = 0.5) -> float:
    """COCO's AP of one class: precision made monotone, read at 101 recalls."""
    _, hits, total = matches(found, photos, label, iou)
    if total == 0 or len(hits) == 0:
        return 0.0
    true = np.cumsum(hits)
    recall, precision = true / total, true / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(precision))].mean())


def operating_point(found: list, photos: list[dict], classes: int) -> tuple[float, float]:
    """The highest F1 over all classes together at IoU 0.5, behind the lowest score threshold that gives up at most SLACK of it: a
    garment that is not found costs a shop more than a box too many."""
    parts = [matches(found, photos, label, 0.5) for label in range(classes)]
    scores, hits = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    total = sum(p[2] for p in parts)
    order = np.argsort(-scores, kind="stable")
    true = np.cumsum(hits[order])
    f1 = 2 * true / (np.arange(1, len(true) + 1) + total)
    return float(scores[order][np.flatnonzero(f1 >= f1.max() - SLACK)[-1]]), float(f1.max())


def normalized(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def precision_at(k: int, queries: np.ndarray, rows: np.ndarray, names: np.ndarray) -> float:
    """Mean share of the k nearest other rows (cosine) that carry the query's label; `queries` are positions in `rows`."""
    similar = rows[queries] @ rows.T
    similar[np.arange(len(queries)), queries] = -np.inf
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return float((names[nearest] == names[queries][:, None]).mean())


def recall_at(ks: list[int], queries: np.ndarray, rows: np.ndarray, items: np.ndarray) -> list[float]:
    """Share of queries with a row of the same item among the k nearest other rows (cosine)."""
    similar = rows[queries] @ rows.T
    similar[np.arange(len(queries)), queries] = -np.inf
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, : max(ks)]
    same = items[nearest] == items[queries][:, None]
    return [float(same[:, :k].any(axis=1).mean()) for k in ks]
