"""Fabrics: what colour a piece of cloth has at a point, and its relief.

Owns patterns and weaves. Knows nothing of garments, light or the canvas: it is asked for colours on a grid of
(u, v) in centimetres along and across the piece.
"""

from dataclasses import dataclass, field

import numpy as np


def srgb(name):
    """'#rrggbb' as linear RGB."""
    channels = np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


class Noise:
    """Value noise on a 256 x 256 lattice with a quintic fade, period 256."""

    def __init__(self, rng):
        self.lattice = rng.random((256, 256), dtype=np.float32)

    def __call__(self, x, y):
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        column, row = np.floor(x), np.floor(y)
        fx, fy = x - column, y - row
        fx = fx * fx * fx * (fx * (fx * 6 - 15) + 10)
        fy = fy * fy * fy * (fy * (fy * 6 - 15) + 10)
        c0, r0 = column.astype(np.int32) & 255, row.astype(np.int32) & 255
        c1, r1 = (c0 + 1) & 255, (r0 + 1) & 255
        top = self.lattice[r0, c0] * (1 - fx) + self.lattice[r0, c1] * fx
        bottom = self.lattice[r1, c0] * (1 - fx) + self.lattice[r1, c1] * fx
        return top * (1 - fy) + bottom * fy

    def fractal(self, x, y, octaves=3):
        total, weight = 0.0, 0.0
        for octave in range(octaves):
            gain = 0.5**octave
            total = total + gain * self(x * 2**octave + 17.3 * octave, y * 2**octave + 9.1 * octave)
            weight += gain
        return total / weight


def band(position, period, share, soft=0.06):
    """1 inside a stripe of `share` of each `period`, 0 outside, with soft edges."""
    phase = np.abs((position / period) % 1.0 - 0.5) * 2
    return np.clip((share - phase) / soft + 0.5, 0, 1)


def mix(a, b, amount):
    return a + (b - a) * np.asarray(amount)[..., None]


@dataclass
class Fabric:
    """`pattern` names a function of this module's PATTERNS; `size` scales it; `gloss` is 0 (wool) to 1 (patent leather)."""

    pattern: str
    colours: list
    size: float = 1.0
    gloss: float = 0.05
    relief: str = "weave"
    noise: Noise = field(default=None, repr=False)

    def albedo(self, u, v):
        colours = [srgb(c) for c in self.colours]
        base = PATTERNS[self.pattern](u / self.size, v / self.size, colours, self.noise)
        # Dye is never even, and yarn is never quite round.
        uneven = 0.90 + 0.14 * self.noise.fractal(u / 9, v / 9) + 0.10 * (self.noise(u * 3.1, v * 3.1) - 0.5)
        return base * uneven[..., None]

    def height(self, u, v):
        """Relief of the cloth itself in centimetres."""
        if self.relief == "rib":
            return 0.10 * np.abs(np.sin(u * np.pi / 1.1))
        if self.relief == "cable":
            twist = np.sin((v + 1.6 * np.sin(u * 0.9)) * 1.6) * (np.sin(u * 0.9) > -0.2)
            return 0.13 * np.abs(np.sin(u * 1.8)) + 0.10 * twist
        if self.relief == "pleat":
            return 0.55 * (((u / 2.6) % 1.0) - 0.5)
        if self.relief == "quilt":
            return 0.5 * np.sqrt(np.abs(np.sin((u + v) * 0.35) * np.sin((u - v) * 0.35)))
        if self.relief == "fleece":
            return 0.16 * self.noise.fractal(u * 1.6, v * 1.6)
        if self.relief == "puffer":
            return 1.1 * np.sqrt(np.abs(np.sin(v * np.pi / 9)) + 1e-4)
        return 0.035 * self.noise(u * 2.2, v * 2.2)


def plain(u, v, c, noise):
    return np.broadcast_to(c[0], u.shape + (3,)).copy()


def stripes(u, v, c, noise):
    return mix(plain(u, v, c, noise), c[1], band(v, 4.2, 0.45))


def pinstripe(u, v, c, noise):
    return mix(plain(u, v, c, noise), c[1], 0.8 * band(u, 2.6, 0.16, 0.1))


def wide_stripes(u, v, c, noise):
    out = mix(plain(u, v, c, noise), c[1], band(u, 7.0, 0.5))
    return mix(out, c[-1], band(u + 3.5, 7.0, 0.12)) if len(c) > 2 else out


def gingham(u, v, c, noise):
    return mix(plain(u, v, c, noise), c[1], 0.5 * band(u, 3.4, 0.5) + 0.5 * band(v, 3.4, 0.5))


def tartan(u, v, c, noise):
    out = plain(u, v, c, noise)
    for position in (u, v):
        out = mix(out, c[1], 0.55 * band(position, 11, 0.42))
        out = mix(out, c[-1], 0.75 * band(position + 3.1, 11, 0.07))
        out = mix(out, c[-1], 0.45 * band(position + 5.5, 5.5, 0.08))
    return out


def dots(u, v, c, noise):
    row = np.floor(v / 2.4)
    x, y = (u / 2.8 + 0.5 * (row % 2)) % 1 - 0.5, (v / 2.4) % 1 - 0.5
    return mix(plain(u, v, c, noise), c[1], np.clip((0.27 - np.hypot(x, y * 0.9)) / 0.05, 0, 1))


def floral(u, v, c, noise):
    out = mix(plain(u, v, c, noise), c[-1], 0.6 * np.clip((noise.fractal(u / 3, v / 3) - 0.55) * 8, 0, 1))
    for layer, (cell, petals) in enumerate(((7.5, 5), (5.1, 6), (3.7, 4))):
        shifted_u, shifted_v = u + layer * 2.9, v + layer * 4.3
        i, j = np.floor(shifted_u / cell), np.floor(shifted_v / cell)
        jitter_x, jitter_y = noise(i * 7.0 + layer, j * 5.0) - 0.5, noise(i * 3.0, j * 11.0 + layer) - 0.5
        x = shifted_u / cell - i - 0.5 - 0.4 * jitter_x
        y = shifted_v / cell - j - 0.5 - 0.4 * jitter_y
        radius, angle = np.hypot(x, y), np.arctan2(y, x) + 6 * jitter_x
        shape = 0.20 + 0.10 * np.cos(petals * angle)
        colour = c[1 + layer % (len(c) - 1)]
        out = mix(out, colour, np.clip((shape - radius) / 0.03, 0, 1))
        out = mix(out, c[1 + (layer + 1) % (len(c) - 1)], np.clip((0.07 - radius) / 0.02, 0, 1))
    return out


def denim(u, v, c, noise):
    twill = 0.5 + 0.5 * np.sin((u + v) * 9)
    worn = np.clip(noise.fractal(u / 14, v / 22) * 1.5 - 0.35, 0, 1)
    slub = noise(u * 4, v * 0.6)
    base = mix(plain(u, v, c, noise), c[1], 0.55 * worn + 0.18 * slub)
    return base * (0.88 + 0.14 * twill)[..., None]


def houndstooth(u, v, c, noise):
    a, b = (u / 3.2) % 1, (v / 3.2) % 1
    warp, weft = a < 0.5, b < 0.5
    diagonal = ((a + b) * 4 % 1) < 0.5
    return mix(plain(u, v, c, noise), c[1], np.where(warp == weft, warp, diagonal).astype(np.float32))


def leopard(u, v, c, noise):
    field_ = noise.fractal(u / 2.2, v / 2.0, 2)
    out = mix(plain(u, v, c, noise), c[1], np.clip((field_ - 0.60) * 12, 0, 1))
    return mix(out, c[-1], np.clip(1 - np.abs(field_ - 0.58) * 22, 0, 1))


def blocks(u, v, c, noise):
    out = mix(plain(u, v, c, noise), c[1], band(v - 22, 72, 0.26, 0.01))
    return mix(out, c[-1], np.clip((v - 58) / 0.3, 0, 1))


def marl(u, v, c, noise):
    return mix(plain(u, v, c, noise), c[1], 0.65 * noise(u * 2.4, v * 1.1) * noise(u * 5, v * 5) * 2)


def tie_dye(u, v, c, noise):
    rings = np.hypot(u, v - 48) + 9 * noise.fractal(u / 8, v / 8)
    out = mix(plain(u, v, c, noise), c[1], 0.5 + 0.5 * np.sin(rings / 2.4))
    return mix(out, c[-1], 0.7 * np.clip(np.sin(rings / 5.1 + 1), 0, 1))


def abstract(u, v, c, noise):
    out = plain(u, v, c, noise)
    for layer, colour in enumerate(c[1:]):
        out = mix(out, colour, np.clip((noise.fractal(u / 10 + 40 * layer, v / 7 + 9 * layer, 2) - 0.55) * 25, 0, 1))
    return out


PATTERNS = {
    f.__name__: f
    for f in (
        plain,
        stripes,
        pinstripe,
        wide_stripes,
        gingham,
        tartan,
        dots,
        floral,
        denim,
        houndstooth,
        leopard,
        blocks,
        marl,
        tie_dye,
        abstract,
    )
}
