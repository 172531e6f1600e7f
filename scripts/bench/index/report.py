#!/usr/bin/env python3
"""What was measured, as Markdown: tables for each set, then the goals beside the figures.

    report.py FILE.json...             several runs: a later file's parts replace an earlier one's

Cost at a recall is read between the two measured settings around it: linear in the logarithm of what is missed. A side whose
lowest setting is above the recall already is taken at that setting.
"""

import json
import math
import sys
from pathlib import Path

GOALS = (0.90, 0.95, 0.98, 0.99)
ENGINES = ("lookbook", "hnsw", "ivfflat", "faiss")
TITLES = {"lookbook": "lookbook", "hnsw": "pgvector HNSW", "ivfflat": "pgvector IVFFlat", "faiss": "faiss, in-process"}


def number(value, digits=2):
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.{digits}f}"


def table(head, rows):
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def search_points(of):
    found = of.get("search")
    return found["points"] if isinstance(found, dict) else found or []


def at_recall(points, goal, field="cpu_ms"):
    """The cost at a recall, or None where it was not reached."""
    before = None
    for point in sorted(points, key=lambda point: point[field]):
        if point["recall"] >= goal:
            if before is None or point["recall"] == before["recall"]:
                return point[field]
            missed = [math.log(max(1 - recall, 1e-6)) for recall in (before["recall"], goal, point["recall"])]
            return before[field] + (point[field] - before[field]) * (missed[0] - missed[1]) / (missed[0] - missed[2])
        before = point
    return None


def get(of, *path):
    for key in path:
        if not isinstance(of, dict) or key not in of:
            return None
        of = of[key]
    return of


def ratio(ours, theirs):
    return None if ours is None or not theirs else ours / theirs


def search_tables(of):
    rows = []
    for engine in ENGINES:
        for point in search_points(of.get(engine, {})):
            if point["recall"] >= 0.85:
                costs = [number(point.get(field), 3) for field in ("cpu_ms", "cpu_mean_ms", "cpu_p99_ms", "wall_ms", "wall_p99_ms")]
                rows.append([TITLES[engine], point["setting"], f"{point['recall']:.4f}", *costs, point["queries"]])
    head = ["index", "setting", "recall@10", "CPU ms", "mean", "p99", "wall ms", "p99", "queries"]
    text = table(head, rows) + "\n"
    rows = []
    for engine in ENGINES:
        costs = [at_recall(search_points(of.get(engine, {})), goal) for goal in GOALS]
        if any(cost is not None for cost in costs):
            rows.append([TITLES[engine], *(number(cost, 3) for cost in costs)])
    text += table(["CPU ms per query at recall", *map(str, GOALS)], rows) + "\n"
    rows = []
    for engine in ENGINES[:3]:
        through = get(of, engine, "throughput")
        if through:
            rows.append(
                [
                    TITLES[engine],
                    through["setting"],
                    f"{through['recall']:.3f}",
                    number(through["per_second_1"], 0),
                    number(through["per_second_2"], 0),
                ]
            )
    text += table(["queries/s (pgbench)", "setting", "recall", "one connection", "two connections"], rows)
    floor = get(of, "floor", "ten_by_key")
    if floor:
        text += f"\nFloor, ten rows by primary key: {floor['cpu_ms']:.3f} ms CPU, {floor['wall_ms']:.3f} ms wall; "
        text += f"`SELECT $1`: {of['floor']['one']['cpu_ms']:.3f} ms CPU.\n"
    return text


def change_tables(of):
    rows = []
    for engine in ENGINES[:3]:
        for key, what in (("build", ""), ("build_alone", ", no parallel workers"), ("build_with_category", ", with a filter column")):
            build = get(of, engine, key)
            if build:
                costs = [number(build[field], 1) for field in ("wall_s", "cpu_s", "peak_mb")]
                rows.append(
                    [
                        TITLES[engine] + what,
                        *costs,
                        build["maintenance_work_mem"],
                        number(build["index_bytes"] / 1e6, 1),
                        number(build["table_bytes"] / 1e6, 0),
                    ]
                )
    text = table(["build", "wall s", "CPU s", "peak own MB", "maintenance_work_mem", "index MB", "table MB"], rows) + "\n"
    rows = []
    for engine in ENGINES[:3]:
        insert = get(of, engine, "insert")
        if insert:
            single, copy = insert["single"], insert["copy"]
            rows.append(
                [TITLES[engine], number(single["per_second"], 0), number(single["per_cpu_second"], 0), number(single["cpu_ms"], 3)]
                + [number(single["cpu_p99_ms"], 2), number(copy["per_second"], 0), number(copy["per_cpu_second"], 0)]
            )
    text += table(["insert", "single rows/s", "per CPU s", "CPU ms", "p99", "COPY rows/s", "per CPU s"], rows) + "\n"
    rows = []
    for engine in ENGINES[:3]:
        for point in get(of, engine, "filter") or []:
            costs = [number(point[field], 2) for field in ("cpu_ms", "cpu_p99_ms", "wall_ms")]
            where = "in the index" if point["column"] == "category" else "not in the index"
            rows.append([f"{TITLES[engine]}, {point['how']}", where, f"{100 * point['share']:g} %", number(point["rows"], 2), f"{point['recall']:.3f}", *costs])
    text += table(["filter", "column", "share", "rows of 10", "recall", "CPU ms", "p99", "wall ms"], rows) + "\n"
    rows = []
    for engine in ENGINES[:3]:
        delete = get(of, engine, "delete")
        for point in get(delete, "search") or []:
            vacuum = delete["vacuum"]
            rows.append(
                [
                    TITLES[engine],
                    number(vacuum["wall_s"], 1),
                    number(vacuum["cpu_s"], 1),
                    number(delete["bytes_after"] / delete["bytes_before"]),
                    point["setting"],
                ]
                + [f"{point['recall']:.4f}", number(point["cpu_ms"], 3)]
            )
    text += table(["a fifth deleted, vacuumed", "vacuum wall s", "CPU s", "size after/before", "setting", "recall", "CPU ms"], rows) + "\n"
    grow = get(of, "lookbook", "grow")
    if grow:
        rows = []
        for grown, rebuilt in zip(grow["grown"]["search"], grow["rebuilt"]["search"], strict=True):
            rows.append(
                [
                    grown["setting"],
                    f"{grown['recall']:.4f}",
                    f"{rebuilt['recall']:.4f}",
                    number(grown["cpu_ms"], 3),
                    number(rebuilt["cpu_ms"], 3),
                ]
            )
        text += f"Grown from empty by COPY at {grow['fill']['per_second']:,.0f} rows/s ({grow['fill']['cpu_s']:.0f} s CPU):\n\n"
        text += table(["lookbook.recall", "recall grown", "rebuilt", "CPU ms grown", "rebuilt"], rows)
        sizes = [grow[state]["index_bytes"] / 1e6 for state in ("grown", "rebuilt")]
        text += f"\nIndex MB: grown {sizes[0]:.1f}, rebuilt {sizes[1]:.1f}.\n"
    return text


def likeness_table(of):
    sides = of.get("likeness")
    if not sides:
        return ""
    figures = next(iter(sides.values()))
    rows = [[figure, *(number(side[figure]) for side in sides.values())] for figure in figures]
    return "\n" + table(["vectors", *sides], rows)


def goals(sets):
    """The table of what is to be reached: (what, limit, measured, better when)."""
    fm, emb = sets.get("fm784", {}), sets.get("emb256", {})
    out = []

    def cost(of, goal, field="cpu_ms"):
        points = {engine: at_recall(search_points(of.get(engine, {})), goal, field) for engine in ("lookbook", "hnsw")}
        return ratio(points["lookbook"], points["hnsw"])

    for name, of, goal in (("fm784", fm, 0.99), ("emb256", emb, 0.95), ("emb256", emb, 0.99)):
        for field, what in (("cpu_ms", "median"), ("cpu_mean_ms", "mean")):
            out.append((f"CPU per query at recall {goal}, {name}, {what}", "≤", 0.25, cost(of, goal, field)))
    for field, what in (("wall_s", "wall"), ("cpu_s", "CPU")):
        out.append((f"build {what}, emb256", "≤", 0.06, ratio(get(emb, "lookbook", "build", field), get(emb, "hnsw", "build", field))))
    for name, of in (("fm784", fm), ("emb256", emb)):
        out.append(
            (f"index size, {name}", "≤", 0.25, ratio(get(of, "lookbook", "build", "index_bytes"), get(of, "hnsw", "build", "index_bytes")))
        )
    rates = [get(emb, engine, "insert", "single", "per_second") for engine in ("lookbook", "hnsw")]
    out.append(("single-row inserts per second, emb256", "≥", 15, ratio(*rates)))
    for name, of in (("fm784", fm), ("emb256", emb)):
        ours = {(point["column"], point["share"]): point for point in get(of, "lookbook", "filter") or []}
        point = ours.get(("category", 0.001))
        if point:
            out.append((f"filter in the index, 0.1 %: rows of 10, {name}", "≥", 10, point["rows"]))
            out.append((f"filter in the index, 0.1 %: recall, {name}", "≥", 0.99, point["recall"]))
            for other in get(of, "hnsw", "filter") or []:
                if other["share"] == 0.001:
                    what = f"filter in the index, 0.1 %: CPU beside HNSW {other['how']} (its recall {other['recall']:.2f}), {name}"
                    out.append((what, "≤", 0.05, ratio(point["cpu_ms"], other["cpu_ms"])))
        outside = [point for (column, _), point in ours.items() if column == "other"]
        if outside:
            out.append(
                (f"filter not in the index: rows of 10, least of three shares, {name}", "≥", 10, min(point["rows"] for point in outside))
            )
            out.append(
                (f"filter not in the index: recall, least of three shares, {name}", "≥", 0.98, min(point["recall"] for point in outside))
            )
        grow = get(of, "lookbook", "grow")
        if grow:
            pairs = list(zip(grow["grown"]["search"], grow["rebuilt"]["search"], strict=True))
            out.append((f"grown / rebuilt: recall, worst setting, {name}", "≥", 0.9, min(a["recall"] / b["recall"] for a, b in pairs)))
            out.append((f"grown / rebuilt: CPU, worst setting, {name}", "≤", 1.1, max(a["cpu_ms"] / b["cpu_ms"] for a, b in pairs)))
        points = [point for point in search_points(of.get("lookbook", {})) if point["setting"] in GOALS]
        if points:
            out.append(
                (f"recall below lookbook.recall by at most, {name}", "≤", 0.01, max(point["setting"] - point["recall"] for point in points))
            )
    out.append(("peak memory of the build at 256 MB, emb256, MB", "≤", 281.6, get(emb, "lookbook", "build", "peak_mb")))
    for name, of, goal in (("fm784", fm, 0.99), ("emb256", emb, 0.95), ("emb256", emb, 0.99)):
        points = {engine: at_recall(search_points(of.get(engine, {})), goal) for engine in ("lookbook", "faiss")}
        out.append((f"aim beyond: CPU of faiss at {goal}, {name}", "≤", 1.5, ratio(points["lookbook"], points["faiss"])))
    return out


def goals_table(sets):
    rows = []
    for what, sign, limit, measured in goals(sets):
        if measured is not None:
            reached = measured <= limit if sign == "≤" else measured >= limit
            rows.append([what, f"{sign} {limit:g}", f"{measured:.4g}", "yes" if reached else "**no**"])
    return table(["against pgvector HNSW at equal recall", "to reach", "measured", "reached"], rows)


def markdown(results):
    text = f"# Index benchmark, {results['started']}\n\nlookbook {results['commit']}, PostgreSQL {results['server']}, "
    text += f"pgvector {results['pgvector']}, {results['cores']} cores of {results['machine']}; parts: {', '.join(results['parts'])}\n\n"
    text += goals_table(results["sets"])
    for name, of in results["sets"].items():
        text += f"\n## {name}: {of['rows']:,} rows of {of['dimensions']}\n\n{search_tables(of)}\n{change_tables(of)}{likeness_table(of)}"
    if results.get("broken"):
        text += "\n## Broken promises\n\n" + "".join(f"* {promise}\n" for promise in results["broken"])
    return text


def merge(into, other):
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        elif value != [] or key not in into:
            into[key] = value


if __name__ == "__main__":
    merged = {}
    for path in sys.argv[1:]:
        merge(merged, json.loads(Path(path).read_text(encoding="utf-8")))
    print(markdown(merged))
