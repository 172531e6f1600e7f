"""Whether drawn vectors look like embeddings of photos: both sides' distances and local dimension, at the same number of rows.

The photos are the closet photos of LOOKBOOK_DATA, embedded whole by `embed_image` with the shipped model. Local intrinsic
dimension is the maximum-likelihood estimate (Levina and Bickel 2004) from the distances of the k nearest neighbours.
"""

import os
from pathlib import Path

import numpy as np

NEAREST = 100


def neighbour_distances(rows, count=NEAREST, asked=1000):
    """Sorted distances [asked, count] of some rows to their nearest others; unit vectors."""
    at = np.random.default_rng(1).choice(len(rows), min(asked, len(rows)), replace=False)
    squared = np.maximum(2 - 2 * (rows[at] @ rows.T), 0)
    squared[np.arange(len(at)), at] = np.inf
    return np.sqrt(np.sort(np.partition(squared, count, axis=1)[:, :count], axis=1))


def local_dimension(distances, k):
    near = np.maximum(distances[:, :k], 1e-9)
    return float(np.median(-1 / np.mean(np.log(near[:, :-1] / near[:, -1:]), axis=1)))


def describe(rows):
    distances = neighbour_distances(rows)
    rng = np.random.default_rng(2)
    pairs = np.linalg.norm(rows[rng.integers(0, len(rows), 20_000)] - rows[rng.integers(0, len(rows), 20_000)], axis=1)
    variances = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1].cumsum()
    out = {"rows": len(rows), "length of the mean": float(np.linalg.norm(rows.mean(0)))}
    out |= {f"distance of pairs, {p} %": float(np.percentile(pairs, p)) for p in (5, 50, 95)}
    out |= {f"distance of neighbour {k}": float(np.median(distances[:, k - 1])) for k in (1, 10, 100)}
    out |= {f"local dimension, k = {k}": local_dimension(distances, k) for k in (20, 50, 100)}
    out |= {f"axes for {p} % of variance": int(np.searchsorted(variances / variances[-1], p / 100)) + 1 for p in (50, 90)}
    return out


def photos(connection):
    """float32 [photos, 256] of the closet photos, or None where there are none."""
    folder = Path(os.environ.get("LOOKBOOK_DATA") or Path(__file__).resolve().parents[3] / "../shared/data") / "catalogue/closet"
    files = sorted(folder.glob("*.jpg"))
    if not files:
        return None
    connection.sql("SET lookbook.inference_threads = 1")
    vectors = [connection.one("SELECT try_embed_image(%b)::real[]", file.read_bytes()) for file in files]
    return np.array([vector for vector in vectors if vector is not None], np.float32)


def compare(data, connection):
    real = photos(connection)
    out = {f"all {len(data.rows):,} rows": describe(np.asarray(data.rows))} if len(data.rows) <= 100_000 else {}
    if real is None:
        return out
    return {"photos": describe(real), "drawn": describe(np.array(data.rows[: len(real)])), **out}
