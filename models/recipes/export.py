"""From trained weights to the two files of a model, and the verbs that all recipes share.

Owns: ONNX export, half-precision storage of weights, the manifest. Must not know: how a model was trained. Invariant: the
manifest's sha256 is that of the file beside it, and the ONNX file agrees with PyTorch before either is written.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from pathlib import Path

import data
import files
import numpy as np
import onnx
import onnxruntime
import run_files
import torch
from nets import MEAN, STD
from onnx import TensorProto, helper, numpy_helper
from torch import nn

OPSET = 17
FIRST_VERSION = "0.1.0"
HALF_FROM = 1024  # tensors of at least so many values are stored as float16


def halve(model: onnx.ModelProto) -> None:
    """Store large float32 weights as float16 behind a Cast, which ONNX Runtime folds away when it loads the file."""
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= HALF_FROM:
            stored = numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half")
            model.graph.initializer.remove(tensor)
            model.graph.initializer.append(stored)
            model.graph.node.insert(0, helper.make_node("Cast", [stored.name], [tensor.name], to=TensorProto.FLOAT))


def write(name: str, module: nn.Module, size: tuple[int, int], facts: dict, output: dict, folder: Path = data.SHIPPED) -> Path:
    """Export `module` with input [N, 3, *size]; write NAME.onnx and NAME.json into `folder`."""
    height, width = size
    labels = [output["name"]] if "name" in output else list(output["names"].values())
    module = module.cpu().float().eval()
    sample = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 3, height, width)).astype(np.float32))
    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        (sample,),
        buffer,
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=labels,
        dynamic_axes={label: {0: "batch"} for label in ["image", *labels]},
    )
    model = onnx.load_model_from_string(buffer.getvalue())
    halve(model)
    model.graph.doc_string = model.doc_string = ""
    model.producer_name, model.producer_version = "lookbook", facts["version"]
    onnx.checker.check_model(model, full_check=True)
    weights = model.SerializeToString()
    session = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])
    for count in (1, 2):
        written = session.run(None, {"image": sample[:count].numpy()})
        with torch.inference_mode():
            computed = module(sample[:count])
        for ours, theirs in zip(written, [computed] if len(labels) == 1 else computed):
            theirs = theirs.numpy()
            if not np.allclose(ours, theirs, rtol=2e-2, atol=2e-2 * float(np.abs(theirs).max())):
                raise ValueError(f"{name}: ONNX and PyTorch differ by {np.abs(ours - theirs).max()}")
    manifest = {
        "format": 1,
        "name": name,
        "version": facts["version"],
        "kind": facts["kind"],
        "description": facts["description"],
        "licence": facts.get("licence", "Apache-2.0"),
        "source": facts["source"],
        "sha256": "",  # of what is put beside it
        "input": {
            "name": "image",
            "width": width,
            "height": height,
            "layout": "nchw",
            "dtype": "f32",
            "colour": facts.get("colour", "rgb"),
            "resize": facts["resize"],
            "filter": "bilinear",
            "pad": facts.get("pad", [data.PAD] * 3),
            "scale": facts.get("scale", 1 / 255),
            "mean": facts.get("mean", MEAN),
            "std": facts.get("std", STD),
        },
        "output": output,
    }
    return put(folder, manifest, weights)


def put(folder: Path, manifest: dict, weights: bytes) -> Path:
    """Both files of a model into the folder: the path of its manifest."""
    manifest = manifest | {"sha256": hashlib.sha256(weights).hexdigest()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{manifest['name']}.json"
    files.write({path.with_suffix(".onnx"): weights, path: (json.dumps(manifest, indent=2) + "\n").encode()})
    print(f"{path}: {len(weights) / 1e6:.1f} MB")
    return path


def latency(model) -> None:
    """Time of one image on one CPU thread, in milliseconds: by the clock, and the thread's own time, which a busy machine spares."""
    spec = model.manifest["input"]
    batch = np.zeros((1, 3, spec["height"], spec["width"]), np.float32)
    times, own = [], []
    for _ in range(40):
        begin, worked = time.perf_counter(), time.thread_time()
        model.run(batch)
        times.append((time.perf_counter() - begin) * 1000)
        own.append((time.thread_time() - worked) * 1000)
    print(f"one CPU thread, batch of one: median {np.median(times):.1f} ms, best {min(times):.1f} ms, median CPU time {np.median(own):.1f} ms")


def command(name: str, train, write_model, report, extend=None) -> None:
    """The command line of a recipe: train, export, eval, and what `extend(verbs)` adds to them."""
    more = "models/train --help names further verbs, and how a shipped model goes on with photos of your own"
    parser = argparse.ArgumentParser(prog=f"models/train {name}", description=name, epilog=more)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verb = verbs.add_parser("train", help="run every stage, continuing where a stopped run was")
    verb.add_argument("--threads", type=run_files.count, default=1, help="one wastes least on a shared machine")
    verb.add_argument("--stages", type=run_files.count, default=None, help="run only the first STAGES stages")
    verb.add_argument("--schedule", type=run_files.rate, default=1.0, help="multiply every stage's steps")
    verb.add_argument("--from", dest="start", choices=["nothing", "shipped"], default="nothing", help="continue the shipped file's weights")
    verb.set_defaults(run=train)
    verb = verbs.add_parser("export", help="write the ONNX file and its manifest")
    verb.add_argument("--weights", type=Path, default=None, help="default: best.pt of the last stage")
    verb.add_argument("--version", help=f"default: {FIRST_VERSION}, with --from shipped the shipped file's")
    verb.set_defaults(run=write_model)
    verbs.add_parser("eval", help="measure the exported file").set_defaults(run=report)
    if extend is not None:
        extend(verbs)
    options = parser.parse_args()
    if "version" in options and options.version is None:
        options.version = shipped_version(name) if getattr(options, "start", None) == "shipped" else FIRST_VERSION
    with run_files.stoppable():
        options.run(options)


def shipped_version(name: str) -> str:
    return json.loads((data.SHIPPED / f"{name}.json").read_text())["version"]
