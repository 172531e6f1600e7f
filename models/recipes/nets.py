"""The networks: one small residual backbone, a centre-point detector over it, an embedder over it.

Owns: layers and their initial values. Must not know: data, losses, files. Invariant: input is NCHW, already whitened as the
manifest says; both models share the backbone's parameter names, so that one may start from the other's weights.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
WIDTHS, DEPTHS = (48, 96, 192, 288), (1, 2, 3, 1)
STRIDE = 8


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def still_norms(module: nn.Module) -> None:
    """Norms keep their statistics in training: for batches that are not like what the network will see."""
    for layer in module.modules():
        if isinstance(layer, NORMS):
            layer.eval()


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
    """Feature maps at strides 4, 8, 16 and 32. The stem reads overlapping 6×6 patches at stride 4: early layers cost most.

    `freeze(n)` leaves the stem and the first n stages as they are in training: no gradient, norms in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.frozen: list[nn.Module] = []
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

    def freeze(self, stages: int) -> None:
        self.frozen = [self.stem, *self.stages[:stages]]
        for part in self.frozen:
            part.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Detector(nn.Module):
    """At every stride-8 cell: class logits [N, C, h, w], and per class the distances [N, C, 4, h, w] in input pixels to the
    left, top, right and bottom of a box of that class (an open jacket and a dress share a centre, not a box). In training, `hints`
    more classes follow, without boxes: what they need to be told apart helps the others (Caruana, Multitask Learning, 1997)."""

    def __init__(self, classes: int, hints: int = 0, width: int = 96):
        super().__init__()
        self.classes = classes
        self.backbone = Backbone()
        self.lateral = nn.ModuleList([conv(channels, width, 1) for channels in WIDTHS[1:]])
        self.mix = nn.ModuleList([conv(width, width) for _ in range(2)])
        self.class_tower = conv(width, width)
        self.box_tower = conv(width, width)
        self.drop = nn.Dropout2d(0.1)
        self.class_head = nn.Conv2d(width, classes + hints, 1)
        self.box_head = nn.Conv2d(width, 4 * classes, 1)
        nn.init.normal_(self.class_head.weight, std=0.01)
        nn.init.constant_(self.class_head.bias, -3.5)
        nn.init.normal_(self.box_head.weight, std=0.01)
        nn.init.constant_(self.box_head.bias, 3.6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine, middle, coarse = [layer(level) for layer, level in zip(self.lateral, self.backbone(x)[1:])]
        middle = self.mix[0](middle + F.interpolate(coarse, scale_factor=2.0))
        fine = self.mix[1](fine + F.interpolate(middle, scale_factor=2.0))
        sides = self.box_head(self.box_tower(fine)).clamp(-2.0, 6.2).exp()
        return self.class_head(self.drop(self.class_tower(fine))), sides.unflatten(1, (self.classes, 4))


def centres(height: int, width: int, device=None) -> Tensor:
    """x, y of every cell's centre in input pixels, [2, height, width]."""
    y = (torch.arange(height, device=device) + 0.5) * STRIDE
    x = (torch.arange(width, device=device) + 0.5) * STRIDE
    return torch.stack([x.view(1, -1).expand(height, width), y.view(-1, 1).expand(height, width)])


class DetectorExport(nn.Module):
    """The detector as family `yolo_v8`: [N, 4 + classes, classes · cells]; every anchor scores one class, and only where the heat
    map has a local peak. Hints stay behind."""

    def __init__(self, detector: Detector, height: int, width: int):
        super().__init__()
        self.detector = copy.deepcopy(detector)
        head, kept = self.detector.class_head, detector.classes
        head.weight, head.bias = nn.Parameter(head.weight[:kept].detach()), nn.Parameter(head.bias[:kept].detach())
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


def spots(length: int, count: int) -> Tensor:
    """[count, length]: rows of weights that average a line around `count` evenly spaced spots, overlapping by half."""
    place = (torch.arange(length) + 0.5) / length * count
    weight = (1 - (place[None] - torch.arange(count)[:, None] - 0.5).abs()).clamp_min(0)
    return weight / weight.sum(1, keepdim=True)


class Layout(nn.Module):
    """Where in the picture which channel is strong: averages round `rows` × 2 · `columns` spots; left and right are one."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        across = spots(x.shape[3], 2 * self.columns).to(x.device)
        across = (across[: self.columns] + across[self.columns :].flip(0)) / 2
        down = spots(x.shape[2], self.rows).to(x.device)
        return (down @ x.float() @ across.T).flatten(1)


class Embedder(nn.Module):
    """An L2-normalised vector of two parts. `kind`: the label chances (their inner product is the chance that two draws agree, so a
    photo of an unsure label leans on its look). `look`: one linear layer over pooled maps of every depth and over the colours'
    layout, so that colour, pattern and proportion are not lost on the way to the label."""

    def __init__(self, labels: int, dimensions: int = 256):
        super().__init__()
        self.backbone = Backbone()
        self.last = conv(WIDTHS[-1], 512, 1)
        self.kind_norm = nn.BatchNorm1d(1024, affine=False)
        self.kind = nn.Linear(1024, labels)
        self.coarse, self.fine = Layout(4, 1), Layout(6, 2)
        self.blocks = [512, 512, WIDTHS[2], WIDTHS[2], 4 * WIDTHS[1], 4 * WIDTHS[0], WIDTHS[0] * 12, 3 * 12]
        self.look_norm = nn.BatchNorm1d(sum(self.blocks), affine=False)
        self.look = nn.Linear(sum(self.blocks), dimensions - labels)
        self.register_buffer("share", torch.tensor([1.0, 1.0, 1.0]))  # weight of kind, weight of look, temperature of the chances

    def pooled(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What `kind` and `look` read, before their norms."""
        maps = self.backbone(image)
        last = self.last(maps[-1]).float()
        texture = maps[2].float()
        semantic = [last.mean((2, 3)), _deviation(last)]
        detail = [texture.mean((2, 3)), _deviation(texture), self.coarse(maps[1]), self.coarse(maps[0]), self.fine(maps[0]), self.fine(image)]
        return torch.cat(semantic, 1), torch.cat(semantic + detail, 1)

    def parts(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Label logits and the normalised look."""
        semantic, everything = self.pooled(image)
        return self.kind(self.kind_norm(semantic)), F.normalize(self.look(self.look_norm(everything)), dim=1)

    def forward(self, image: Tensor) -> Tensor:
        logits, look = self.parts(image)
        kind = (logits / self.share[2]).softmax(1)
        return F.normalize(torch.cat([kind * self.share[0], look * self.share[1]], 1), dim=1)


def _deviation(x: Tensor) -> Tensor:
    return ((x - x.mean((2, 3), keepdim=True)) ** 2).mean((2, 3)).add(1e-5).sqrt()


class Trunk(nn.Module):
    """The backbone up to stride 16, its third stage two blocks deep; its convolutions run in the backbone's order."""

    def __init__(self):
        super().__init__()
        whole = Backbone()
        self.early = nn.Sequential(whole.stem, whole.stages[0], whole.stages[1])
        self.late = whole.stages[2][:3]
        self.still = False

    def freeze(self) -> None:
        self.still = True
        self.early.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Trunk:
        super().train(mode)
        if self.still:
            self.early.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.early(x)
        return early, self.late(early)


class PoseNet(nn.Module):
    """At stride 8: heat logits [N, points, h, w], and offsets [N, 2 · points, h, w] in input pixels, y first."""

    def __init__(self, points: int, width: int = 96):
        super().__init__()
        self.trunk = Trunk()
        self.context = conv(WIDTHS[2], WIDTHS[2], 5, 1)
        self.context[0] = nn.Conv2d(WIDTHS[2], WIDTHS[2], 5, 1, 2, groups=WIDTHS[2], bias=False)
        self.lateral = nn.ModuleList([conv(WIDTHS[1], width, 1), conv(WIDTHS[2], width, 1)])
        self.mix = nn.Sequential(conv(width, width), conv(width, width))
        self.heat = nn.Conv2d(width, points, 1)
        self.offsets = nn.Conv2d(width, 2 * points, 1)
        nn.init.normal_(self.heat.weight, std=0.01)
        nn.init.constant_(self.heat.bias, -3.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early, late = self.trunk(x)
        late = late + self.context(late)
        x = self.mix(self.lateral[0](early) + F.interpolate(self.lateral[1](late), scale_factor=2.0))
        return self.heat(x), self.offsets(x)
