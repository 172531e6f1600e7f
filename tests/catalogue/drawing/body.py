"""The mannequin: proportions, pose, skin, head and hair.

Owns where shoulders, hips, wrists and ankles are; garments ask for them. Proportions follow a 7.6-head adult seen from
the front, standing, as in street photographs.
"""

from dataclasses import dataclass, field

import numpy as np

from .cloth import Fabric, srgb
from .light import Layer, Mark, mirrored, outline, spline, tube

# (arm from the vertical at the shoulder, at the elbow), degrees outward.
ARMS = {
    "relaxed": (9, 2),
    "out": (20, 9),
    "hip": (36, -46),
    "pocket": (17, -9),
    "walk": (13, -4),
    "flat": (38, 30),
    "flat_in": (14, 5),
}
# x of hip joint, knee and ankle, y of ankle below the standing height.
LEGS = {
    "straight": (8.2, 7.2, 6.6, 0.0),
    "apart": (8.6, 10.2, 11.8, 0.0),
    "close": (7.6, 5.6, 4.4, 0.0),
    "step": (8.4, 9.2, 7.0, 3.5),
    "flat": (8.6, 9.6, 10.6, 0.0),
}


@dataclass
class Body:
    woman: bool
    arms: tuple = ("relaxed", "relaxed")
    legs: tuple = ("straight", "straight")
    sway: float = 0.0
    slim: float = 1.0
    flat: bool = False
    table: list = field(init=False)

    def __post_init__(self):
        wide = self.slim
        shoulder, chest, waist, hip = (18.6, 15.2, 12.2, 17.0) if self.woman else (21.8, 17.4, 15.0, 16.4)
        self.shoulder, self.chest, self.waist, self.hip = shoulder * wide, chest * wide, waist * wide, hip * wide
        self.table = [
            (26, 5.2), (31, self.shoulder * 0.62), (34, self.shoulder * 0.96), (38, self.shoulder * 0.95),
            (46, self.chest), (52, self.chest * 0.97), (65, self.waist), (74, (self.waist + self.hip) / 2 + 0.8),
            (84, self.hip), (90, self.hip * 0.98),
        ]  # fmt: skip

    def half_width(self, y):
        ys, widths = zip(*self.table)
        return np.interp(y, ys, widths)

    def centre(self, y):
        """x of the body's centre line: the hip goes out, the shoulders go the other way."""
        return self.sway * np.interp(y, [0, 34, 84, 170], [-0.3, -0.5, 1.0, 0.0])

    def arm(self, side):
        """Shoulder, elbow, wrist and finger tips; side -1 is the left of the picture."""
        upper, lower = (np.radians(a) for a in ARMS[self.arms[0 if side < 0 else 1]])
        x, y = self.centre(34) + side * (self.shoulder - 3.2), 36.0
        points = [(x, y)]
        for angle, length in ((upper, 28.5), (lower, 24.5), (lower * 0.8, 15.0)):
            x, y = x + side * length * np.sin(angle), y + length * np.cos(angle)
            points.append((x, y))
        return np.array(points)

    def leg(self, side):
        """Hip joint, knee, ankle."""
        hip, knee, ankle, down = LEGS[self.legs[0 if side < 0 else 1]]
        return np.array(
            [
                (self.centre(84) + side * hip, 84.0),
                (self.centre(120) + side * knee, 122.0 + down * 0.4),
                (self.centre(160) + side * ankle, 160.5 + down),
            ]
        )


def skin(tone, noise):
    return Fabric("plain", [tone], gloss=0.10, relief="none", noise=noise)


def draw_legs(canvas, body, tone, noise, tights=None, covered=False):
    """`covered`: under trousers, where only the ankles may show."""
    slim = 0.78 if covered else 1.0
    fabric = Fabric("plain", [tights], gloss=0.12, noise=noise) if tights else skin(tone, noise)
    for side in (-1, 1):
        hip, knee, ankle = body.leg(side)
        calf = knee + (ankle - knee) * 0.35 + [side * 0.6, 0]
        limb = tube(
            [hip, hip + (knee - hip) * 0.6, knee, calf, knee + (ankle - knee) * 0.75, ankle, ankle + [0, 4]],
            slim * np.array([8.8, 8.2, 6.6, 5.0, 5.6, 4.0, 3.2, 3.0]),
        )
        knee_cap = Mark(spline([knee + [-2.4, 1.5], knee + [0, 3], knee + [2.4, 1.5]]), srgb("#000000"), 0.7, 0.10, 0.1, soft=0.7)
        canvas.paint(Layer([limb], fabric, bulge=6, edge=0, marks=[knee_cap], shadow=0.25))


def draw_neck(canvas, body, tone, noise):
    x = body.centre(30)
    width = 5.0 if body.woman else 6.3
    edge, chest = body.shoulder, body.chest
    half = [
        (0, 17, 1),
        (width * 0.8, 17, 1),
        (width * 0.92, 23),
        (width, 27),
        (width + 2.4, 29.6),
        (edge * 0.72, 32.2),
        (edge * 0.99, 35.8),
        (edge * 1.03, 41),
        (chest, 49),
        (chest, 60, 1),
        (0, 60, 1),
    ]
    neck = mirrored(half) + [x, 0]
    bones = [
        Mark(spline([(x + s * 2, 33.5), (x + s * 8, 32.6), (x + s * 13, 32.8)]), srgb("#3a1a10"), 0.5, 0.25, 0.15, soft=0.4)
        for s in (-1, 1)
    ]
    under_chin = outline([(x - width, 18), (x - width * 0.9, 24.5), (x, 27.5), (x + width * 0.9, 24.5), (x + width, 18)])
    shadow = Mark(under_chin, srgb("#1a0a06"), strength=0.45, filled=True, soft=0.9)
    canvas.paint(Layer([neck], skin(tone, noise), bulge=7, edge=0, marks=[*bones, shadow], shadow=0.2))


def draw_arms(canvas, body, tone, noise):
    for side in (-1, 1):
        shoulder, elbow, wrist, tip = body.arm(side)
        limb = tube([shoulder, elbow, wrist], [5.2, 4.6, 4.0, 4.0, 3.3, 2.6])
        canvas.paint(Layer([limb], skin(tone, noise), bulge=4.6, edge=0, shadow=0.35))
        draw_hand(canvas, wrist, tip, side, tone, noise, hidden=body.arms[0 if side < 0 else 1] == "pocket")


def draw_hand(canvas, wrist, tip, side, tone, noise, hidden):
    if hidden:
        return
    along = (tip - wrist) / np.linalg.norm(tip - wrist)
    across = np.array([-along[1], along[0]]) * side
    at = lambda a, b: wrist + along * a + across * b  # noqa: E731
    palm = tube([at(-1, 0), at(4, 0.2), at(9, 0.2), at(15, 0.6)], [2.4, 2.9, 3.3, 3.0, 2.5, 1.2], 12)
    thumb = tube([at(3, 1.8), at(7, 3.6), at(10, 3.4)], [1.2, 1.2, 0.8], 8)
    fingers = [Mark(spline([at(8.5, b), at(14, b * 0.7 + 0.5)]), srgb("#4a2418"), 0.3, 0.4, 0.2, soft=0.15) for b in (-1.3, 0.1, 1.4)]
    canvas.paint(Layer([thumb, palm], skin(tone, noise), bulge=2.6, edge=0, marks=fingers, shadow=0.25))


HAIR_BACK = {
    "long": [(0, -1.5), (8.2, 1), (10.4, 10), (10.8, 24), (12.0, 40), (7, 44), (0, 42)],
    "bob": [(0, -1.5), (8.4, 1), (10.6, 9), (11.2, 20), (9.2, 25), (0, 24)],
    "wavy": [(0, -2), (9, 0.5), (12, 9), (11, 17), (13.6, 25), (12, 34), (8, 37), (0, 35)],
}


def draw_hair_back(canvas, body, style, colour, noise):
    if style not in HAIR_BACK:
        return
    x = body.centre(10)
    shape = mirrored(HAIR_BACK[style]) + [x, 0]
    strands = lambda u, v: 0.35 * noise(u * 2.4, v * 0.12) + 0.5 * noise(u * 0.5, v * 0.05)  # noqa: E731
    canvas.paint(
        Layer([shape], Fabric("plain", [colour], gloss=0.25, relief="none", noise=noise), bulge=6, edge=0, folds=strands, shadow=0.35)
    )


def draw_head(canvas, body, tone, style, colour, beard_colour, noise, rng):
    x = body.centre(10)
    jaw = 6.2 if body.woman else 6.9
    face = mirrored([(0, 0.6), (5.4, 2), (7.6, 7.5), (7.5, 12.5), (jaw, 17.6), (3.2, 21.8), (0, 22.8)]) + [x, 0]
    ears = [outline([(x + s * 7.2, 10), (x + s * 8.6, 10.4), (x + s * 8.2, 14.4), (x + s * 7.0, 14.6)]) for s in (-1, 1)]
    dark, lip = srgb("#1c120e"), srgb("#8f3535")
    marks = []
    for s in (-1, 1):
        eye = outline([(x + s * 1.7, 11.3), (x + s * 3.1, 10.6), (x + s * 4.7, 11.4), (x + s * 3.1, 12.0)])
        socket = outline([(x + s * 1.2, 10.6), (x + s * 3.2, 9.6), (x + s * 5.4, 10.8), (x + s * 3.2, 12.4)])
        marks += [
            Mark(socket, dark, strength=0.28, filled=True, soft=0.5, groove=0.5),
            Mark(eye, srgb("#e8e0da"), strength=0.75, filled=True),
            Mark(
                outline([(x + s * 2.5, 10.6), (x + s * 3.9, 10.6), (x + s * 3.9, 12.0), (x + s * 2.5, 12.0)]),
                dark,
                strength=0.95,
                filled=True,
            ),
            Mark(spline([(x + s * 1.5, 11.2), (x + s * 3.1, 10.4), (x + s * 4.9, 11.2)]), dark, 0.35, 0.8),
            Mark(spline([(x + s * 1.5, 8.9), (x + s * 3.4, 8.1), (x + s * 5.3, 8.9)]), srgb(beard_colour) * 0.6, 0.6, 0.7, soft=0.15),
            Mark(
                outline([(x + s * 3.0, 14), (x + s * 5.4, 13.6), (x + s * 5.2, 16), (x + s * 3.4, 16.4)]),
                lip,
                strength=0.14,
                filled=True,
                soft=1.0,
            ),
        ]
    marks += [
        Mark(spline([(x + 0.9, 10.5), (x + 1.0, 14.0), (x + 1.5, 15.4)]), dark, 0.5, 0.22, 0.2, soft=0.35),
        Mark(spline([(x - 1.5, 15.7), (x, 16.1), (x + 1.5, 15.7)]), dark, 0.5, 0.42, 0.2, soft=0.2),
        Mark(
            outline([(x - 2.7, 18.4), (x - 0.8, 17.8), (x, 18.0), (x + 0.8, 17.8), (x + 2.7, 18.4), (x, 19.7)]),
            lip,
            strength=0.75,
            filled=True,
            soft=0.15,
        ),
        Mark(spline([(x - 2.5, 18.45), (x, 18.7), (x + 2.5, 18.45)]), dark, 0.25, 0.6),
    ]
    if not body.woman and style != "buzz" and rng.random() < 0.4:
        beard = outline(
            [
                (x - 6.6, 14.5),
                (x - 4, 17),
                (x - 3, 17),
                (x, 16.9),
                (x + 3, 17),
                (x + 4, 17),
                (x + 6.6, 14.5),
                (x + 5.2, 20),
                (x, 23),
                (x - 5.2, 20),
            ]
        )
        marks.insert(0, Mark(beard, srgb(beard_colour), strength=0.7, filled=True, soft=0.5))
    canvas.paint(Layer([*ears, face], skin(tone, noise), bulge=7.5, edge=0, marks=marks, shadow=0.3))
    draw_hair_front(canvas, x, style, colour, noise)
    if rng.random() < 0.18:
        draw_glasses(canvas, x, noise)


def draw_glasses(canvas, x, noise):
    lens = [
        outline([(x + s * 0.9, 10), (x + s * 3.4, 9.5), (x + s * 6.2, 10), (x + s * 5.6, 13), (x + s * 3.2, 13.6), (x + s * 1.3, 12.8)])
        for s in (-1, 1)
    ]
    bridge = tube([(x - 1.4, 10.6), (x, 10.2), (x + 1.4, 10.6)], [0.3, 0.3], 6)
    canvas.paint(Layer([*lens, bridge], Fabric("plain", ["#141416"], gloss=0.8, relief="none", noise=noise), bulge=1.5, edge=0, shadow=0.3))


def draw_hair_front(canvas, x, style, colour, noise):
    fabric = Fabric("plain", [colour], gloss=0.22, relief="none", noise=noise)
    strands = lambda u, v: 0.4 * noise(u * 2.2 + v * 0.3, v * 0.25) + 0.4 * noise(u * 0.6, v * 0.1)  # noqa: E731
    side = {"long": 17, "wavy": 16, "bob": 15}.get(style)
    if style == "beanie":
        cap = outline([(x - 8.8, 7.6), (x - 8.6, 1), (x - 4, -4.4), (x + 4, -4.4), (x + 8.6, 1), (x + 8.8, 7.6), (x, 6.4)])
        band = outline([(x - 9.1, 8.4), (x - 8.9, 3.6), (x, 2.2), (x + 8.9, 3.6), (x + 9.1, 8.4), (x, 7.2)])
        rib = Fabric("plain", [colour], relief="rib", noise=noise)
        canvas.paint(Layer([cap], rib, bulge=7, shadow=0.3))
        canvas.paint(Layer([band], rib, bulge=5, shadow=0.3))
        return
    if side:
        pieces = [
            outline(
                [
                    (x, -1.6),
                    (x + s * 6, -0.6),
                    (x + s * 9.4, 6),
                    (x + s * 9.6, side),
                    (x + s * 7.6, side - 2),
                    (x + s * 7.0, 8),
                    (x + s * 4.2, 3.8),
                    (x + 0.6, 2.4),
                ]
            )
            for s in (-1, 1)
        ]
    else:
        top = {"crop": -2.2, "quiff": -4.6, "bun": -1.8, "buzz": -0.4}[style]
        low = {"crop": 9, "quiff": 8.4, "bun": 9, "buzz": 8}[style]
        pieces = [
            outline(
                [
                    (x - 8.0, low),
                    (x - 8.6, 4),
                    (x - 5, top + 0.8),
                    (x, top),
                    (x + 5, top + 0.8),
                    (x + 8.6, 4),
                    (x + 8.0, low),
                    (x + 6.9, low - 1),
                    (x + 5.6, 4.0),
                    (x, 3.2),
                    (x - 5.6, 4.0),
                    (x - 6.9, low - 1),
                ]
            )
        ]
        if style == "bun":
            canvas.paint(
                Layer([outline([(x - 4.4, -3), (x, -7.4), (x + 4.4, -3), (x, 0.6)])], fabric, bulge=4, edge=0, folds=strands, shadow=0.2)
            )
    canvas.paint(Layer(pieces, fabric, bulge=4.5, edge=0, folds=strands, shadow=0.3))
