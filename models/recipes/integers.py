"""From a float file of a model to one that computes its convolutions in integers: three times as fast on a CPU, half the size.

    python integers.py garment-detector [--version V]    # models/shipped/NAME from models/optional/NAME-float

Owns: static post-training quantisation (Krishnamoorthi, arXiv:1806.08342, section 3.1) by ONNX Runtime's own tool. Must not know: how
a model was trained. Invariant: no validation photo calibrates, and sums stay below 2¹⁵ on every processor.

Weights are integers of 7 bits, one scale for each output channel, activations of 8 bits, one scale for each tensor, set so that
99.995 % of the calibration's values fit. With 8 bits a processor without VNNI, whose `vpmaddubsw` adds two products in 16 bits, would
saturate and give other results. The first convolution and the last ones stay in float: their errors reach the output undiluted, and
they are small.

The tool rounds what a convolution gives, and rounds again what Relu leaves of it; and it gives the rounded map also to what pools it in
float. Here a map is rounded once, behind Relu, and pooling reads it as it was. Relu then costs nothing (its zero is the lowest integer), a
convolution before pooling stays one of integers in OpenVINO, too, and the result is nearer to the float file's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import data
import export
import metrics
import onnx
import run_files
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

PHOTOS = 100  # of the street and of the closet train photos each
KEPT = 99.995  # percentile of a tensor's values that its integers reach
POOLING = {"MatMul", "ReduceMean", "Sub", "Shape"}  # what reads whole maps in float
MODELS = ["garment-detector", "garment-embedder", "full-front-pose"]


class Calibration(CalibrationDataReader):
    """Photos as the model sees them."""

    def __init__(self, model: metrics.Model, images: Iterable[Image.Image]):
        self.name = model.manifest["input"]["name"]
        self.batches = (model.prepare(image)[0][None] for image in images)

    def get_next(self) -> dict | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}


def train_photos(garments: bool) -> Iterator[Image.Image]:
    """Street train photos, or with `garments` one garment of each, and closet train photos."""
    for photo in data.street("train")[:PHOTOS]:
        image = Image.open(photo["path"]).convert("RGB")
        yield image.crop(photo["boxes"][0].tolist()) if garments and len(photo["boxes"]) else image
    rows = data.closet("train")
    for row in rows[:: len(rows) // PHOTOS][:PHOTOS]:
        yield Image.open(data.root() / "catalogue" / row["path"]).convert("RGB")


def _kept_in_float(graph: onnx.GraphProto) -> list[str]:
    """The first convolution, and those behind which no other one comes."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    feeds: set[str] = set()  # tensors that reach a convolution
    last = []
    for node in reversed(graph.node):
        if node.op_type == "Conv" and feeds.isdisjoint(node.output):
            last.append(node.name)
        if node.op_type == "Conv" or not feeds.isdisjoint(node.output):
            feeds.update(node.input)
    return [convolutions[0].name, *last]


def _round_once(graph: onnx.GraphProto) -> None:
    """Takes out the roundings that nothing needs."""
    by_output = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def only(name: str) -> bool:
        return len(readers[name]) == 1

    def is_rounded_next(node: onnx.NodeProto) -> bool:
        return only(node.output[0]) and readers[node.output[0]][0].op_type == "QuantizeLinear"

    for back in graph.node:
        rounding = by_output.get(back.input[0]) if back.op_type == "DequantizeLinear" else None
        if rounding is None or rounding.op_type != "QuantizeLinear":
            continue
        (rounded,), (given,), exact = back.output, rounding.output, rounding.input[0]
        for reader in readers.get(rounded, []):
            is_relu = reader.op_type == "Relu" and only(rounded) and only(given) and only(exact) and is_rounded_next(reader)
            if is_relu or reader.op_type in POOLING:
                reader.input[list(reader.input).index(rounded)] = exact
    _drop_unread(graph)


def _drop_unread(graph: onnx.GraphProto) -> None:
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            kept.append(node)
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)


def _quantise(model: metrics.Model, source: Path, images: Iterable[Image.Image]) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        plain, target = Path(scratch) / "plain.onnx", Path(scratch) / "integers.onnx"
        # Folds the float16 weights back, which the tool would not find behind their casts.
        quant_pre_process(source, plain, skip_symbolic_shape=True)
        quantize_static(
            plain,
            target,
            Calibration(model, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_kept_in_float(onnx.load(plain).graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": KEPT},
        )
        written = onnx.load(target)
    _round_once(written.graph)
    export.halve(written)
    # The tool names domains that no node is of.
    used = {node.domain for node in written.graph.node}
    opsets = [entry for entry in written.opset_import if entry.domain in used]
    del written.opset_import[:], written.metadata_props[:]
    written.opset_import.extend(opsets)
    written.producer_name = "lookbook"
    onnx.checker.check_model(written, full_check=True)
    return written.SerializeToString()


def convert(origin: Path, name: str, folder: Path, images: Iterable[Image.Image], version: str | None = None) -> Path:
    """Write model `name` into `folder`, from a float file with manifest `origin`; `images` calibrate."""
    model = metrics.Model(origin)
    manifest = model.manifest | {
        "name": name,
        "version": version or model.manifest["version"],
        "source": f"{model.manifest['source']}; in integers by models/recipes/integers.py",
    }
    return export.put(folder, manifest, _quantise(model, origin.with_suffix(".onnx"), images))


def ship(name: str, version: str | None = None) -> Path:
    """The shipped file of one of our models, from `data.in_float`."""
    origin = data.in_float(name)
    garments = json.loads(origin.read_text())["kind"] == "embedder"
    return convert(origin, name, data.SHIPPED, train_photos(garments), version)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="models/train NAME integers", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--version", default=None, help="default: the float file's")
    options = parser.parse_args()
    with run_files.stoppable():
        ship(options.name, options.version)
