"""Weights of a shipped ONNX file back in its network, so that training (also fine-tuning on a shop's own photos) continues from it.

Owns: the way from initializers to parameters. Must not know: losses, data. Invariant: in evaluation mode the network then computes
what the file computes, layer by layer.

Export folds every batch norm into its convolution, which leaves weights and a bias. A forward pass over a batch measures each
convolution's own mean and deviation; a batch norm that removes them and puts them back is the identity, and training may change it.
"""

from __future__ import annotations

import data
import numpy as np
import onnx
import torch
from nets import NORMS
from onnx import numpy_helper
from torch import Tensor, nn


def load(name: str) -> onnx.ModelProto:
    return onnx.load(data.in_float(name).with_suffix(".onnx"))


def tensors(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Initializers by name, those stored as float16 under the name that the graph reads."""
    return {
        tensor.name.removesuffix(".half"): torch.from_numpy(numpy_helper.to_array(tensor).astype(np.float32))
        for tensor in model.graph.initializer
    }


def _called(module: nn.Module, images: Tensor) -> list[nn.Module]:
    """Convolutions and the batch norms behind them, in the order in which they run."""
    order: list[nn.Module] = []
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, *NORMS))]
    hooks = [layer.register_forward_hook(lambda layer, *_: order.append(layer)) for layer in layers]
    with torch.no_grad():
        module.eval()(images)
    for hook in hooks:
        hook.remove()
    return order


def adopt(module: nn.Module, name: str, images: Tensor, prefix: bool = False) -> None:
    """Fill the convolutions of `module` from the float file of `NAME`; `images` is a whitened batch to measure norms on.

    A last layer may have more outputs than the file's (added classes): its first rows are filled. What comes after the file's last
    convolution is left as it was. With `prefix` the module is the beginning of the file's network and may end before the file does.
    """
    model, file = load(name), data.in_float(name).with_suffix(".onnx").name
    stored = tensors(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    order = _called(module, images)
    filled, norms = 0, []
    for place, layer in enumerate(order):
        if not isinstance(layer, nn.Conv2d) or filled == len(convolutions):
            continue
        weight, bias = (stored[key] for key in convolutions[filled].input[1:3])
        rows = min(len(weight), len(layer.weight))
        if weight.shape[1:] != layer.weight.shape[1:]:
            raise ValueError(f"{file}: convolution {filled} is {list(weight.shape)}, the network's is {list(layer.weight.shape)}")
        with torch.no_grad():
            layer.weight[:rows] = weight[:rows]
            if layer.bias is not None:
                layer.bias[:rows] = bias[:rows]
            else:
                norms.append((order[place + 1], bias))
        filled += 1
    if filled < len(convolutions) and not prefix:
        raise ValueError(f"{file} has {len(convolutions)} convolutions, the network {filled}")
    _identity_norms(module, norms, images)
    print(f"starting from {file}: {filled} of {len(convolutions)} convolutions", flush=True)


def _identity_norms(module: nn.Module, norms: list[tuple[nn.Module, Tensor]], images: Tensor) -> None:
    for norm, bias in norms:
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        nn.init.ones_(norm.weight)
        norm.bias.data.copy_(bias)
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def measure(norm: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        axes = [0, *range(2, inputs[0].ndim)]
        seen[norm] = inputs[0].mean(axes), inputs[0].var(axes, unbiased=False)

    hooks = [norm.register_forward_hook(measure) for norm, _ in norms]
    with torch.no_grad():
        module.eval()(images)
        for norm, bias in norms:
            mean, variance = seen[norm]
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean + bias)
    for hook in hooks:
        hook.remove()
