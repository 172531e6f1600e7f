"""Tops, jackets and dresses, cut to a `Body`.

Each function paints one garment from its cut: lengths and eases in centimetres. The same functions draw a worn garment and
one laid flat: a flat body has its arms spread and no skin.
"""

import numpy as np

from .cloth import Fabric, srgb
from .light import Layer, Mark, mirrored, outline, spline, tube
from .lowers import skirt
from .sewing import (
    bent,
    both,
    crumple,
    dark,
    disc,
    drape,
    hem_line,
    patch_pocket,
    placket,
)

NECKS = {  # neck width, front depth, roundness: the x share of the lowest control points
    "crew": (7.2, 5.5, 0.75),
    "scoop": (9.2, 12.5, 0.75),
    "v": (7.4, 15.0, 0.0),
    "deep_v": (7.4, 24.0, 0.0),
    "boat": (12.5, 3.2, 0.8),
    "square": (10.5, 11.0, 1.0),
    "collar": (6.4, 5.0, 0.5),
    "open_collar": (6.4, 11.0, 0.0),
    "high": (5.9, -1.6, 0.8),
}


def torso(body, cut):
    """Right half of the outline, shoulder to hem, without the neckline."""
    ease, hem, loose = cut["ease"], cut["hem"], cut.get("loose", 0.5)
    neck, _, _ = NECKS[cut["neck"]]
    flare = cut.get("flare", 0.0)
    bare = cut.get("sleeve", 1.0) <= 0
    shoulder = body.shoulder - (5.0 if bare else 0.6) + cut.get("drop", 0.0)
    points = [(neck, 27.2, 1), (shoulder, 32.6, bare), (shoulder + (-1.0 if bare else 0.9), 38)]
    widest = max(body.chest, body.hip * (0.97 if hem > 74 else 0.9))
    for y in np.linspace(46, hem, 5 + int((hem - 46) / 18)):
        close = body.half_width(min(y, 88.0))
        half = close + (widest - close) * loose + ease
        half += flare * max(0.0, (y - 62) / 60)
        points.append((half, y, y == hem))
    return points


def torso_outline(body, cut):
    neck, depth, roundness = NECKS[cut["neck"]]
    side = torso(body, cut)
    hem_drop = cut.get("tail", 0.8)
    bottom = [(0, cut["hem"] + hem_drop)]
    if roundness >= 1.0:
        front = [(0, 27.2 + depth), (neck * 0.94, 27.2 + depth, 1)]
    elif roundness == 0.0:
        front = [(0, 27.2 + depth, 1)]
    else:
        front = [(0, 27.2 + depth), (neck * roundness, 27.2 + depth * 0.72)]
    shape = mirrored(front + side + bottom)
    return shape + np.stack([body.centre(shape[:, 1]), np.zeros(len(shape))], 1)


def sleeve_tube(body, side, length, ease, cuff):
    """Centre line from inside the shoulder to the cuff, and the half width along it with a rounded cap."""
    shoulder, elbow, wrist, _ = body.arm(side)
    upper, lower = elbow - shoulder, wrist - elbow
    line = spline(
        [shoulder - upper * 0.10 - [side * 1.2, 0], shoulder + upper * 0.5, elbow, elbow + lower * 0.5, wrist + lower * 0.04], steps=12
    )
    kept = line[: max(12, int(len(line) * (0.06 + 0.94 * length)))]
    along = np.linspace(0, length, len(kept))
    radii = np.interp(along, [0, 0.12, 0.5, 1], [5.6, 5.6, 4.7, 3.5]) + ease
    cap = np.clip(np.linspace(0, 1, len(kept)) * len(kept) / 9, 0, 1)
    radii *= np.sqrt(1 - (1 - cap) ** 2) * 0.75 + 0.25
    return kept, radii + cuff * np.clip(np.linspace(-1.5, 1, len(kept)), 0, 1)


def sleeve(canvas, body, side, cut, fabric, noise):
    length = cut.get("sleeve", 1.0)
    if length <= 0:
        return
    line, radii = sleeve_tube(body, side, length, cut.get("sleeve_ease", cut["ease"] * 0.7), cut.get("cuff", 0.0))
    shape = tube([tuple(p) for p in line], radii, 2)
    end = line[-1]
    longer = end + (end - line[-4]) * np.arange(1, 4)[:, None]
    form = tube([tuple(p) for p in np.vstack([line, longer])], np.concatenate([radii, [radii[-1]] * 3]), 2)
    down = end - line[0]
    turn = np.arctan2(-down[0], down[1])
    across = np.array([np.cos(turn), np.sin(turn)])
    marks = [Mark(np.array([end - across * 9 - [0, 2.4], end + across * 9 - [0, 2.4]]), dark(fabric), 0.28, 0.6, 0.15)]
    if cut.get("rib"):
        marks += [Mark(np.array([end - across * 9 - [0, 5], end + across * 9 - [0, 5]]), dark(fabric), 0.4, 0.5, 0.3)]
    folds = both(bent(noise, 28, cut.get("crease", 0.7), 3.0 + side), crumple(noise, cut.get("crease", 0.7) * 0.4, 40 + side))
    canvas.paint(
        Layer(
            [shape], fabric, form=[form], bulge=5.2, frame=(line[0][0], line[0][1], turn), folds=folds, marks=marks, shadow=0.42, drop=1.0
        )
    )


def upper(canvas, body, cut, fabric, noise, seed=0.0):
    """A top from its cut. Keys: neck, ease, hem, sleeve (0 none to 1 wrist), closing, pockets, rib, flare, tail, open."""
    x = body.centre(50)
    inside(canvas, body, cut, fabric)
    shape = torso_outline(body, cut)
    form = torso_outline(body, {**cut, "hem": cut["hem"] + 22, "neck": "crew"})
    crease = cut.get("crease", 0.7)
    folds = both(crumple(noise, crease * 0.55, seed), drape(noise, crease * 0.55, 5.0, 30.0, seed), waist_pull(noise, crease, seed))
    marks = seams(body, cut, fabric, x)
    canvas.paint(
        Layer(
            [shape],
            fabric,
            form=[form],
            bulge=13,
            round=0.62,
            edge=0.4,
            folds=folds,
            marks=marks,
            frame=(x, 28, 0),
            shadow=0.12 if cut.get("seamless") else 0.45,
            drop=1.4,
        )
    )
    for side in (-1, 1):
        sleeve(canvas, body, side, cut, fabric, noise)
    collar(canvas, body, cut, fabric)


def waist_pull(noise, strength, seed):
    return lambda u, v: 0.8 * strength * np.exp(-(((v - 40) / 12) ** 2)) * noise(u / 9 + seed, v / 2.6 - np.abs(u) * 0.16)


def seams(body, cut, fabric, x):
    half = float(body.half_width(min(cut["hem"], 88.0))) + cut["ease"] + 12
    marks = [] if cut.get("rib") or cut.get("seamless") else [hem_line(cut["hem"], half, fabric, x)]
    for side in (-1, 1):
        edge = body.shoulder - (5.6 if cut.get("sleeve", 1) <= 0 else 1.0) + cut.get("drop", 0.0)
        marks.append(
            Mark(
                spline([(x + side * edge, 31.5), (x + side * (edge - 0.8), 38), (x + side * (edge - 0.2), 46)]),
                dark(fabric),
                0.3,
                0.5,
                0.15,
            )
        )
    closing, top, bottom = cut.get("closing"), 27.2 + NECKS[cut["neck"]][1], cut["hem"]
    if closing == "buttons":
        marks += placket(x, top, bottom, fabric, cut.get("buttons", 7), cut.get("button", "#efe9dd"))
    elif closing == "polo":
        marks += placket(x, top - 2, 47, fabric, 3, cut.get("button", "#efe9dd"))
    elif closing == "zip":
        marks += [
            Mark(np.array([(x, top), (x, bottom)]), srgb("#b9b9bd"), 0.9, 0.9, 0.2),
            Mark(np.array([(x, top), (x, bottom)]), srgb("#3c3c40"), 0.35, 0.9),
        ]
    for kind in cut.get("pockets", ()):
        if kind == "chest":
            marks += patch_pocket(x + 8.4, 46, 4.2, 9.5, fabric)
        elif kind == "flaps":
            marks += patch_pocket(x + 8.2, 45, 4.4, 9, fabric, True) + patch_pocket(x - 8.2, 45, 4.4, 9, fabric, True)
        elif kind == "hip":
            for s in (-1, 1):
                lid = outline([(x + s * 5.5, 70, 1), (x + s * 14.5, 69, 1), (x + s * 14.5, 73.6, 1), (x + s * 5.5, 74.6, 1)])
                marks.append(Mark(np.vstack([lid, lid[:1]]), dark(fabric), 0.4, 0.75, 0.25))
        elif kind == "kangaroo":
            pouch = np.array([(x - 7, 62), (x - 12, 72), (x - 12, 77), (x + 12, 77), (x + 12, 72), (x + 7, 62), (x - 7, 62)])
            marks.append(Mark(pouch, dark(fabric), 0.45, 0.7, 0.3))
    if cut.get("rib"):
        for up in (0.6, 5.5):
            marks.append(hem_line(cut["hem"], half, fabric, x, up))
    if cut.get("print"):
        marks += chest_print(x, srgb(cut["print"]))
    if cut.get("belt"):
        y = 66
        strap = outline([(x - 30, y - 2, 1), (x + 30, y - 2, 1), (x + 30, y + 2, 1), (x - 30, y + 2, 1)])
        marks += [
            Mark(strap, srgb(cut["belt"]), strength=0.95, filled=True, groove=-0.35),
            disc(x, y, 1.6, srgb("#c9b27a"), 0.9),
            disc(x, y, 0.9, srgb(cut["belt"]), 0.9),
        ]
    return marks


def chest_print(x, colour):
    turn = np.linspace(0, 2 * np.pi, 40)
    sun = np.stack([x + 6.5 * np.cos(turn), 50 + 6.5 * np.sin(turn)], 1)
    hills = np.array([(x - 9, 57), (x - 4, 51), (x, 55), (x + 4, 49), (x + 9, 57)])
    return [
        Mark(sun, colour, 0.8, 0.85),
        Mark(hills, colour, strength=0.85, filled=True),
        Mark(np.array([(x - 9, 60), (x + 9, 60)]), colour, 1.0, 0.85),
    ]


def inside(canvas, body, cut, fabric):
    """The inner back of the neck, seen through the neckline."""
    if not body.flat or cut["neck"] == "high":
        return
    width, depth, _ = NECKS[cut["neck"]]
    hole = outline(
        [
            (-width, 27, 1),
            (-width * 0.5, 28.6),
            (0, 29.2),
            (width * 0.5, 28.6),
            (width, 27, 1),
            (width * 0.7, 28 + depth),
            (0, 29.5 + depth),
            (-width * 0.7, 28 + depth),
        ]
    )
    canvas.paint(Layer([hole], fabric, bulge=3, shade=0.5, shadow=0.25))
    label = outline([(-2, 29.8, 1), (2, 29.8, 1), (2, 31.6, 1), (-2, 31.6, 1)])
    canvas.paint(Layer([label], Fabric("plain", ["#e9e4da"], noise=fabric.noise), bulge=0.3, shade=0.8, shadow=0.2))


def collar(canvas, body, cut, fabric):
    x = body.centre(28)
    width, depth, _ = NECKS[cut["neck"]]
    kind = cut.get("collar", "band" if cut["neck"] in ("crew", "scoop", "v", "deep_v") else None)
    low = 27.2 + depth
    if kind == "band":
        line = (
            [(x - width, 27.2), (x - width * 0.72, 27.2 + depth * 0.76), (x, low)]
            if cut["neck"] not in ("v", "deep_v")
            else [(x - width, 27.2), (x - width * 0.45, 27.2 + depth * 0.55, 1), (x, low, 1)]
        )
        line = line + [(2 * x - p[0],) + tuple(p[1:]) for p in reversed(line[:-1])]
        canvas.paint(Layer([tube(line, [0.9, 0.9], 10)], fabric, bulge=0.9, shadow=0.2, shade=0.97, drop=0.4))
    elif kind == "turtle":
        band = outline([(x - 6.6, 20.5, 1), (x, 21.8), (x + 6.6, 20.5, 1), (x + 7.4, 29), (x, 30.6), (x - 7.4, 29)])
        canvas.paint(
            Layer(
                [band], fabric, bulge=6, shadow=0.35, marks=[Mark(spline([(x - 7, 26), (x, 27), (x + 7, 26)]), dark(fabric), 0.5, 0.5, 0.4)]
            )
        )
    elif kind == "shirt":
        for s in (-1, 1):
            wing = outline(
                [(x + s * 5.6, 23.6, 1), (x + s * 8.0, 27.8, 1), (x + s * 7.2, 35.4, 1), (x + s * 0.4, low - 0.4, 1), (x + s * 3.6, 28.6)]
            )
            edge = Mark(spline([(x + s * 7.6, 28), (x + s * 6.9, 34.8, 1), (x + s * 0.8, low - 0.6, 1)]), dark(fabric), 0.22, 0.5, 0.1)
            canvas.paint(Layer([wing], fabric, bulge=1.0, marks=[edge], shadow=0.4, drop=0.8))
    elif kind == "hood":
        for s in (-1, 1):
            side = outline(
                [
                    (x + s * 5.4, 21, 1),
                    (x + s * 10.5, 26.5),
                    (x + s * 10.4, 33),
                    (x + s * 3.2, low + 4),
                    (x + s * 0.3, low + 1, 1),
                    (x + s * 4.6, 28),
                ]
            )
            canvas.paint(Layer([side], fabric, bulge=2.6, shadow=0.4))
            string = tube([(x + s * 2.4, low + 2), (x + s * 3.0, low + 10), (x + s * 2.6, low + 17)], [0.35, 0.35, 0.5], 6)
            canvas.paint(Layer([string], Fabric("plain", ["#ece7df"], noise=fabric.noise), bulge=0.5, shadow=0.3, drop=0.4))


def jacket(canvas, body, cut, fabric, noise, seed=0.0):
    """An open or buttoned front with lapels over whatever is already painted. Keys as `upper`, and `gap`: half the opening at the hem."""
    x, hem, gap = body.centre(50), cut["hem"], cut.get("gap", 4.0)
    notch = cut.get("notch", 56)
    side = torso(body, cut)
    form = torso_outline(body, {**cut, "hem": hem + 22, "neck": "crew"})
    if body.flat:
        lining = torso_outline(body, {**cut, "neck": "crew", "hem": hem - 1.5})
        canvas.paint(
            Layer([lining], Fabric("plain", [fabric.colours[0]], gloss=0.2, noise=noise), bulge=13, round=0.3, shade=0.42, shadow=0.4)
        )
    folds = both(crumple(noise, 0.35, seed), drape(noise, 0.45, 6, 40, seed))
    for s in (-1, 1):
        points = (
            [(7.0, 26.4, 1)]
            + side[1:]
            + [
                (max(gap, 0.6) + 3, hem + 1.5),
                (gap, hem + 0.6, 1),
                (gap * 0.6 + 0.2, (hem + notch) / 2),
                (-0.3 if gap < 3 else gap * 0.25, notch, 1),
            ]
        )
        panel = outline([(s * p[0],) + tuple(p[1:]) for p in points])
        panel = panel + np.stack([body.centre(panel[:, 1]), np.zeros(len(panel))], 1)
        marks = []
        if "hip" in cut.get("pockets", ()):
            y = min(hem - 12, 76)
            lid = outline([(x + s * 6.4, y, 1), (x + s * 14.8, y - 0.8, 1), (x + s * 14.8, y + 3.6, 1), (x + s * 6.4, y + 4.4, 1)])
            marks.append(Mark(np.vstack([lid, lid[:1]]), dark(fabric), 0.4, 0.8, 0.25))
        if "flaps" in cut.get("pockets", ()):
            marks += patch_pocket(x + s * 9.4, 45, 4.4, 9.5, fabric, True)
        for row in range(cut.get("buttons", 0)):
            if s > 0 or cut.get("double"):
                marks.append(
                    disc(
                        x + s * (gap * 0.5 + (6 if cut.get("double") else 1.6)),
                        notch + 3 + row * 11,
                        1.0,
                        srgb(cut.get("button", "#2a2522")),
                    )
                )
        edge = [(s * 0.9 + s * max(gap * 0.25, 0), notch), (s * (gap * 0.6 + 1.0), (hem + notch) / 2), (s * (gap + 0.9), hem)]
        marks.append(Mark(spline([(x + px, py) for px, py in edge]), dark(fabric), 0.25, 0.5, 0.1))
        if cut.get("closing") == "zip":
            marks.append(Mark(spline([(x + px - s * 0.5, py) for px, py in edge]), srgb("#c2c2c8"), 0.7, 0.9, 0.1))
        if cut.get("rib"):
            marks += [Mark(np.array([(x + s * gap, hem - up), (x + s * 30, hem - up)]), dark(fabric), 0.45, 0.6, 0.3) for up in (0.5, 5.5)]
        canvas.paint(
            Layer(
                [panel],
                fabric,
                form=[form],
                bulge=13,
                round=0.6,
                edge=0.6,
                folds=folds,
                marks=marks,
                frame=(x, 28, 0),
                shadow=0.55,
                drop=1.6,
            )
        )
    for s in (-1, 1):
        sleeve(canvas, body, s, cut, fabric, noise)
    for s in (-1, 1):
        lapel(canvas, x, s, cut.get("lapel", "notch"), notch, fabric)
    if cut.get("belt"):
        strap = outline(
            [
                (x - body.half_width(66) - cut["ease"] - 3, 64),
                (x, 65.4),
                (x + body.half_width(66) + cut["ease"] + 3, 64),
                (x + body.half_width(66) + cut["ease"] + 3, 68.5),
                (x, 70),
                (x - body.half_width(66) - cut["ease"] - 3, 68.5),
            ]
        )
        canvas.paint(Layer([strap], fabric, form=[form], bulge=13, round=0.6, edge=0.5, shadow=0.4, shade=0.92))


def lapel(canvas, x, s, kind, notch, fabric):
    if kind == "notch":
        flap = outline(
            [
                (x + s * 7.0, 25.6, 1),
                (x + s * 9.0, 30, 1),
                (x + s * 12.4, 36.6, 1),
                (x + s * 11.4, 39.4, 1),
                (x + s * 12.0, 41.6, 1),
                (x + s * 7, 50),
                (x + s * 0.2, notch, 1),
                (x + s * 4.4, 40),
            ]
        )
        cut = Mark(np.array([(x + s * 5.6, 37.4), (x + s * 11.6, 39.2)]), dark(fabric, 0.35), 0.4, 0.8, 0.3)
        canvas.paint(Layer([flap], fabric, bulge=1.4, marks=[cut], shadow=0.45, drop=0.9))
    elif kind == "shawl":
        flap = outline([(x + s * 6.8, 25.6, 1), (x + s * 10.5, 33), (x + s * 9.2, 44), (x + s * 0.2, notch, 1), (x + s * 4.2, 40)])
        canvas.paint(Layer([flap], fabric, bulge=1.6, shadow=0.45, drop=0.9))
    elif kind == "shirt":
        flap = outline([(x + s * 6.2, 24.6, 1), (x + s * 9.6, 28.6), (x + s * 11.4, 35.4, 1), (x + s * 4.4, 36.8, 1), (x + s * 5.4, 30)])
        canvas.paint(Layer([flap], fabric, bulge=1.0, shadow=0.45, drop=0.9))
    elif kind == "band":
        flap = outline([(x + s * 6.0, 22.4, 1), (x + s * 7.8, 26.8), (x + s * 4.4, 33), (x + s * 1.2, 35, 1), (x + s * 3.8, 28.6)])
        canvas.paint(Layer([flap], fabric, bulge=1.4, shadow=0.4))


def dress(canvas, body, cut, fabric, noise, seed=0.0):
    """A bodice and a skirt of the same cloth. Keys of `upper` and, under `skirt`, of `skirt`."""
    skirt(canvas, body, {"waist": 64.0, "band": False, **cut["skirt"]}, fabric, noise, seed)
    bodice = {"hem": 66.5, "tail": 0.4, "crease": 0.5, "seamless": True, **cut}
    upper(canvas, body, bodice, fabric, noise, seed)
    if cut.get("sash"):
        x, half = body.centre(65), float(body.half_width(65)) + cut["ease"] + 0.8
        band = outline([(x - half, 62.5, 1), (x, 63.4), (x + half, 62.5, 1), (x + half, 66.8, 1), (x, 67.8), (x - half, 66.8, 1)])
        canvas.paint(Layer([band], Fabric("plain", [cut["sash"]], gloss=0.15, noise=fabric.noise), bulge=10, round=0.6, shadow=0.35))
