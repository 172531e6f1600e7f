#!/usr/bin/env python3
"""Draws detections and annotations and has pycocotools judge them: the golden numbers of loader/src/eval/average_precision.rs.

Needs: pycocotools, numpy. The result, cases.json, is committed.
"""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def judge(case):
    """AP at 0.5 and at 0.5:0.95 of each category, and their means."""
    images = [{"id": i} for i in range(case["photos"])]
    categories = [{"id": c, "name": str(c)} for c in range(case["categories"])]
    # Ids from 1: cocoeval takes an annotation of id 0 for none.
    annotations = [
        {"id": n, "image_id": p, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": int(crowd)}
        for n, (p, c, b, crowd) in enumerate(case["truth"], 1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
        truth.createIndex()
        found = truth.loadRes([{"image_id": p, "category_id": c, "bbox": b, "score": s} for p, c, b, s in case["found"]])
        run = COCOeval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    # Thresholds, recalls, categories, areas (0: all), numbers of detections (2: 100).
    precision = run.eval["precision"][:, :, :, 0, 2]
    expected = []
    for c in range(case["categories"]):
        one = precision[:, :, c]
        expected.append(None if one.max() < 0 else [float(one[0].mean()), float(one.mean())])
    return {"expected": expected, "map50": float(run.stats[1]), "map50_95": float(run.stats[0])}


def case(name, photos, categories, truth, found):
    drawn = {"name": name, "photos": photos, "categories": categories, "truth": truth, "found": found}
    return drawn | judge(drawn)


def drawn(name, seed, photos=12, categories=3, crowd=0.0, per_photo=4, extra=3, ties=False, grid=None):
    """Annotations at random, most of them found with some error, and detections where nothing is."""
    random = np.random.default_rng(seed)

    def box():
        corner, size = random.uniform(0, 300, 2), random.uniform(8, 150, 2)
        return [*corner, *size]

    def tidy(box):
        # On a grid, overlaps hit thresholds exactly.
        return [float(round(v / grid) * grid) if grid else round(float(v), 2) for v in box]

    truth, found = [], []
    for photo in range(photos):
        for _ in range(random.integers(0, per_photo + 1)):
            category, place = int(random.integers(categories)), box()
            truth.append([photo, category, tidy(place), bool(random.random() < crowd)])
            for _ in range(random.integers(0, 3)):
                moved = np.array(place) + random.normal(0, random.choice([2, 10, 40]), 4)
                moved[2:] = np.maximum(moved[2:], 5)
                score = random.choice([0.3, 0.5, 0.9]) if ties else random.random()
                kind = category if random.random() < 0.9 else int(random.integers(categories))
                found.append([photo, kind, tidy(moved), round(float(score), 4)])
        for _ in range(random.integers(0, extra + 1)):
            found.append([photo, int(random.integers(categories)), tidy(box()), round(float(random.random()), 4)])
    return case(name, photos, categories, truth, found)


def main():
    square = [10.0, 10.0, 20.0, 20.0]
    many = [[0, 0, [float(i), 0.0, 10.0, 10.0], round(0.999 - i / 1000, 4)] for i in range(140)]
    cases = [
        case("found at once", 1, 1, [[0, 0, square, False]], [[0, 0, square, 0.9]]),
        case("found twice", 1, 1, [[0, 0, square, False]], [[0, 0, square, 0.9], [0, 0, [11.0, 10.0, 20.0, 20.0], 0.8]]),
        case("exactly half", 1, 1, [[0, 0, [0.0, 0.0, 10.0, 10.0], False]], [[0, 0, [0.0, 0.0, 10.0, 5.0], 0.9]]),
        case("the 101st detection does not count", 1, 1, [[0, 0, [120.0, 0.0, 10.0, 10.0], False], [0, 0, [3.0, 0.0, 10.0, 10.0], False]], many),
        case("a category that nobody annotated, and one that nobody found", 2, 3,
             [[0, 0, square, False], [1, 2, square, False]], [[0, 0, square, 0.5], [1, 1, square, 0.5]]),
        case("crowds", 1, 1, [[0, 0, square, True], [0, 0, [50.0, 50.0, 30.0, 30.0], False]],
             [[0, 0, [12.0, 12.0, 5.0, 5.0], 0.9], [0, 0, [14.0, 14.0, 5.0, 5.0], 0.8], [0, 0, [51.0, 50.0, 30.0, 30.0], 0.7]]),
        drawn("at random", 1),
        drawn("equal scores", 2, ties=True),
        drawn("with crowds", 3, crowd=0.3),
        drawn("on a grid", 4, grid=10),
        drawn("crowded photos", 5, photos=4, categories=2, per_photo=30, extra=30),
        drawn("many", 6, photos=60, categories=5, ties=True, crowd=0.1),
    ]
    Path(__file__).with_name("cases.json").write_text(
        "[\n" + ",\n".join(json.dumps(one, separators=(",", ":")) for one in cases) + "\n]\n"
    )


if __name__ == "__main__":
    main()
