"""Runs the loader, the Python reference and bare inference by turns on the same photos, and prints their tables."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
from PIL import Image

HERE = Path(__file__).parent
ENDS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
# A camera's photo: 12 megapixels, at the quality that cameras use.
CAMERA_SIDE, CAMERA_PHOTOS, CAMERA_QUALITY = 4000, 150, 92


def last_json(command, **more):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, **more)
    # The loader's 2: photos were rejected, which the counts say.
    if done.returncode not in (0, 2):
        sys.exit(f"{command[0]} ended with code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


class Bench:
    def __init__(self, args, scratch):
        self.args, self.scratch = args, scratch
        # One setting for all: the loader's threads, the reference's processes.
        self.cores = os.cpu_count() or 1
        self.loader = [str(args.loader.resolve())]
        self.environment = {**os.environ, "LOOKBOOK_DATABASE": args.url}
        names = {"detector": "garment-detector", "embedder": "garment-embedder", "pose": "full-front-pose"}
        self.choice = ["--detect-model", names["detector"], "--embed-model", names["embedder"], "--pose-model", names["pose"]]
        self.models = {kind: scratch / f"{name}.onnx" for kind, name in names.items()}
        for name in names.values():
            last = [*self.loader, "model", "export", name, "--out", str(scratch)]
            subprocess.run(last, check=True, env=self.environment, stdout=subprocess.DEVNULL)

    def loader_on(self, device, *words):
        where = ["--device", device]
        if device == "openvino":
            where += ["--onnxruntime", str(self.args.openvino.resolve())]
        return last_json([*self.loader, *words, *self.choice, *where], env=self.environment)

    def load(self, folder, device):
        with psycopg.connect(self.args.url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA IF EXISTS bench CASCADE")
        summary = self.loader_on(device, "load", str(folder), "--schema", "bench", "--no-index", "--progress", "json",
                                 "--rejects", str(self.scratch / "rejects.csv"))
        counts = summary["counts"]
        return {"photos": counts["loaded"], "garments": counts["garments"], "wall": summary["pipeline_seconds"],
                "processor": summary["processor_seconds"], "summary": summary}

    def reference(self, photos):
        listed = self.scratch / "photos.txt"
        listed.write_text("".join(f"{photo}\n" for photo in photos), encoding="utf-8")
        command = [sys.executable, str(HERE / "load_reference.py"), "--url", self.args.url, "--photos", str(listed),
                   "--processes", str(self.cores)]
        for kind, onnx in self.models.items():
            command += [f"--{kind}", str(onnx)]
        found = last_json(command)
        return {"photos": found["photos"], "garments": found["garments"], "wall": found["wall_seconds"],
                "processor": found["processor_seconds"]}

    def inference(self, photos, device):
        found = self.loader_on(device, "bench-inference", *map(str, photos))
        return {"photos": found["photos"], "garments": found["garments"], "wall": found["wall_seconds"],
                "processor": found["processor_seconds"]}

    def compare(self, name, photos):
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        for photo in photos:
            (folder / photo.name).symlink_to(photo)
        devices = ["cpu"] + (["openvino"] if self.args.openvino else [])
        runs = {"Python reference": []}
        for device in devices:
            runs |= {f"lookbook load, {device}": [], f"inference alone, {device}": []}
        for _ in range(self.args.rounds):
            runs["Python reference"].append(self.reference(photos))
            for device in devices:
                runs[f"lookbook load, {device}"].append(self.load(folder, device))
                runs[f"inference alone, {device}"].append(self.inference(photos, device))
        print(f"\n{name}: {len(photos)} photos, medians of {self.args.rounds} rounds by turns, {self.cores} cores\n")
        print("| | photos | garments | images/s | processor ms an image |\n|---|---|---|---|---|")
        rates, costs = {}, {}
        for who, rounds in runs.items():
            rates[who] = statistics.median(run["photos"] / run["wall"] for run in rounds)
            costs[who] = statistics.median(1000 * run["processor"] / run["photos"] for run in rounds)
            print(f"| {who} | {rounds[-1]['photos']} | {rounds[-1]['garments']} | {rates[who]:.1f} | {costs[who]:.1f} |")
        for device in devices:
            self.judge(device, runs, rates, costs)
        sys.stdout.flush()

    @staticmethod
    def judge(device, runs, rates, costs):
        own, reference, alone = f"lookbook load, {device}", "Python reference", f"inference alone, {device}"
        print(f"\n{device}, beside the reference: {rates[own] / rates[reference]:.2f} x images/s, "
              f"{costs[reference] / costs[own]:.2f} x by processor time (to reach: 2)")
        print(f"of inference alone: {100 * rates[own] / rates[alone]:.0f} % of images/s, "
              f"{100 * costs[alone] / costs[own]:.0f} % by processor time (to reach: 90)")
        share = costs[alone] / costs[reference]
        print(f"the models alone are {100 * share:.0f} % of the reference's processor time: a loader that cost nothing beside "
              f"them would be at {1 / share:.2f} x")
        summary = runs[own][-1]["summary"]
        print(f"wall over the slowest stage ({summary['limited_by']}): {summary['wall_over_slowest_stage']:.2f}; cores used "
              f"{summary['cores_used']:.2f}; batches {summary['batch_sizes']}; {summary['decoders_at_once']} decoding at once; "
              f"peak {summary['peak_memory_bytes'] / 2**20:.0f} MB")
        print("\n| stage | workers | processor ms an image | busy |\n|---|---|---|---|")
        for stage in summary["stages"]:
            cost = 1000 * stage["processor_seconds"] / max(1, stage["photos"])
            print(f"| {stage['stage']} | {stage['workers']} | {cost:.2f} | {100 * stage['busy_share']:.0f} % |")


def camera_photos(photos, folder):
    """As many photos of 12 megapixels, enlarged from small ones."""
    folder.mkdir()
    for photo in photos[:CAMERA_PHOTOS]:
        with Image.open(photo) as image:
            ratio = CAMERA_SIDE / max(image.size)
            size = (round(image.width * ratio), round(image.height * ratio))
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(folder / f"{photo.stem}.jpg", quality=CAMERA_QUALITY)
    return sorted(folder.iterdir())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loader", type=Path, required=True)
    parser.add_argument("--openvino", type=Path, help="an ONNX Runtime library with OpenVINO: measured, too")
    parser.add_argument("--url", required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("folders", type=Path, nargs="+")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(args, Path(scratch))
        for folder in args.folders:
            photos = sorted(file.resolve() for file in folder.rglob("*") if file.suffix.lower() in ENDS)[: args.limit]
            bench.compare("/".join(folder.resolve().parts[-2:]), photos)
        large = camera_photos(photos, Path(scratch) / "camera")
        bench.compare(f"12 MP photos made from {folder.name}", large)


if __name__ == "__main__":
    main()
