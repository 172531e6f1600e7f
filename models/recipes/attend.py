"""The network of `attention-texture`: a global branch, and an attention branch that looks at K regions one after the other.

Owns: its layers, the regions, the two losses on regions. Must not know: data, training, files. Invariant: the same sums in PyTorch
and in ONNX: no operator that an exporter must guess (affine grids and LSTM gates are written out).

Global branch (the paper's Table 1): 384×256 pixels, 3×3 convolutions of 64, 64, 128, 128, 256 and 256 channels with batch norm, 4×4
max pooling behind every second one, 25 % dropout. Attention branch (after Wang et al., Multi-label Image Recognition by Recurrently
Discovering Attentional Regions, 2017): a spatial transformer reads a region of the map before the last pooling, a texture encoding layer with a
learned dictionary (Zhang et al., Deep TEN, 2017) describes it, an LSTM remembers it and says where the next region lies.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEIGHT, WIDTH = 384, 256
CHANNELS = (64, 64, 128, 128, 256, 256)
REGION = (8, 8)  # cells that the spatial transformer reads
CODES, CODE_WIDTH = 16, 64  # of the dictionary
MEMORY = 256
STEPS = 5  # K; the first looks at everything
SCALE, POSITIVE, ANCHOR_WEIGHT, POSITIVE_WEIGHT = 0.5, 0.1, 0.01, 0.1  # alpha, beta, lambda 1, lambda 2


def _anchors(steps: int) -> Tensor:
    """x, y in −1..1: the middle, then points evenly on a circle of radius one half round it, from top left clockwise."""
    turns = torch.arange(steps - 1) * 2 * math.pi / max(1, steps - 1) - 0.75 * math.pi
    return torch.cat([torch.zeros(1, 2), 0.5 * torch.stack([turns.cos(), turns.sin()], 1)])


class Encoding(nn.Module):
    """Deep TEN: residuals to learned codes, softly assigned by learned smoothing factors, summed per code."""

    def __init__(self, codes: int, width: int):
        super().__init__()
        bound = 1 / math.sqrt(codes * width)
        self.codes = nn.Parameter(torch.empty(codes, width).uniform_(-bound, bound))
        self.smooth = nn.Parameter(torch.empty(codes).uniform_(0.5, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """[N, cells, width] to [N, codes · width], normalised."""
        away = x.square().sum(2, keepdim=True) - 2 * x @ self.codes.T + self.codes.square().sum(1)
        share = (-self.smooth * away).softmax(2)
        sums = share.transpose(1, 2) @ x - share.sum(1).unsqueeze(2) * self.codes
        return F.normalize(sums.flatten(1), dim=1)


class Memory(nn.Module):
    """An LSTM cell, its gates written out."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.gates = nn.Linear(inputs + width, 4 * width)
        with torch.no_grad():
            self.gates.bias[width : 2 * width] = 1.0  # forget little at first

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        enter, keep, show, value = self.gates(torch.cat([x, hidden], 1)).chunk(4, 1)
        cell = keep.sigmoid() * cell + enter.sigmoid() * value.tanh()
        return show.sigmoid() * cell.tanh(), cell


class Network(nn.Module):
    def __init__(self, tags: int, steps: int = STEPS):
        super().__init__()
        layers, inputs = [], 3
        for number, width in enumerate(CHANNELS):
            layers.append(nn.Sequential(nn.Conv2d(inputs, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            if number in (1, 3):
                layers.append(nn.Sequential(nn.MaxPool2d(4), nn.Dropout(0.25)))
            inputs = width
        self.early = nn.Sequential(*layers)
        self.late = nn.Sequential(nn.MaxPool2d(4), nn.Dropout(0.25))
        self.reduce = nn.Conv2d(CHANNELS[-1], CODE_WIDTH, 1)
        self.texture = Encoding(CODES, CODE_WIDTH)
        self.describe = nn.Sequential(nn.Linear(CODES * CODE_WIDTH, MEMORY), nn.ReLU(inplace=True))
        self.memory = Memory(MEMORY, MEMORY)
        self.locate = nn.Linear(MEMORY, 4)
        self.global_tags = nn.Linear(CHANNELS[-1], tags)
        self.region_tags = nn.Linear(MEMORY, tags)
        self.steps = steps
        anchors = _anchors(steps)
        self.register_buffer("anchors", anchors)
        # Where each step looks before anything is learned: half of either side, round its anchor.
        self.begin = nn.Parameter(torch.cat([torch.full((steps, 2), 0.5), anchors], 1))
        grid = torch.stack(torch.meshgrid(*[(torch.arange(n) + 0.5) / n * 2 - 1 for n in REGION], indexing="ij")[::-1], 2)
        self.register_buffer("grid", grid[None])
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.locate.weight)
        nn.init.zeros_(self.locate.bias)

    def maps(self, image: Tensor) -> Tensor:
        return self.early(image)

    def regions(self, maps: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The memory behind the last step, the tag logits of each step, and where each but the first looked (sx, sy, tx, ty)."""
        codes = self.reduce(maps)
        hidden = cell = torch.zeros(1, MEMORY, device=maps.device).expand(maps.shape[0], MEMORY)
        scores, places = [], []
        for step in range(self.steps):
            if step:
                place = self.begin[step] + self.locate(hidden)
                places.append(place)
                scale, shift = place[:, None, None, :2], place[:, None, None, 2:]
            else:
                scale, shift = torch.ones_like(hidden[:, None, None, :2]), torch.zeros_like(hidden[:, None, None, :2])
            region = F.grid_sample(codes, self.grid * scale + shift, align_corners=False)
            texture = self.texture(region.flatten(2).transpose(1, 2))
            hidden, cell = self.memory(self.describe(texture), hidden, cell)
            scores.append(self.region_tags(hidden))
        return hidden, scores, places

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tag logits of the global branch and, the highest of all steps, of the attention branch; regions [N, steps − 1, 4]."""
        maps = self.maps(image)
        with torch.autocast(image.device.type, enabled=False):
            maps = maps.float()
            _, scores, places = self.regions(maps)
            whole = self.global_tags(self.late(maps).mean((2, 3)))
        return whole, torch.stack(scores).amax(0), torch.stack(places, 1)

    def feature(self, image: Tensor) -> Tensor:
        """Global ⊕ attention, each normalised, then both."""
        maps = self.maps(image)
        hidden, _, _ = self.regions(maps)
        parts = [F.normalize(part, dim=1) for part in (self.late(maps).mean((2, 3)), hidden)]
        return F.normalize(torch.cat(parts, 1), dim=1)


def euclidean(logits: Tensor, tags: Tensor) -> Tensor:
    """Squared distance of the chances to the tags that share one among them, per photo."""
    wanted = tags / tags.sum(1, keepdim=True).clamp_min(1)
    return (logits.softmax(1) - wanted).square().sum(1).mean()


def attention_maps(places: Tensor) -> Tensor:
    """What share of the attention a step gives each cell: [N, steps, 24 · 16], a region with soft edges, of length one."""
    scale, shift = places[..., :2].abs().clamp_min(0.05), places[..., 2:]
    lines = [(torch.arange(n, device=places.device) + 0.5) / n * 2 - 1 for n in (WIDTH // 16, HEIGHT // 16)]
    across, down = (
        torch.sigmoid((scale[..., axis, None] - (line - shift[..., axis, None]).abs()) * 8) for axis, line in enumerate(lines)
    )
    return F.normalize((down.unsqueeze(-1) * across.unsqueeze(-2)).flatten(2), dim=2)


def diversity(places: Tensor) -> Tensor:
    """How much the attention of adjacent steps overlaps."""
    maps = attention_maps(places)
    return (maps[:, 1:] * maps[:, :-1]).sum(2).mean()


def localisation(places: Tensor, anchors: Tensor) -> Tensor:
    """Regions no larger than `SCALE`, not mirrored or empty, near their anchors."""
    scale, shift = places[..., :2], places[..., 2:]
    large = (scale.abs() - SCALE).clamp_min(0).square().sum(2)
    anchor = 0.5 * (shift - anchors[1:]).square().sum(2)
    positive = (POSITIVE - scale).clamp_min(0).sum(2)
    return (large + ANCHOR_WEIGHT * anchor + POSITIVE_WEIGHT * positive).mean()
