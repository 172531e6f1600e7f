"""The networks: one small residual backbone, a centre-point detector over it, an embedder over it.

Owns: layers and their initial values. Must not know: data, losses, files. Invariant: input is NCHW, already whitened as the
manifest says; both models share the backbone's parameter names, so that one may start from the other's weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
WIDTHS, DEPTHS = (48, 96, 192, 288), (1, 2, 3, 1)
STRIDE = 8


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two 3×3 convolutions beside an identity; starts as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.first = conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        nn.init.zeros_(self.second[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Backbone(nn.Module):
    """Feature maps at strides 8, 16 and 32. The stem reads overlapping 6×6 patches at stride 4: early layers cost most."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 6, 4, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(inplace=True)
        )
        self.stages = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS)):
            down = [conv(WIDTHS[stage - 1], width, 3, 2)] if stage else []
            self.stages.append(nn.Sequential(*down, *[Residual(width) for _ in range(depth)]))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


class Detector(nn.Module):
    """At every stride-8 cell: class logits [N, C, h, w], and per class the distances [N, C, 4, h, w] in input pixels to the
    left, top, right and bottom of a box of that class (an open jacket and a dress share a centre, not a box)."""

    def __init__(self, classes: int, width: int = 96):
        super().__init__()
        self.classes = classes
        self.backbone = Backbone()
        self.lateral = nn.ModuleList([conv(channels, width, 1) for channels in WIDTHS[1:]])
        self.mix = nn.ModuleList([conv(width, width) for _ in range(2)])
        self.class_tower = conv(width, width)
        self.box_tower = conv(width, width)
        self.class_head = nn.Conv2d(width, classes, 1)
        self.box_head = nn.Conv2d(width, 4 * classes, 1)
        nn.init.normal_(self.class_head.weight, std=0.01)
        nn.init.constant_(self.class_head.bias, -3.5)
        nn.init.normal_(self.box_head.weight, std=0.01)
        nn.init.constant_(self.box_head.bias, 3.6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine, middle, coarse = [layer(level) for layer, level in zip(self.lateral, self.backbone(x))]
        middle = self.mix[0](middle + F.interpolate(coarse, scale_factor=2.0))
        fine = self.mix[1](fine + F.interpolate(middle, scale_factor=2.0))
        sides = self.box_head(self.box_tower(fine)).clamp(-2.0, 6.2).exp()
        return self.class_head(self.class_tower(fine)), sides.unflatten(1, (self.classes, 4))


def centres(height: int, width: int, device=None) -> Tensor:
    """x, y of every cell's centre in input pixels, [2, height, width]."""
    y = (torch.arange(height, device=device) + 0.5) * STRIDE
    x = (torch.arange(width, device=device) + 0.5) * STRIDE
    return torch.stack([x.view(1, -1).expand(height, width), y.view(-1, 1).expand(height, width)])


class DetectorExport(nn.Module):
    """The detector as family `yolo_v8`: [N, 4 + classes, classes · cells]; every anchor scores one class, and only where the heat
    map has a local peak."""

    def __init__(self, detector: Detector, height: int, width: int):
        super().__init__()
        self.detector = detector
        self.register_buffer("centres", centres(height // STRIDE, width // STRIDE)[None, None])
        self.register_buffer("own_class", torch.eye(detector.classes)[None, :, :, None])

    def forward(self, image: Tensor) -> Tensor:
        logits, sides = self.detector(image)
        scores = logits.sigmoid()
        scores = scores * (scores >= F.max_pool2d(scores, 3, 1, 1)).to(scores.dtype)
        scores = (scores.flatten(2).unsqueeze(1) * self.own_class).flatten(2)
        low, high = self.centres - sides[:, :, :2], self.centres + sides[:, :, 2:]
        boxes = torch.cat([(low + high) / 2, high - low], 2).flatten(3).transpose(1, 2).flatten(2)
        return torch.cat([boxes, scores], 1)


class Embedder(nn.Module):
    """An L2-normalised vector: the average of the last map through one linear layer."""

    def __init__(self, dimensions: int = 256):
        super().__init__()
        self.backbone = Backbone()
        self.last = conv(WIDTHS[-1], 512, 1)
        self.project = nn.Linear(512, dimensions, bias=False)
        self.norm = nn.BatchNorm1d(dimensions)

    def features(self, image: Tensor) -> Tensor:
        return self.last(self.backbone(image)[-1]).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        return F.normalize(self.norm(self.project(self.features(image)).float()), dim=1)
