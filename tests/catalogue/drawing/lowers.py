"""Trousers and skirts, cut to a `Body`; lengths and widths in centimetres."""

import numpy as np

from .cloth import Fabric, srgb
from .light import Layer, Mark, mirrored, outline, spline
from .sewing import both, crumple, dark, disc, drape, hem_line, placket


def trousers(canvas, body, cut, fabric, noise, seed=0.0):
    """Keys: waist (y), length (0 to 1: ankle), thigh, knee, hem (half widths), denim, pockets, cuffed."""
    x, top = body.centre(78), cut.get("waist", 68.0)
    parts, forms, marks = [], [], []
    for s in (-1, 1):
        part, form, ends = trouser_leg(body, s, cut, top)
        parts.append(part)
        forms.append(form)
        marks += leg_marks(ends, cut, fabric)
    half = float(body.half_width(top)) + 1.2
    marks.append(Mark(spline([(x - half - 2, top + 3.6), (x, top + 4.4), (x + half + 2, top + 3.6)]), dark(fabric), 0.3, 0.7, 0.2))
    marks.append(Mark(spline([(x + 0.4, top + 4), (x + 0.6, top + 14), (x, top + 21)]), dark(fabric), 0.3, 0.7, 0.25))
    marks.append(
        Mark(
            spline([(x + 2.8, top + 4.4), (x + 2.6, top + 13), (x + 0.2, top + 17)]),
            srgb(cut.get("thread", "#6b5533")) if cut.get("denim") else dark(fabric),
            0.22,
            0.6,
            dashed=bool(cut.get("denim")),
        )
    )
    marks.append(disc(x, top + 2.1, 0.85, srgb("#c8a764" if cut.get("denim") else "#3a3532")))
    for s in (-1, 1):
        mouth = spline([(x + s * (half - 5.5), top + 4), (x + s * (half - 2.5), top + 10), (x + s * (half + 3.5), top + 12.5)])
        marks.append(Mark(mouth, dark(fabric), 0.35, 0.7, 0.25))
        if cut.get("denim"):
            marks.append(Mark(mouth + [0, 0.7], srgb(cut.get("thread", "#b98a4a")), 0.2, 0.7, dashed=True))
        for at in (0.45, 0.85):
            loop = x + s * half * at
            marks.append(Mark(np.array([(loop, top), (loop, top + 4)]), dark(fabric), 0.8, 0.35, -0.2))
    folds = both(crumple(noise, 0.5, seed), knee_folds(noise, seed), drape(noise, 0.4, 4, 50, seed))
    canvas.paint(
        Layer(parts, fabric, form=forms, bulge=8.5, round=0.72, edge=0.3, folds=folds, marks=marks, frame=(x, top, 0), shadow=0.4, drop=1.2)
    )
    if cut.get("belt"):
        strap = outline(
            [
                (x - half - 0.6, top + 0.2, 1),
                (x, top + 0.9),
                (x + half + 0.6, top + 0.2, 1),
                (x + half + 1.0, top + 3.4, 1),
                (x, top + 4.2),
                (x - half - 1.0, top + 3.4, 1),
            ]
        )
        buckle = Mark(
            outline([(x - 1.9, top + 0.5, 1), (x + 1.9, top + 0.5, 1), (x + 1.9, top + 4.4, 1), (x - 1.9, top + 4.4, 1)]),
            srgb("#b9a77c"),
            strength=0.9,
            filled=True,
        )
        canvas.paint(
            Layer([strap], Fabric("plain", [cut["belt"]], gloss=0.3, noise=fabric.noise), bulge=9, round=0.5, shadow=0.3, marks=[buckle])
        )


def knee_folds(noise, seed):
    return (
        lambda u, v: 0.75 * np.exp(-(((v - 56) / 11) ** 2)) * noise(u / 8 + seed, v / 2.2 + np.abs(u) * 0.1)
        + 0.8 * np.exp(-(((v - 90) / 7) ** 2)) * noise(u / 9 + seed, v / 1.9)
        + 0.7 * np.exp(-(((v - 21) / 7) ** 2)) * noise(u / 8, v / 2.4 - np.abs(u) * 0.3)
    )


def trouser_leg(body, s, cut, top):
    hip, knee, ankle = body.leg(s)
    centre = body.centre(78)
    thigh, knee_half, hem_half, length = cut["thigh"], cut["knee"], cut["hem"], cut["length"]
    path = spline([hip, knee, ankle + [0, 4.5]], steps=20)
    path = path[: max(9, int(len(path) * length))]
    at = np.linspace(0, length, len(path))
    half = np.interp(at, [0.0, 0.12, 0.5, 1.0], [thigh + 1.0, thigh, knee_half, hem_half])
    half[-1] = half[-2]
    outer = [(centre + s * (body.half_width(y) + 1.0), y) for y in np.linspace(top, 82, 4)]
    outer += [(p[0] + s * h, p[1]) for p, h in zip(path[3:], half[3:])]
    # Legs that would cross meet at the centre line instead.
    inner = [(centre + s * max(s * (p[0] - centre) - h, 0.15), p[1]) for p, h in zip(path[3:], half[3:]) if p[1] > 93]
    crotch = [(centre - s * 0.5, 91.5), (centre - s * 0.5, top + 0.8)]
    part = np.array(outer + inner[::-1] + crotch)
    longer = path[-1] + (path[-1] - path[-2]) * 6
    form_outer = outer + [(longer[0] + s * half[-1], longer[1])]
    form_inner = [(longer[0] - s * half[-1], longer[1])] + inner[::-1]
    form = np.array([(outer[0][0], top - 14)] + form_outer + form_inner + [crotch[0], (centre - s * 0.5, top - 14)])
    return part, form, (outer[-1], inner[-1], path)


def leg_marks(ends, cut, fabric):
    (ox, oy), (ix, iy), path = ends
    up = 7.0 if cut.get("cuffed") else 1.8
    line = np.array([(ox, oy - up), (ix, iy - up)])
    marks = [Mark(line, dark(fabric), 0.3, 0.6, 0.15)]
    if cut.get("cuffed"):
        turn = np.array([(ox, oy), (ox, oy - up), (ix, iy - up), (ix, iy)])
        marks.append(
            Mark(turn, srgb("#c9d3dd") if cut.get("denim") else srgb(fabric.colours[0]) * 1.25, strength=0.55, filled=True, groove=-0.3)
        )
    if cut.get("crease_line"):
        marks.append(Mark(path[4:], srgb(fabric.colours[0]) * 1.6, 0.3, 0.4, -0.25, soft=0.25))
    if cut.get("side_stripe"):
        marks.append(
            Mark(np.array([(p[0] + np.sign(ox - ix) * (cut["knee"] + 0.4), p[1]) for p in path[4:]]), srgb(cut["side_stripe"]), 1.4, 0.95)
        )
    return marks


def skirt(canvas, body, cut, fabric, noise, seed=0.0):
    """Keys: waist (y), hem (y), width (half width at the hem), pleats, buttons, slit."""
    x, top, hem = body.centre(80), cut.get("waist", 66.0), cut["hem"]
    width = cut["width"]
    side = [(float(body.half_width(top)) + 1.0, top, 1)]
    for y in np.linspace(top + 8, hem, 5):
        share = (y - top) / (hem - top)
        close = float(body.half_width(min(y, 86.0))) + 1.2
        side.append((max(close * (1 - share) + width * share, close if y < 88 else 0), y, y == hem))
    dip = cut.get("dip", 1.6)
    shape = mirrored([(0, top + 0.8)] + side + [(0, hem + dip)]) + [x, 0]
    form = mirrored([(0, top - 14), (side[0][0], top - 14, 1)] + side[:-1] + [(width, hem, 1), (width, hem + 22, 1), (0, hem + 22)]) + [
        x,
        0,
    ]
    spread = max(width / side[0][0], 1.0)

    def folds(u, v):
        # Folds fan out from the waist.
        fan = u / (1 + (spread - 1) * np.clip(v / (hem - top), 0, 1.2))
        depth = np.clip(v / (hem - top), 0.1, 1.0)
        hang = cut.get("full", 1.0) * 1.7 * depth * noise(fan / 2.6 + seed, v / 60)
        if cut.get("pleats"):
            hang = 1.1 * (((fan / cut["pleats"]) % 1.0) - 0.5) * (0.4 + 0.6 * depth)
        return hang + cut.get("crease", 0.25) * crumple(noise, 1.0, seed)(u, v)

    marks = [hem_line(hem + dip, width + 3, fabric, x, 2.6)]
    if cut.get("band", True):
        marks.append(Mark(spline([(x - 30, top + 3.2), (x, top + 4.2), (x + 30, top + 3.2)]), dark(fabric), 0.3, 0.7, 0.25))
    if cut.get("buttons"):
        marks += placket(x, top, hem, fabric, cut["buttons"], cut.get("button", "#d8c49a"))
    if cut.get("slit"):
        marks.append(Mark(np.array([(x + width * 0.45, hem + 2), (x + width * 0.42, hem - 26)]), dark(fabric, 0.2), 0.8, 0.8, 0.6))
    canvas.paint(
        Layer(
            [shape], fabric, form=[form], bulge=13, round=0.6, edge=0.35, folds=folds, marks=marks, frame=(x, top, 0), shadow=0.45, drop=1.4
        )
    )
