"""The two sets: rows, held-out queries, exact neighbours, categories to filter by, fresh rows to insert.

Owns where vectors come from; knows no server. Rows are float32 [rows, dimensions], the row number is the id. Truth is exact,
and recall is counted by distance, so that twins in the data are not mistakes.
"""

import gzip
import os
from dataclasses import dataclass, field
from pathlib import Path

import emb256
import numpy as np

NEIGHBOURS = 10
# Of all rows, drawn at random; category 3 is the rest.
SHARES = {0: 0.10, 1: 0.01, 2: 0.001}


@dataclass
class Dataset:
    name: str
    rows: np.ndarray
    queries: np.ndarray
    truth: np.ndarray  # int [queries, at least NEIGHBOURS]
    category: np.ndarray = field(init=False)  # what the index of lookbook may hold
    other: np.ndarray = field(init=False)  # the same, never in an index

    def __post_init__(self):
        rng = np.random.default_rng(7)
        edges = np.cumsum(list(SHARES.values()))
        self.category, self.other = (np.searchsorted(edges, rng.random(len(self.rows)), "right").astype(np.int32) for _ in range(2))

    @property
    def dimensions(self):
        return self.rows.shape[1]

    def fresh(self, count):
        """Rows that are in nobody's index: rows of the set, moved by a hundredth of their length."""
        rng = np.random.default_rng(8)
        rows = np.array(self.rows[rng.choice(len(self.rows), count)])
        step = np.linalg.norm(rows, axis=1, keepdims=True) * 0.01 / np.sqrt(self.dimensions)
        rows += step * rng.standard_normal(rows.shape, dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if self.name == "emb256" else rows

    def reach(self, count, allowed=None):
        """Distance of the last true neighbour of each of the first `count` queries, among rows that `allowed` (bool) marks."""
        if allowed is None:
            return self.distances(np.arange(count), self.truth[:count, NEIGHBOURS - 1 : NEIGHBOURS])[:, 0]
        ids = np.flatnonzero(allowed)
        nearest = ids[emb256.nearest(self.rows[ids], self.queries[:count], NEIGHBOURS)]
        return self.distances(np.arange(count), nearest[:, -1:])[:, 0]

    def distances(self, queries, ids):
        """Exact, float64 [queries, ids a query]."""
        difference = self.rows[ids].astype(np.float64) - self.queries[queries][:, None, :]
        return np.sqrt((difference**2).sum(2))

    def recall(self, found, reach, allowed=None):
        """Share of NEIGHBOURS (or of all rows there are) found; `found` is a list of ids for each of the first queries."""
        wanted = NEIGHBOURS if allowed is None else min(NEIGHBOURS, int(allowed.sum()))
        right = 0
        for query, (ids, limit) in enumerate(zip(found, reach, strict=True)):
            if len(set(ids)) != len(ids):
                raise AssertionError(f"query {query}: a row was returned twice: {ids}")
            if ids:
                near = self.distances(np.array([query]), np.array([ids]))[0] <= limit * (1 + 1e-6)
                right += min(wanted, int(near.sum()))
        return right / (wanted * len(found))


def fm784(_folder, rows, queries):
    data = Path(os.environ.get("LOOKBOOK_DATA") or Path(__file__).resolve().parents[3] / "../shared/data") / "fashion-mnist"

    def images(name, count):
        path = data / f"{name}-images-idx3-ubyte.gz"
        if not path.exists():
            raise SystemExit(f"lookbook: no {path.name}: LOOKBOOK_DATA must name the folder with fashion-mnist/ (or SETS=emb256)")
        pixels = np.frombuffer(gzip.open(path).read(), np.uint8, offset=16).reshape(-1, 784)
        return pixels[:count].astype(np.float32)

    x, q = images("train", rows), images("t10k", queries)
    return Dataset("fm784", x, q, emb256.nearest(x, q, NEIGHBOURS))


def make_emb256(folder, rows, queries):
    emb256.make(folder, rows, queries)
    x = np.memmap(folder / "emb256.f32", "<f4", "r").reshape(-1, emb256.DIMENSIONS)
    q = np.fromfile(folder / "emb256.queries.f32", "<f4").reshape(-1, emb256.DIMENSIONS)
    truth = np.fromfile(folder / "emb256.truth.i32", "<i4").reshape(-1, emb256.TRUTH)
    return Dataset("emb256", x, q, truth)


SETS = {"fm784": fm784, "emb256": make_emb256}
