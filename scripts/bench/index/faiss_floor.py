"""faiss's IVF-PQ with fast-scan and refinement on the same rows: in this process, one thread, no SQL.

Owns its configuration; returns the cheapest point for each recall it reaches. Queries go one by one, as they do in SQL.
Training and adding use all cores and are not part of what is compared.
"""

import time

import faiss
import numpy as np

# Lists, and dimensions for each 4-bit code: the best of a few tried by hand on each set.
SHAPES = {"fm784": (256, 4), "emb256": (4096, 2)}
PROBES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
KEPT = (2, 4, 8, 16, 32)  # candidates for the refinement, in multiples of the rows wanted


def build(data):
    lists, width = SHAPES[data.name]
    rows = np.ascontiguousarray(data.rows, np.float32)
    lists = min(lists, len(rows) // 64)
    index = faiss.index_factory(data.dimensions, f"IVF{lists},PQ{data.dimensions // width}x4fs,RFlat")
    coarse = faiss.extract_index_ivf(index)
    coarse.cp.niter, coarse.cp.max_points_per_centroid = (4 if len(rows) < 50_000 else 8), 64
    started = time.process_time()
    index.train(rows[: 64 * lists])
    index.add(rows)
    return index, time.process_time() - started


def measure(data, smoke):
    faiss.omp_set_num_threads(2)
    index, build_cpu_s = build(data)
    faiss.omp_set_num_threads(1)
    count = min(len(data.queries), 100 if smoke else 1_000)
    reach = data.reach(count)
    points = []
    for kept in KEPT[1:3] if smoke else KEPT:
        best = 0.0
        for probes in PROBES[2:8] if smoke else PROBES:
            inner = faiss.IVFSearchParameters(nprobe=probes)
            parameters = faiss.IndexRefineSearchParameters(k_factor=kept, base_index_params=inner)
            found, cpu, wall = [], [], []
            for at in range(count):
                cpu_before, started = time.thread_time(), time.perf_counter()
                ids = index.search(data.queries[at : at + 1], 10, params=parameters)[1][0]
                wall.append((time.perf_counter() - started) * 1e3)
                cpu.append((time.thread_time() - cpu_before) * 1e3)
                found.append([int(i) for i in ids if i >= 0])
            recall = data.recall(found, reach)
            point = {"setting": f"nprobe {probes}, refine {kept}", "recall": recall, "cpu_ms": float(np.median(cpu)), "cpu_mean_ms": float(np.mean(cpu))}
            points.append({**point, "wall_ms": float(np.median(wall)), "queries": count})
            # More lists do not help once the candidates are the limit.
            if recall >= 0.994 or recall - best < 0.0005:
                break
            best = recall
    return {"points": front(points), "build_cpu_s": build_cpu_s}


def front(points):
    """Points that no other beats in both recall and processor time, by recall."""
    out = []
    for point in sorted(points, key=lambda point: (point["cpu_ms"], -point["recall"])):
        if not out or point["recall"] > out[-1]["recall"]:
            out.append(point)
    return out
