"""What `lookbook load` does, in Python: Pillow, NumPy, ONNX Runtime and psycopg's COPY, one process a core.

Written to be fast, as a shop's own script would be: a worker decodes at reduced scale (`draft`), has sessions of
its own with one thread each, runs detector and pose model in batches, embeds all crops of a batch at once, and copies
its rows with its own connection. Models, manifests, photos, rows and transactions (512 photos) are those of the loader.

Prints one JSON object: photos, garments, wall and processor seconds.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by ONNX Runtime when it starts
import numpy
import onnxruntime
import psycopg
from PIL import Image, ImageOps

COMMIT_PHOTOS = 512
CROP_MARGIN = 0.05
# Points of COCO, of each group of which one is seen in a full front view.
POINT_SEEN, FULL_FRONT = 0.5, [[0], [1, 2], [11, 12], [15, 16]]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS,
           "nearest": Image.Resampling.NEAREST}


class Model:
    """An ONNX file and the preparing that its manifest asks for."""

    def __init__(self, onnx: Path):
        self.manifest = json.loads(onnx.with_suffix(".json").read_text(encoding="utf-8"))
        self.input = self.manifest["input"]
        if (self.input["layout"], self.input["dtype"], self.input["colour"]) != ("nchw", "f32", "rgb"):
            raise SystemExit(f"{onnx}: this reference prepares nchw, f32, rgb only")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
        scale, mean, std = self.input["scale"], numpy.array(self.input["mean"]), numpy.array(self.input["std"])
        # A byte's value in each channel: one look-up instead of three passes of arithmetic.
        self.table = (((numpy.arange(256)[:, None] * scale) - mean) / std).astype(numpy.float32)

    def prepare(self, image):
        """The input without its batch axis, and what maps its boxes back: scale across and down, offset."""
        width, height = self.input["width"], self.input["height"]
        resample = FILTERS[self.input["filter"]]
        if self.input["resize"] == "stretch":
            canvas = image.resize((width, height), resample)
            geometry = (width / image.width, height / image.height, 0, 0)
        elif self.input["resize"] == "letterbox":
            ratio = min(width / image.width, height / image.height)
            size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
            left, top = (width - size[0]) // 2, (height - size[1]) // 2
            canvas = Image.new("RGB", (width, height), tuple(self.input["pad"]))
            canvas.paste(image.resize(size, resample), (left, top))
            geometry = (size[0] / image.width, size[1] / image.height, left, top)
        else:
            raise SystemExit(f"this reference does not know resize {self.input['resize']!r}")
        pixels = numpy.asarray(canvas)
        return numpy.stack([self.table[pixels[:, :, c], c] for c in range(3)]), geometry

    def run(self, inputs, *outputs):
        return self.session.run(list(outputs), {self.input["name"]: numpy.stack(inputs)})


def boxes_of(raw, output):
    """Class-wise suppressed boxes (x1, y1, x2, y2, score, class) of one photo, of a yolo_v8 output [4 + classes, anchors]."""
    scores = raw[4:]
    classes = scores.argmax(axis=0)
    best = scores.max(axis=0)
    kept = numpy.flatnonzero(best >= output["score_threshold"])
    kept = kept[numpy.argsort(-best[kept], kind="stable")]
    x, y, w, h = raw[:4, kept]
    corners = numpy.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    found = []
    alive = numpy.ones(len(kept), dtype=bool)
    for at in range(len(kept)):
        if not alive[at]:
            continue
        found.append((*corners[at], float(best[kept[at]]), int(classes[kept[at]])))
        if len(found) == output["max_detections"]:
            break
        rest = corners[at + 1 :]
        wide = numpy.minimum(corners[at, 2], rest[:, 2]) - numpy.maximum(corners[at, 0], rest[:, 0])
        high = numpy.minimum(corners[at, 3], rest[:, 3]) - numpy.maximum(corners[at, 1], rest[:, 1])
        common = wide.clip(0) * high.clip(0)
        iou = common / (area[at] + area[at + 1 :] - common)
        alive[at + 1 :] &= ~((iou > output["iou_threshold"]) & (classes[kept[at + 1 :]] == classes[kept[at]]))
    return found


def is_full_front(heat):
    """Whether nose, an eye, a hip and an ankle are seen in the heat maps [17, rows, columns] of one photo."""
    seen = heat.reshape(len(heat), -1).max(axis=1) > POINT_SEEN
    return all(any(seen[point] for point in group) for group in FULL_FRONT)


class Worker:
    def __init__(self, args):
        self.args = args
        self.detector, self.embedder, self.estimator = Model(args.detector), Model(args.embedder), Model(args.pose)
        self.connection = psycopg.connect(args.url)
        self.rows = []

    def photo(self, path: Path):
        raw = path.read_bytes()
        with Image.open(path) as image:
            size = image.size
            if image.format == "JPEG":
                image.draft("RGB", (640, 640))
            image = ImageOps.exif_transpose(image).convert("RGB")
        return image, size, hashlib.sha256(raw).digest()

    def batch(self, paths):
        photos = [self.photo(path) for path in paths]
        inputs, geometries = zip(*(self.detector.prepare(image) for image, _, _ in photos))
        output = self.detector.manifest["output"]
        (raw,) = self.detector.run(inputs, output["names"]["boxes"])
        names = self.estimator.manifest["output"]["names"]
        heat, _ = self.estimator.run([self.estimator.prepare(image)[0] for image, _, _ in photos], names["heatmaps"], names["offsets"])
        crops, owners = [], []
        for number, (image, _, _) in enumerate(photos):
            sx, sy, left, top = geometries[number]
            found = boxes_of(raw[number], output)
            for x1, y1, x2, y2, score, label in found:
                x1, x2 = ((x - left) / sx for x in (x1, x2))
                y1, y2 = ((y - top) / sy for y in (y1, y2))
                dx, dy = (x2 - x1) * CROP_MARGIN, (y2 - y1) * CROP_MARGIN
                box = (max(0, int(x1 - dx)), max(0, int(y1 - dy)),
                       min(image.width, int(numpy.ceil(x2 + dx))), min(image.height, int(numpy.ceil(y2 + dy))))
                if box[2] <= box[0] or box[3] <= box[1]:
                    continue
                crops.append(self.embedder.prepare(image.crop(box))[0])
                owners.append((number, output["labels"][label]["name"], score, (x1, y1, x2, y2)))
            if not found:
                crops.append(self.embedder.prepare(image)[0])
                owners.append((number, "photo", None, (0, 0, image.width, image.height)))
        (vectors,) = self.embedder.run(crops, self.embedder.manifest["output"]["name"])
        if self.embedder.manifest["output"]["normalize"]:
            vectors = vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)
        for number, (path, (_, size, digest)) in enumerate(zip(paths, photos)):
            garments = [(o[1], o[2], o[3], v) for o, v in zip(owners, vectors) if o[0] == number]
            self.rows.append((str(path), digest, size, is_full_front(heat[number]), garments))
        if len(self.rows) >= COMMIT_PHOTOS:
            self.commit()
        return len(owners)

    def commit(self):
        with self.connection.transaction(), self.connection.cursor() as cursor:
            ids = cursor.execute(
                "SELECT nextval(pg_get_serial_sequence('reference.photo', 'id')) FROM generate_series(1, %s)", [len(self.rows)]
            ).fetchall()
            with cursor.copy("COPY reference.photo (id, path, sha256, width, height, full_front_pose) FROM STDIN") as copy:
                for (number,), (path, digest, size, pose, _) in zip(ids, self.rows):
                    copy.write_row((number, path, digest, *size, pose))
            with cursor.copy("COPY reference.garment (photo_id, category, score, box, embedding) FROM STDIN") as copy:
                for (number,), (_, _, _, _, garments) in zip(ids, self.rows):
                    for category, score, box, vector in garments:
                        text = "[" + ",".join(map(str, vector.tolist())) + "]"
                        copy.write_row((number, category, score, "(({},{}),({},{}))".format(*box), text))
        self.rows = []


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def work(args, queue, results):
    worker = Worker(args)
    before = processor_seconds()
    results.put("ready")
    garments = 0
    while (paths := queue.get()) is not None:
        garments += worker.batch(paths)
    if worker.rows:
        worker.commit()
    results.put((garments, processor_seconds() - before))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--embedder", type=Path, required=True)
    parser.add_argument("--pose", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True, help="a file with one path a line")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    paths = [Path(line) for line in args.photos.read_text(encoding="utf-8").splitlines()]
    dimensions = json.loads(args.embedder.with_suffix(".json").read_text(encoding="utf-8"))["output"]["dimensions"]
    with psycopg.connect(args.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS reference CASCADE")
        connection.execute("CREATE SCHEMA reference")
        connection.execute(
            "CREATE TABLE reference.photo (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, path text NOT NULL UNIQUE,"
            " sha256 bytea NOT NULL, width int NOT NULL, height int NOT NULL, full_front_pose boolean NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE reference.garment (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,"
            " photo_id bigint NOT NULL REFERENCES reference.photo ON DELETE CASCADE, category text NOT NULL, score real,"
            f" box box NOT NULL, embedding embedding({dimensions}) NOT NULL)"
        )
    context = multiprocessing.get_context("spawn")
    queue, results = context.Queue(maxsize=2 * args.processes), context.Queue()
    workers = [context.Process(target=work, args=(args, queue, results)) for _ in range(args.processes)]
    for worker in workers:
        worker.start()
    for _ in workers:
        results.get()
    # Starting Python and opening models is not what is compared.
    start = time.perf_counter()
    for first in range(0, len(paths), args.batch):
        queue.put(paths[first : first + args.batch])
    for _ in workers:
        queue.put(None)
    done = [results.get() for _ in workers]
    wall = time.perf_counter() - start
    for worker in workers:
        worker.join()
    print(json.dumps({
        "photos": len(paths),
        "garments": sum(garments for garments, _ in done),
        "wall_seconds": wall,
        "processor_seconds": sum(seconds for _, seconds in done),
    }))


if __name__ == "__main__":
    main()
