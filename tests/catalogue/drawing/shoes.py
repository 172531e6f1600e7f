"""Shoes: worn, seen from the front, and a pair from the side as a product photo."""

import numpy as np

from .cloth import Fabric, srgb
from .light import Layer, Mark, outline, spline, tube

WHITE = "#eceae4"


def foot(body, side):
    """Ankle, and the unit vectors along the foot (down and outward in the picture) and across it."""
    ankle = body.leg(side)[2]
    along = np.array([side * 0.30, 1.0])
    along /= np.linalg.norm(along)
    return ankle + [0, 1.5], along, np.array([along[1], -along[0]]) * side


def placed(points, origin, along, across):
    return [tuple(origin + across * p[0] + along * p[1]) + tuple(p[2:]) for p in points]


def worn(canvas, body, kind, fabric, noise, sole=WHITE, bare=None):
    """Both shoes on `body`. `bare` is the fabric of the foot, for shoes that show it."""
    for side in (-1, 1):
        origin, along, across = foot(body, side)
        draw = lambda points, cloth, **more: canvas.paint(
            Layer([outline(placed(points, origin, along, across))], cloth, **{"edge": 0, "bulge": 4.0, **more})
        )  # noqa: E731
        rubber = Fabric("plain", [sole], gloss=0.15, relief="none", noise=noise)
        if kind in ("pumps", "sandals", "flats") and bare is not None:
            draw([(-3.2, -3), (-3.6, 3), (-4.4, 9), (-2.4, 13.2), (1.0, 13.4), (4.0, 10), (3.6, 4), (3.2, -3)], bare, shadow=0.2)
        WORN[kind](draw, fabric, rubber, noise, canvas, body, side, (origin, along, across))


def sneaker(draw, fabric, rubber, noise, canvas, body, side, at):
    draw([(-4.6, 2), (-5.4, 8), (-4.6, 12.6), (0, 14.6), (4.8, 12.4), (5.2, 8), (4.6, 2)], rubber, shadow=0.4)
    laces = []
    for y in (3.0, 4.8, 6.6):
        laces.append(Mark(np.array(placed([(-2.2, y), (2.2, y + 0.4)], *at)), srgb(WHITE), 0.65, 0.9, -0.15))
    laces.append(Mark(np.array(placed([(-2.9, 1), (-2.4, 8), (0, 9.4), (2.4, 8), (2.9, 1)], *at)), srgb("#000000"), 0.35, 0.5, 0.2))
    toe = outline(placed([(-4.2, 10), (0, 8.6), (4.2, 10), (3.6, 12.6), (0, 13.6), (-3.6, 12.6)], *at))
    if fabric.pattern == "plain" and fabric.gloss < 0.2:
        laces.append(Mark(toe, srgb(rubber.colours[0]), strength=0.85, filled=True))
    draw(
        [(-3.6, -2.6), (-4.3, 3), (-5.0, 8.4), (-3.8, 12.4), (0, 13.6), (4.0, 12.2), (4.9, 8.2), (4.2, 3), (3.6, -2.6), (0, -1.6)],
        fabric,
        marks=laces,
        shadow=0.35,
    )


def boot(draw, fabric, rubber, noise, canvas, body, side, at, shaft=14.0):
    hip, knee, ankle = body.leg(side)
    up = ankle + (knee - ankle) / np.linalg.norm(knee - ankle) * shaft
    draw([(-4.4, 2), (-5.0, 8), (-4.2, 12.2), (0, 13.8), (4.4, 12), (4.8, 8), (4.4, 2)], rubber, shadow=0.4)
    leg = tube([up, ankle + (up - ankle) * 0.5, ankle + [0, 5]], [5.2 + shaft * 0.035, 5.0, 4.4], 10)
    top = Mark(np.array([up + [-7, 1.2], up + [7, 1.2]]), srgb("#000000"), 0.4, 0.5, 0.2)
    creases = lambda u, v: 0.6 * noise(u / 5, v / 1.6)  # noqa: E731
    canvas.paint(Layer([leg], fabric, bulge=4.6, edge=0.2, folds=creases, marks=[top], shadow=0.4))
    laces = (
        [Mark(np.array(placed([(-1.8, y), (1.8, y + 0.6)], *at)), srgb("#3a2f28"), 0.5, 0.8, -0.2) for y in (-1.0, 1.2, 3.4)]
        if shaft < 18
        else []
    )
    draw(
        [(-4.0, -3), (-4.4, 3), (-4.9, 8), (-3.6, 11.8), (0, 13.0), (3.8, 11.6), (4.7, 8), (4.3, 3), (4.0, -3)],
        fabric,
        marks=laces,
        folds=creases,
        shadow=0.25,
    )


def tall_boot(draw, fabric, rubber, noise, canvas, body, side, at):
    boot(draw, fabric, rubber, noise, canvas, body, side, at, shaft=33.0)


def pump(draw, fabric, rubber, noise, canvas, body, side, at):
    draw(
        [(-4.0, 6.2), (-4.7, 9.2), (-3.2, 13), (0.2, 15.2), (3.4, 12.6), (4.4, 9), (3.8, 5.6), (2.6, 8), (0, 9.6), (-2.8, 8.2)],
        fabric,
        bulge=3,
        shadow=0.35,
    )


def flat_shoe(draw, fabric, rubber, noise, canvas, body, side, at):
    draw(
        [(-3.8, 1.5), (-4.6, 8), (-3.6, 12.4), (0, 13.8), (3.6, 12.2), (4.6, 8), (3.8, 1.5), (3.0, 6), (0, 8), (-3.0, 6)],
        fabric,
        bulge=3,
        shadow=0.35,
    )


def loafer(draw, fabric, rubber, noise, canvas, body, side, at):
    draw([(-4.3, 3), (-5.0, 8), (-4.2, 12.4), (0, 14.2), (4.2, 12.2), (4.9, 8), (4.3, 3)], rubber, shadow=0.4)
    seam = Mark(spline(placed([(-3.4, 6.5), (-2.8, 10.2), (0, 11.6), (2.8, 10.2), (3.4, 6.5)], *at)), srgb("#000000"), 0.4, 0.5, 0.3)
    strap = Mark(np.array(placed([(-4.4, 6.2), (4.4, 6.2)], *at)), srgb("#000000"), 1.6, 0.25, -0.35)
    draw(
        [(-3.6, -1.5), (-4.2, 3), (-4.8, 8), (-3.6, 12), (0, 13.2), (3.6, 11.8), (4.6, 8), (4.2, 3), (3.6, -1.5), (0, 1)],
        fabric,
        marks=[seam, strap],
        shadow=0.3,
    )


def sandal(draw, fabric, rubber, noise, canvas, body, side, at):
    draw(
        [(-4.4, 4), (-5.0, 9), (-3.4, 13.6), (0, 14.8), (3.6, 13.2), (4.8, 9), (4.2, 4), (3.4, 8), (2.6, 12), (-2.2, 12.4), (-3.6, 8)],
        rubber,
        bulge=2,
        shadow=0.35,
    )
    for y in (8.4, 4.2, -1.2):
        strap = spline(placed([(-4.5, y), (0, y + 1.0), (4.5, y)], *at))
        canvas.paint(Layer([tube([tuple(p) for p in strap[::4]], [0.95, 0.95], 4)], fabric, bulge=0.9, edge=0, shadow=0.35, drop=0.5))


WORN = {
    "sneakers": sneaker,
    "boots": boot,
    "tall_boots": tall_boot,
    "pumps": pump,
    "flats": flat_shoe,
    "loafers": loafer,
    "sandals": sandal,
}

# Side views, toe to the right, 28 cm long, the ground at y = 0.
SIDES = {
    "sneakers": [
        (-13.4, -2),
        (-13.6, -7),
        (-12.6, -11, 1),
        (-8.5, -9.6),
        (-6.0, -11.6, 1),
        (-1.5, -9.0),
        (4.5, -6.2),
        (10.5, -5.4),
        (13.6, -3.4),
        (13.8, -1.6, 1),
        (-13, -1.6, 1),
    ],
    "boots": [
        (-12.4, -2),
        (-12.0, -10),
        (-12.8, -22, 1),
        (-6, -22.6),
        (-1.4, -21.4, 1),
        (-1.8, -12),
        (1.5, -8.6),
        (7.5, -6.6),
        (13.0, -4.4),
        (13.6, -2, 1),
        (-12, -2, 1),
    ],
    "loafers": [
        (-13, -2),
        (-13.4, -6),
        (-12, -8.4, 1),
        (-4, -6.6),
        (0.5, -8.8, 1),
        (6, -6.8),
        (12, -4.6),
        (13.8, -1.8, 1),
        (-12.8, -1.8, 1),
    ],
    "pumps": [
        (-12.2, -8.4, 1),
        (-13.4, -12.0),
        (-12.0, -16.0, 1),
        (-7.6, -12.4),
        (-1.0, -7.2),
        (5.0, -6.6, 1),
        (9.6, -4.8),
        (13.6, -2.0),
        (13.4, -0.4, 1),
        (5.4, -0.2, 1),
        (0.4, -1.6),
        (-5.6, -5.6),
        (-9.4, -7.6),
    ],
}


def pair(canvas, kind, fabric, noise, sole=WHITE):
    """Two shoes side by side, one behind the other."""
    for dx, dy in ((3.6, -5.4), (-3.6, 3.6)):
        shift = np.array([dx, dy])
        body = outline([tuple(np.array(p[:2]) + shift) + tuple(p[2:]) for p in SIDES[kind]])
        rubber = Fabric("plain", [sole], gloss=0.15, relief="none", noise=noise)
        if kind == "pumps":
            heel = outline(
                [
                    (-13.0 + dx, -10 + dy, 1),
                    (-8.6 + dx, -7.8 + dy, 1),
                    (-10.8 + dx, -4 + dy),
                    (-11.2 + dx, 0.6 + dy, 1),
                    (-12.6 + dx, 0.6 + dy, 1),
                    (-12.4 + dx, -4 + dy),
                ]
            )
            canvas.paint(Layer([heel], fabric, bulge=1.4, edge=0, shadow=0.5))
        else:
            thick = 3.0 if kind == "sneakers" else 2.2
            ground = outline(
                [
                    (-13.4 + dx, -2.6 + dy, 1),
                    (13.4 + dx, -2.8 + dy, 1),
                    (13.7 + dx, -1.6 + dy),
                    (12.8 + dx, thick - 2.4 + dy),
                    (-12.6 + dx, thick - 2.4 + dy, 1),
                    (-13.8 + dx, -0.8 + dy, 1),
                ]
            )
            canvas.paint(Layer([ground], rubber, bulge=1.6, edge=0, shadow=0.6))
            if kind != "sneakers":
                block = outline(
                    [(-13.2 + dx, -0.5 + dy, 1), (-5.5 + dx, -0.5 + dy, 1), (-6.2 + dx, 2.2 + dy, 1), (-12.8 + dx, 2.2 + dy, 1)]
                )
                canvas.paint(Layer([block], rubber, bulge=1.2, edge=0, shadow=0.4))
        wrinkles = lambda u, v: 0.25 * noise(u / 3, v / 2)  # noqa: E731
        canvas.paint(Layer([body], fabric, bulge=5, edge=0.3, folds=wrinkles, marks=side_marks(kind, shift), shadow=0.35))


def side_marks(kind, shift):
    black, light = srgb("#000000"), srgb(WHITE)
    if kind == "sneakers":
        marks = [
            Mark(np.array([(-5 + 2.2 * i, -10.6 + 1.1 * i), (-3.4 + 2.2 * i, -7.4 + 0.9 * i)]) + shift, light, 0.7, 0.9, -0.2)
            for i in range(4)
        ]
        marks.append(Mark(spline([(-8.5, -9.4), (-5, -6), (3, -2)]) + shift, black, 0.35, 0.5, 0.2))
        marks.append(Mark(spline([(7, -6), (7.6, -4), (9.6, -2)]) + shift, black, 0.35, 0.5, 0.2))
        return marks + [Mark(spline([(-10, -3), (-4, -4.6), (2, -3)]) + shift, light, 1.0, 0.85)]
    if kind == "boots":
        goring = outline([(-8.4, -21.6, 1), (-5, -21.8, 1), (-6, -11), (-7.6, -11)]) + shift
        return [
            Mark(goring, black, strength=0.55, filled=True, groove=0.2),
            Mark(spline([(-12, -7), (-4, -8), (1.5, -5), (4, -2)]) + shift, black, 0.35, 0.5, 0.2),
        ]
    if kind == "loafers":
        return [
            Mark(np.array([(-2, -7.4), (2.4, -2.4)]) + shift, black, 2.2, 0.25, -0.4),
            Mark(spline([(0, -6.4), (6, -5.2), (11.8, -3)]) + shift, black, 0.4, 0.55, 0.3),
        ]
    return [Mark(spline([(-11.6, -15.4), (-7.6, -11.8), (-1, -6.6), (4.8, -6.1)]) + shift, black, 0.35, 0.5, 0.15)]
