"""Retrieval accuracy of the embedders in one table, as Table 2 of the attention paper has it.

    python retrieval.py [SET…]      # default: every set

Owns: the sets, and top-k accuracy on them. Must not know: PyTorch, how an embedder was made. Invariant: every embedder sees the same
queries and the same gallery, prepared as its own manifest says.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

import data
import metrics
import numpy as np
import run_files
from PIL import Image

KS = [1, 5, 10, 20, 30, 50]
EMBEDDERS = [data.SHIPPED / "garment-embedder.json", data.SHIPPED / "resnet-preact-64.json", data.OPTIONAL / "attention-texture.json"]


def _rows(path: str) -> list[dict]:
    with open(data.root() / path, newline="") as lines:
        return list(csv.DictReader(lines))


def family() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Studio photos (never trained on): same brand, line and colour."""
    paths = [f"catalogue/{row['path']}" for row in _rows("catalogue/catalogue.csv") if row["source"].startswith("myntra")]
    return _numbered(paths, [row for row in _rows("retrieval/retrieval.csv") if row["set"] == "family"])


def same_item() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Closet garments photographed twice, among the closet's validation photos; part of the 16 was trained on."""
    known = [row for row in _rows("retrieval/retrieval.csv") if row["set"] == "same_item"]
    paths = sorted({row["path"] for row in known} | {f"catalogue/{row['path']}" for row in data.closet("val")})
    return _numbered(paths, known)


def ccp_pairs() -> tuple[list[str], np.ndarray, np.ndarray]:
    """Street photos in another crop or exposure, among all street photos; part of the 15 was trained on."""
    known = _rows("retrieval/ccp_pairs.csv")
    street = [str(photo["path"].relative_to(data.root())) for split in ("train", "val") for photo in data.street(split)]
    numbers = {Path(row["path"]).stem.removeprefix("ccp_") for row in known}
    kept = [path for path in street if not any(number in Path(path).stem for number in numbers)]
    return _numbered([row["path"] for row in known] + kept, known)


SETS = {"family": family, "same_item": same_item, "ccp_pairs": ccp_pairs}


def _numbered(paths: list[str], known: list[dict]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Paths, positions of the queries, and the item of each path (its own where none is known)."""
    by_path = {row["path"]: row for row in known}
    items = np.array([by_path[path]["item_id"] if path in by_path else path for path in paths])
    queries = np.flatnonzero([path in by_path and by_path[path]["role"] == "query" for path in paths])
    return paths, queries, items


class Baseline:
    """MobileNetV2 cut at its 1,280-d pool, trained elsewhere."""

    def __init__(self):
        path = data.root() / data.TEACHER
        self.session = metrics.session(path)
        self.manifest = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        seen = [np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))[None] for image in images]
        return metrics.normalized(np.concatenate([self.session.run(None, {"input": one})[0] for one in seen]))


def embedders() -> dict:
    """Ours, as far as they are exported, and the baseline."""
    return {path.stem: metrics.Model(path) for path in EMBEDDERS if path.exists()} | {"MobileNetV2 (baseline)": Baseline()}


def embedded(name: str, paths: list[str], model) -> np.ndarray:
    """The set's rows, kept by the digest of the model, so that a stopped evaluation continues."""

    def make() -> np.ndarray:
        return np.concatenate([model.embed([Image.open(data.root() / one).convert("RGB")]) for one in paths])

    return data.keep(data.CACHE / f"val_rows_{name}_{model.manifest['sha256'][:16]}.npy", make)


def table(names: list[str] | None = None) -> None:
    found = embedders()
    for name in names or list(SETS):
        paths, queries, items = SETS[name]()
        print(f"\n{name}: {len(queries)} queries, {len(paths)} photos. {SETS[name].__doc__}\n")
        print("| embedder | " + " | ".join(f"top-{k}" for k in KS) + " |\n|---" + "|---" * len(KS) + "|")
        for title, model in found.items():
            shares = metrics.recall_at(KS, queries, embedded(name, paths, model), items)
            print(f"| {title} | " + " | ".join(f"{share:.3f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    with run_files.stoppable():
        table(sys.argv[1:])
