"""What every garment is made with: folds of the cloth, and stitching, buttons, pockets and hems as marks."""

import numpy as np

from .cloth import srgb
from .light import Mark, outline


def dark(fabric, share=0.55):
    return srgb(fabric.colours[0]) * share


def drape(noise, strength=0.5, across=3.2, along=26.0, seed=0.0):
    """Folds that hang: long along v, short along u."""
    return lambda u, v: strength * (noise(u / across + seed, v / along) + 0.5 * noise(u / (across * 0.45) + seed, v / (along * 0.6) + 7))


def crumple(noise, strength=0.5, seed=0.0):
    """Soft creases without a direction."""

    def field(u, v):
        bend = 3 * noise(u / 11 + seed, v / 11)
        ridge = 1 - np.abs(2 * noise(u / 8 + bend + seed, v / 6 + bend) - 1)
        return strength * (0.75 * ridge + 0.5 * noise(u / 4.2 + seed, v / 3.4))

    return field


def bent(noise, at, strength=0.6, seed=0.0):
    """Creases across a limb near the joint at v = `at`."""
    return lambda u, v: strength * np.exp(-(((v - at) / 9) ** 2)) * noise(u / 7 + seed, v / 1.7 + 0.25 * u) + 0.35 * noise(
        u / 2.8 + seed, v / 13
    )


def both(*fields):
    return lambda u, v: sum(f(u, v) for f in fields)


def placket(x, top, bottom, fabric, buttons=7, button="#efe9dd"):
    marks = [
        Mark(np.array([(x - 1.5, top), (x - 1.5, bottom)]), dark(fabric), 0.25, 0.5, 0.1),
        Mark(np.array([(x + 1.5, top), (x + 1.5, bottom)]), dark(fabric), 0.3, 0.7, 0.18),
    ]
    for y in np.linspace(top + 3, bottom - 5, buttons):
        marks += [disc(x, y + 0.15, 0.75, dark(fabric, 0.3), 0.5), disc(x, y, 0.6, srgb(button), 0.95)]
    return marks


def disc(x, y, radius, colour, strength=0.9):
    turn = np.linspace(0, 2 * np.pi, 14)
    return Mark(np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1), colour, strength=strength, filled=True, soft=0.08)


def patch_pocket(x, y, width, depth, fabric, flap=False):
    box = np.array([(x - width, y), (x - width, y + depth - 2), (x, y + depth), (x + width, y + depth - 2), (x + width, y), (x - width, y)])
    marks = [Mark(box, dark(fabric), 0.3, 0.65, 0.16)]
    if flap:
        lid = outline(
            [
                (x - width - 0.3, y - 0.6, 1),
                (x + width + 0.3, y - 0.6, 1),
                (x + width + 0.3, y + 2.6, 1),
                (x, y + 4.2),
                (x - width - 0.3, y + 2.6, 1),
            ]
        )
        marks += [Mark(np.vstack([lid, lid[:1]]), dark(fabric), 0.35, 0.8, 0.2), disc(x, y + 2.4, 0.5, srgb("#cfc6b4"))]
    return marks


def hem_line(y, half, fabric, x=0.0, up=2.2):
    return Mark(np.array([(x - half, y - up), (x, y - up + 0.5), (x + half, y - up)]), dark(fabric), 0.25, 0.55, 0.12)
