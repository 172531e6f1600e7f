"""Places: what is behind a figure or under a garment. Each returns linear RGB of the canvas size."""

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from .cloth import srgb


def grid(width, height):
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return x, y


def fill(width, height, colour):
    return np.broadcast_to(srgb(colour).astype(np.float32), (height, width, 3)).copy()


def studio(width, height, rng, noise, colour, floor):
    """A paper sweep: one colour, a glow behind the figure, the floor a little darker."""
    x, y = grid(width, height)
    rgb = fill(width, height, colour)
    glow = np.exp(-(((x / width - 0.45) / 0.55) ** 2) - ((y / height - 0.38) / 0.5) ** 2)
    sweep = 1 / (1 + np.exp(-(y - floor) / (0.03 * height)))
    light = 0.72 + 0.34 * glow - 0.16 * sweep * (1 - 0.6 * (y - floor) / height)
    return rgb * light[..., None]


def wall(width, height, rng, noise, colour, ground, floor):
    """Plaster above, boards or stone below, a skirting line between."""
    x, y = grid(width, height)
    rgb = fill(width, height, colour)
    blotch = 0.82 + 0.30 * noise.fractal(x / 160, y / 200, 4) + 0.05 * noise(x / 2.2, y / 2.2)
    rgb *= (blotch * (1.06 - 0.30 * x / width))[..., None]
    under = perspective_floor(width, height, rng, noise, ground, floor)
    rgb = np.where((y > floor)[..., None], under, rgb)
    edge = np.exp(-(((y - floor) / 5.0) ** 2))
    return rgb * (1 - 0.45 * edge)[..., None]


def bricks(width, height, rng, noise, colour, ground, floor):
    x, y = grid(width, height)
    tall, long = 30.0, 88.0
    row = np.floor(y / tall)
    column = np.floor(x / long + 0.5 * (row % 2))
    fx, fy = (x / long + 0.5 * (row % 2)) % 1, (y / tall) % 1
    mortar = np.clip(np.maximum(np.abs(fx - 0.5) * 2 - 0.93, np.abs(fy - 0.5) * 2 - 0.84) * 25, 0, 1)
    tint = 0.65 + 0.6 * noise(column * 13.7, row * 7.3) + 0.25 * noise.fractal(x / 9, y / 9)
    rgb = fill(width, height, colour) * tint[..., None]
    rgb = rgb + (srgb("#9a938a") * 0.8 - rgb) * mortar[..., None]
    rgb = np.stack([gaussian_filter(rgb[..., i], 3.2) for i in range(3)], -1)
    under = perspective_floor(width, height, rng, noise, ground, floor)
    return np.where((y > floor)[..., None], under, rgb)


def perspective_floor(width, height, rng, noise, colour, horizon):
    """A plane below `horizon` with slabs and dirt, nearer is larger."""
    x, y = grid(width, height)
    depth = 260.0 / np.maximum(y - horizon + 60, 1)
    px, pz = (x - width / 2) * depth / 90, depth * 14
    dirt = 0.78 + 0.36 * noise.fractal(px * 0.9 + 31, pz * 0.9, 4) + 0.10 * (noise(x / 1.7, y / 1.7) - 0.5)
    joint = np.minimum(np.abs((px / 3.2) % 1 - 0.5), np.abs((pz / 3.2) % 1 - 0.5))
    return fill(width, height, colour) * (dirt * (1 - 0.30 * np.clip(1 - joint / 0.014, 0, 1)))[..., None]


def street(width, height, rng, noise, horizon):
    """Houses, trees, cars and passers-by far out of focus above a pavement."""
    image = Image.new("RGB", (width, height), ("#c9d6e2", "#dfe3e6", "#b9cbe0", "#e9e4da")[rng.integers(4)])
    draw = ImageDraw.Draw(image)
    pick = lambda names: names[rng.integers(len(names))]  # noqa: E731
    left = 0
    while left < width:
        wide = int(rng.integers(int(width * 0.16), int(width * 0.42)))
        top = int(rng.integers(-int(height * 0.2), int(height * 0.22)))
        face = pick(["#b7a58c", "#8d7a68", "#c9c1b2", "#7d5a48", "#5f6670", "#a39a92", "#d4c4a8", "#6d4a40"])
        draw.rectangle([left, top, left + wide, horizon], fill=face)
        pane = pick(["#3b4651", "#23282e", "#58656f", "#e0d9b0"])
        step = int(rng.integers(46, 84))
        for wx in range(left + 14, left + wide - 20, step):
            for wy in range(top + 24, int(horizon - 110), int(step * 1.7)):
                draw.rectangle([wx, wy, wx + step * 0.5, wy + step], fill=pane)
        draw.rectangle([left, horizon - 105, left + wide, horizon - 12], fill=pick(["#2c2f33", "#4a3c33", "#6e6a60", "#23372f"]))
        left += wide
    for _ in range(int(rng.integers(1, 4))):
        cx, r = int(rng.integers(0, width)), int(rng.integers(60, 170))
        for _ in range(26):
            ox, oy = rng.normal(0, r * 0.6, 2)
            green = pick(["#3c5a2c", "#56763a", "#2c4424", "#7d9450"])
            draw.ellipse([cx + ox - 34, horizon - 330 + oy - 34, cx + ox + 34, horizon - 330 + oy + 34], fill=green)
        draw.rectangle([cx - 8, horizon - 330, cx + 8, horizon], fill="#3a2d22")
    for _ in range(int(rng.integers(1, 4))):
        cx, wide = int(rng.integers(-60, width)), int(rng.integers(170, 330))
        paint = pick(["#8a8f96", "#20242a", "#a02a26", "#e8e8e6", "#2c4a74"])
        draw.rounded_rectangle([cx, horizon - 78, cx + wide, horizon - 8], 22, fill=paint)
        draw.rounded_rectangle([cx + wide * 0.2, horizon - 128, cx + wide * 0.8, horizon - 60], 24, fill="#39434d")
        for wheel in (0.2, 0.8):
            draw.ellipse([cx + wide * wheel - 24, horizon - 32, cx + wide * wheel + 24, horizon + 14], fill="#141416")
    for _ in range(int(rng.integers(0, 4))):
        cx, tall = int(rng.integers(0, width)), int(rng.integers(150, 230))
        draw.ellipse([cx - 12, horizon - tall, cx + 12, horizon - tall + 32], fill=pick(["#c99b7c", "#7a5138"]))
        draw.rounded_rectangle(
            [cx - 26, horizon - tall + 32, cx + 26, horizon - tall * 0.45], 12, fill=pick(["#22252b", "#7a3030", "#3d4f66", "#c9c4ba"])
        )
        draw.rectangle([cx - 18, horizon - tall * 0.45, cx + 18, horizon], fill=pick(["#1d2230", "#40342c"]))
    far = np.asarray(image, np.float32) / 255
    far = np.where(far <= 0.04045, far / 12.92, ((far + 0.055) / 1.055) ** 2.4)
    far = np.stack([gaussian_filter(far[..., i], 11) for i in range(3)], -1)
    ground = perspective_floor(width, height, rng, noise, pick(["#8d8a86", "#a09890", "#6f7073", "#9a8c7c"]), horizon)
    if rng.random() < 0.5:
        kerb = int(horizon + rng.integers(20, 60))
        ground[kerb : kerb + 12] *= 1.35
    y = grid(width, height)[1]
    sharp = np.clip((y - horizon) / 24, 0, 1)[..., None]
    return (far * (1 - sharp) + ground * sharp) * rng.uniform(0.8, 1.0)


def boards(width, height, rng, noise, colour):
    """A wooden floor from above."""
    x, y = grid(width, height)
    plank = 170.0
    row = np.floor(x / plank)
    start = 700 * noise(row * 9.1, row * 3.3)
    column = np.floor((y + start) / 900)
    tint = 0.72 + 0.5 * noise(row * 17.7 + 3, column * 23.1 + 5)
    grain = 0.75 + 0.35 * noise.fractal(x / 7 + 40 * row, y / 130 + column * 7, 3) + 0.12 * noise(x / 2, y / 50)
    gap = np.minimum(np.abs((x / plank) % 1 - 0.5) * -2 + 1, 1)
    seam = np.clip(1 - gap * plank / 6, 0, 1)
    end = 0.5 * (((y + start) / 900) % 1 < 0.006)
    return fill(width, height, colour) * (tint * grain * (1 - 0.6 * seam) * (1 - end))[..., None]


def linen(width, height, rng, noise, colour):
    """Bed linen or a sheet of felt with slow waves."""
    x, y = grid(width, height)
    wave = noise.fractal(x / 330 + 0.3 * y / 330, y / 420, 2)
    weave = 0.04 * (noise(x / 1.6, y / 4) + noise(x / 4, y / 1.6))
    slope = np.gradient(gaussian_filter(wave, 14), axis=1) * 30
    return fill(width, height, colour) * (0.86 + 0.16 * wave + slope + weave)[..., None]


def concrete(width, height, rng, noise, colour):
    x, y = grid(width, height)
    blot = 0.74 + 0.34 * noise.fractal(x / 120, y / 120, 5)
    pits = np.clip((noise(x / 3.1, y / 3.1) - 0.88) * 6, 0, 0.5)
    return fill(width, height, colour) * (blot - pits)[..., None]


def ground_shadow(rgb, x, y, wide, tall, strength):
    gx, gy = grid(rgb.shape[1], rgb.shape[0])
    spot = np.exp(-(((gx - x) / wide) ** 2) - ((gy - y) / tall) ** 2)
    rgb *= (1 - strength * spot)[..., None]
