"""The canvas: layers of cloth, skin and leather, lit from the upper left and put on top of each other.

Owns geometry on pixels, relief, light and shadow. Knows nothing of what a layer depicts.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter

KEY = np.array([-0.42, -0.50, 0.76])
FILL = np.array([0.75, -0.15, 0.64])
HALF = (KEY + [0, 0, 1]) / np.linalg.norm(KEY + [0, 0, 1])


def spline(points, closed=False, steps=10):
    """Catmull-Rom through the points. A third element, anything true, makes a point a corner."""
    pts = np.array([p[:2] for p in points], float)
    corner = [len(p) > 2 and bool(p[2]) for p in points]
    n, out = len(pts), []
    for i in range(n if closed else n - 1):
        a, b = pts[i], pts[(i + 1) % n]
        before = pts[i - 1] if (closed or i > 0) and not corner[i] else a
        after = pts[(i + 2) % n] if (closed or i + 2 < n) and not corner[(i + 1) % n] else b
        t = np.linspace(0, 1, steps, endpoint=False)[:, None]
        out.append(0.5 * (2 * a + (b - before) * t + (2 * before - 5 * a + 4 * b - after) * t**2 + (3 * a - before - 3 * b + after) * t**3))
    if not closed:
        out.append(pts[-1:])
    return np.concatenate(out)


def outline(points):
    return spline(points, closed=True)


def mirrored(right):
    """A closed outline from its right half, given from top centre to bottom centre."""
    left = [(-p[0],) + tuple(p[1:]) for p in reversed(right) if abs(p[0]) > 1e-6]
    return outline(list(right) + left)


def tube(centre, radii, steps=24):
    """Outline of a limb: a smooth centre line (k points) with a radius at each."""
    line = spline(centre, steps=steps)
    at = np.linspace(0, 1, len(line))
    radius = np.interp(at, np.linspace(0, 1, len(radii)), radii)
    direction = np.gradient(line, axis=0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1) * radius[:, None]
    return np.concatenate([line + normal, (line - normal)[::-1]])


@dataclass
class View:
    """Centimetres to pixels: scale, then turn by `angle`, then shift."""

    unit: float
    x: float
    y: float
    angle: float = 0.0

    def pixels(self, points):
        c, s = np.cos(self.angle), np.sin(self.angle)
        p = np.asarray(points, float) * self.unit
        return np.stack([p[:, 0] * c - p[:, 1] * s + self.x, p[:, 0] * s + p[:, 1] * c + self.y], axis=1)

    def centimetres(self, x, y):
        c, s = np.cos(self.angle), np.sin(self.angle)
        x, y = (x - self.x) / self.unit, (y - self.y) / self.unit
        return x * c + y * s, -x * s + y * c


@dataclass
class Mark:
    """A line or a filled spot on a layer: stitching, a placket, a button. `groove` is its depth in centimetres."""

    points: np.ndarray
    colour: np.ndarray = None
    width: float = 0.4
    strength: float = 0.6
    groove: float = 0.0
    filled: bool = False
    dashed: bool = False
    soft: float = 0.08


@dataclass
class Layer:
    """One piece. `parts` are its outlines; `form` the solid under it when it is not the piece itself (a hem does not curve away)."""

    parts: list
    fabric: object
    form: list = None
    bulge: float = 8.0
    round: float = 0.8
    edge: float = 0.35
    folds: object = None
    frame: tuple = (0.0, 0.0, 0.0)
    marks: list = field(default_factory=list)
    shadow: float = 0.5
    drop: float = 1.2
    shade: float = 1.0


class Canvas:
    """`rgb` is linear light; `figure` is how much of each pixel is covered by layers."""

    def __init__(self, rgb, view, shadow_on_ground):
        self.rgb, self.view, self.shadow_on_ground = rgb, view, shadow_on_ground
        self.figure = np.zeros(rgb.shape[:2], np.float32)

    def mask(self, polygons, box, closed=True, width=1):
        x0, y0, x1, y1 = box
        image = Image.new("L", (x1 - x0, y1 - y0))
        draw = ImageDraw.Draw(image)
        for polygon in polygons:
            points = [(x - x0, y - y0) for x, y in self.view.pixels(polygon)]
            if closed:
                draw.polygon(points, fill=255)
            else:
                draw.line(points, fill=255, width=max(1, round(width * self.view.unit)), joint="curve")
        return np.asarray(image, np.float32) / 255

    def relief(self, polygons, box, bulge, roundness):
        reach = bulge * self.view.unit
        height = np.zeros((box[3] - box[1], box[2] - box[0]), np.float32)
        for polygon in polygons:
            inside = distance_transform_edt(self.mask([polygon], box) > 0.5)
            rise = np.clip(inside / reach, 0, 1)
            height = np.maximum(height, reach * roundness * np.sqrt(1 - (1 - rise) ** 2))
        return gaussian_filter(height, 0.12 * reach + 0.8)

    def paint(self, layer):
        points = np.concatenate([self.view.pixels(p) for p in layer.parts])
        margin = int(3 * self.view.unit) + 4
        height, width = self.rgb.shape[:2]
        x0, y0 = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
        x1, y1 = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin, (width, height))
        if x1 - x0 < 3 or y1 - y0 < 3:
            return
        box, where = (x0, y0, x1, y1), np.s_[y0:y1, x0:x1]
        unit = self.view.unit
        solid = self.mask(layer.parts, box)
        alpha = gaussian_filter(solid, 0.7)

        gx, gy = np.meshgrid(np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32))
        wx, wy = self.view.centimetres(gx, gy)
        fx, fy, turn = layer.frame
        c, s = np.cos(turn), np.sin(turn)
        u, v = (wx - fx) * c + (wy - fy) * s, -(wx - fx) * s + (wy - fy) * c

        relief = self.relief(layer.form or layer.parts, box, layer.bulge, layer.round)
        if layer.edge:
            relief = relief + self.relief(layer.parts, box, layer.edge, 1.0)
        dy, dx = np.gradient(relief)
        side = dx / np.sqrt(1 + dx * dx + dy * dy)
        around = -0.5 * layer.bulge * side * np.abs(side)
        albedo = layer.fabric.albedo(u + around * c, v + around * -s)
        cloth = layer.fabric.height(u + around * c, v)
        if layer.folds is not None:
            cloth = cloth + 1.8 * layer.folds(u, v)
        for mark in layer.marks:
            albedo, cloth = self.draw_mark(mark, box, albedo, cloth)
        relief = relief + unit * cloth

        light, shine = self.light(relief, layer.fabric.gloss)
        lit = albedo * (light * layer.shade)[..., None] + shine[..., None]
        if layer.shadow:
            self.cast(solid, where, layer, margin)
        self.rgb[where] += (lit - self.rgb[where]) * alpha[..., None]
        self.figure[where] = np.maximum(self.figure[where], alpha)

    def cast(self, solid, where, layer, margin):
        """Darkens what lies under the layer: contact shade all round and a soft shadow down and to the right."""
        shift = min(layer.drop * self.view.unit, margin - 2)
        moved = np.roll(solid, (int(shift * 0.9), int(shift * 0.6)), axis=(0, 1))
        soft = 0.6 * gaussian_filter(moved, 0.6 * shift + 0.5) + 0.4 * gaussian_filter(solid, 0.35 * shift + 0.5)
        reach = 1.0 if self.shadow_on_ground else self.figure[where]
        self.rgb[where] *= (1 - layer.shadow * soft * reach)[..., None]

    def draw_mark(self, mark, box, albedo, cloth):
        if mark.dashed:
            pieces = [mark.points[i : i + 2] for i in range(0, len(mark.points) - 1, 2)]
        else:
            pieces = [mark.points]
        amount = gaussian_filter(self.mask(pieces, box, mark.filled, mark.width), mark.soft * self.view.unit + 0.3)
        if mark.colour is not None:
            albedo = albedo + (mark.colour - albedo) * (mark.strength * amount)[..., None]
        return albedo, cloth - mark.groove * amount

    @staticmethod
    def light(relief, gloss):
        dy, dx = np.gradient(gaussian_filter(relief, 0.8))
        length = np.sqrt(1 + dx * dx + dy * dy)
        normal = np.stack([-dx / length, -dy / length, 1 / length], axis=-1)

        def amount(n):
            key = np.clip((n @ KEY + 0.18) / 1.18, 0, None)
            fill = np.clip(n @ FILL, 0, None)
            return 0.17 + 0.86 * key + 0.20 * fill + 0.06 * -n[..., 1]

        light = amount(normal) / amount(np.array([0.0, 0.0, 1.0]))
        shine = gloss * np.clip(normal @ HALF, 0, None) ** (6 + 40 * gloss) * 0.55
        occluded = np.clip(1 - 0.035 * (gaussian_filter(relief, 6) - relief), 0.75, 1.08)
        return light * occluded, shine

    def photo(self, size, grade, rng):
        """Camera: exposure, colour cast, vignette, reduction, grain. Returns a Pillow image of `size`."""
        height, width = self.rgb.shape[:2]
        y, x = np.mgrid[0:height, 0:width]
        radius = np.hypot((x / width - 0.5), (y / height - 0.5))
        linear = self.rgb * grade[None, None, :] * (1 - 0.35 * radius**2)[..., None]
        linear = np.clip(linear, 0, None)
        linear = linear * (1 + linear / 6) / (1 + linear * 0.22)
        coded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-6) ** (1 / 2.4) - 0.055)
        image = Image.fromarray((np.clip(coded, 0, 1) * 255 + 0.5).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
        pixels = np.asarray(image, np.float32)
        grain = gaussian_filter(rng.normal(0, 1, pixels.shape[:2]), 0.6) * 2.2
        return Image.fromarray(np.clip(pixels + grain[..., None], 0, 255).astype(np.uint8))
