"""What continued training of a shipped model has in common: its options, the record of its setting, the files that it delivers.

Owns: `setup.json` and `figures.json` of a run, and the decision whether the new file is written. Must not know: PyTorch, what is
trained. Invariants: a run goes on only with the photos and settings that it began with; a model that is worse on held-out photos is
written only when that is asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import files

OUR_NAMES = ("garment-detector", "garment-embedder", "full-front-pose", "resnet-preact-64", "attention-texture")
CALIBRATED = 200  # photos at most, for models in integers


def model_name(text: str) -> str:
    """A name that a manifest may have and neither a shipped nor an optional model has."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", text) or text.removesuffix("-float") in OUR_NAMES:
        raise argparse.ArgumentTypeError("a-z, 0-9, '-', '_', '.', at most 63 of them, and not the name of a model in shipped/ or optional/")
    return text


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 up")
    return int(text)


def rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return value


@contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C ends the program in one word."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--name", type=model_name, default=name, help=f"of the new model; default {name}")
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--licence", default="proprietary", help="of the new weights, for the manifest")
    parser.add_argument("--out", type=Path, default=Path("."), help="the folder for NAME.onnx and NAME.json")
    parser.add_argument("--steps", type=count)
    parser.add_argument("--batch", type=count, help="photos of a step")
    parser.add_argument("--rate", type=rate)
    parser.add_argument("--float", action="store_true", dest="in_float", help="keep arithmetic in float: for GPUs; three times as slow on a CPU")
    parser.add_argument("--anyway", action="store_true", help="write the file even if it is worse on the held-out photos")
    parser.add_argument("--threads", type=count, default=1)


def make_folder(folder: Path) -> None:
    """Before the training, not after it, the program ends where no file could be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"--out {folder}: cannot be made ({error.strerror})")
    if not os.access(folder, os.W_OK):
        sys.exit(f"--out {folder}: cannot be written into")


def content(path: Path) -> str:
    """What tells a photo from another, by whatever names it lies there: the digest of its bytes. Of one that cannot be read, which
    `shop.check` names, its path."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)


def fingerprint(folder: Path, photos: Iterable[tuple[Path, object]]) -> str:
    """Of photos in a folder and what is known of each: the same wherever the folder lies, another where a photo was overwritten."""
    digest = hashlib.sha256()
    for path, known in photos:
        digest.update(json.dumps([os.path.relpath(path, folder), content(path), known]).encode())
    return digest.hexdigest()


def begin(folder: Path, facts: dict) -> None:
    """Remember what a run is made of, or end the program where a run of that name was made of something else, or is being made."""
    files.hold(folder)
    path, now = folder / "setup.json", json.dumps(facts, indent=2) + "\n"
    if (folder / "last.pt").exists() and path.exists() and path.read_text() != now:
        sys.exit(f"{folder} was begun with other photos, labels or settings: remove it, or take another --name")
    files.write({path: now.encode()})


def file_name(options: argparse.Namespace) -> str:
    """Of the float file: the new model, or what its integers are made of."""
    return options.name if options.in_float else f"{options.name}-float"


def deliver(manifest: Path, options: argparse.Namespace, before: dict[str, float], after: dict[str, float], decides: str) -> None:
    """Show the figures, and copy the manifest and its ONNX file out of the run unless the deciding figure fell."""
    width = max(len(name) for name in before)
    print(f"{'':{width}}   before    after")
    for name in before:
        print(f"{name:{width}} {before[name]:8.3f} {after[name]:8.3f}")
    figures = json.dumps({"before": before, "after": after}, indent=2) + "\n"
    files.write({manifest.parent.parent / "figures.json": figures.encode()})
    if after[decides] < before[decides] and not options.anyway:
        sys.exit(f"{decides} of the held-out photos fell: nothing was written (--anyway writes it)")
    make_folder(options.out)
    files.write({options.out / source.name: source.read_bytes() for source in (manifest.with_suffix(".onnx"), manifest)})
    onnx, json_file = options.out / f"{options.name}.onnx", options.out / f"{options.name}.json"
    print(f"wrote {onnx} and {json_file}; store it with")
    print(f"  lookbook model add {options.name} --onnx {onnx} --manifest {json_file}")
