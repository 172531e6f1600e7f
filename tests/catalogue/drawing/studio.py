"""Photographs a product: worn on the street or in a studio, laid flat, hung on a wall, or as a pair of shoes.

Owns the camera and which model, pose and place a photo gets. Every choice comes from the generator it is given.
"""

import numpy as np

from . import body as bodies
from . import lowers, scene, shoes, uppers
from .cloth import Fabric, Noise
from .light import Canvas, Layer, View, outline, tube

SIZE = (432, 648)
WIDTH, HEIGHT = 864, 1296
SKINS = ["#e8b898", "#d9a184", "#c58a66", "#a56b47", "#7d4a2e", "#5a3422", "#f0c8ac"]
HAIRS = ["#2a1a12", "#120e0c", "#5c3a20", "#a8763e", "#7a2f1a", "#c9a668", "#6d6a68"]
WALLS = ["#c9b8a4", "#9fb3b8", "#d8c6c0", "#8fa08a", "#b8a0b0", "#d9cdb4", "#6f8296"]
PAPERS = ["#c9c9c9", "#e4e2de", "#a8adb3", "#d8cfc2", "#b9c4cc", "#8d9298"]


def cloth_of(product, noise):
    _, _, pattern, colours, relief, gloss = product.cloth
    return Fabric(pattern, colours, relief=relief, gloss=gloss, noise=noise)


def wear(canvas, person, product, noise, seed):
    """Paints a product that is not a shoe."""
    fabric, cut = cloth_of(product, noise), product.cut
    if product.category == "full_body":
        uppers.dress(canvas, person, cut, fabric, noise, seed)
    elif product.category == "lower":
        (lowers.trousers if "thigh" in cut else lowers.skirt)(canvas, person, cut, fabric, noise, seed)
    elif "notch" in cut:
        uppers.jacket(canvas, person, cut, fabric, noise, seed)
    else:
        uppers.upper(canvas, person, cut, fabric, noise, seed)


def pick(rng, options):
    return options[int(rng.integers(len(options)))]


def place(rng, noise, kind, floor):
    if kind == "street":
        return scene.street(WIDTH, HEIGHT, rng, noise, int(floor - rng.integers(220, 400)))
    if kind == "wall":
        return scene.wall(
            WIDTH, HEIGHT, rng, noise, pick(rng, WALLS), pick(rng, ["#8d7a64", "#9a958d", "#6d5644"]), int(floor - rng.integers(60, 110))
        )
    if kind == "bricks":
        return scene.bricks(
            WIDTH,
            HEIGHT,
            rng,
            noise,
            pick(rng, ["#94503a", "#a8745a", "#8c8078", "#b9a58e"]),
            pick(rng, ["#8a8884", "#77746f"]),
            int(floor - rng.integers(60, 120)),
        )
    return scene.studio(WIDTH, HEIGHT, rng, noise, pick(rng, PAPERS), floor - 70)


def worn(rng, outfit, background, framing="full"):
    """`outfit`: dict of products by slot (top, jacket, bottom, dress, shoes). Framing: full, top or legs."""
    noise = Noise(rng)
    woman = outfit["woman"]
    arm = lambda: pick(rng, ["relaxed", "relaxed", "out", "walk", "hip", "pocket"])  # noqa: E731
    legs = pick(
        rng,
        [
            ("straight", "straight"),
            ("straight", "apart"),
            ("apart", "apart"),
            ("close", "close"),
            ("step", "straight"),
            ("straight", "step"),
        ],
    )
    person = bodies.Body(woman, (arm(), arm()), legs, sway=float(rng.uniform(-2.2, 2.2)), slim=float(rng.uniform(0.93, 1.06)))
    unit = float(rng.uniform(5.9, 6.6))
    top = 50 + (HEIGHT - 50 - 178 * unit) * float(rng.uniform(0.3, 0.8))
    if framing == "top":
        unit, top = 10.6, 70.0
    elif framing == "legs":
        unit, top = 10.2, -560.0
    view = View(unit, WIDTH / 2 + float(rng.uniform(-40, 40)), top)
    floor = top + unit * 171
    rgb = place(rng, noise, background, floor)
    scene.ground_shadow(rgb, view.x + 25, floor + 4, 30 * unit, 4.5 * unit, 0.55)
    if background in ("wall", "bricks"):
        scene.ground_shadow(rgb, view.x + 70, top + unit * 85, 26 * unit, 70 * unit, 0.25)
    canvas = Canvas(rgb, view, False)
    tone, hair = pick(rng, SKINS), pick(rng, HAIRS)
    style = pick(rng, ["long", "bob", "wavy", "bun", "long", "crop"] if woman else ["crop", "quiff", "buzz", "crop", "beanie"])
    beard = hair
    if style == "beanie":
        hair = pick(rng, ["#8c2f2b", "#28374f", "#3d3d40", "#b8862f"])
    bodies.draw_hair_back(canvas, person, style, hair, noise)
    bare_legs = "bottom" not in outfit or "thigh" not in outfit["bottom"].cut
    tights = "#1a1a1e" if woman and bare_legs and rng.random() < 0.3 and outfit["shoes"].kind not in ("sandals", "pumps") else None
    long_legs = "bottom" in outfit and outfit["bottom"].cut.get("length", 0) > 0.5
    bodies.draw_legs(canvas, person, tone, noise, tights, long_legs)
    bodies.draw_neck(canvas, person, tone, noise)
    shoe = outfit["shoes"]
    over = shoe.cut["shape"] == "tall_boots"
    put_on_shoes = lambda: shoes.worn(canvas, person, shoe.cut["shape"], cloth_of(shoe, noise), noise, shoe.sole, bodies.skin(tone, noise))  # noqa: E731
    if not (over and long_legs):
        put_on_shoes()
    seed = float(rng.uniform(0, 200))
    tucked = "top" in outfit and "bottom" in outfit and outfit["bottom"].cut.get("waist", 70) < 67 and "jacket" not in outfit
    if tucked:
        bodies.draw_arms(canvas, person, tone, noise)
        wear(canvas, person, outfit["top"], noise, seed)
    if "bottom" in outfit:
        wear(canvas, person, outfit["bottom"], noise, seed + 11)
    if over and long_legs:
        put_on_shoes()
    if not tucked:
        bodies.draw_arms(canvas, person, tone, noise)
        if "top" in outfit:
            wear(canvas, person, outfit["top"], noise, seed)
    if "dress" in outfit:
        wear(canvas, person, outfit["dress"], noise, seed)
    if "jacket" in outfit:
        wear(canvas, person, outfit["jacket"], noise, seed + 23)
    bodies.draw_head(canvas, person, tone, style, hair, beard, noise, rng)
    return finish(canvas, rng, background)


def finish(canvas, rng, background):
    warm = float(rng.uniform(-0.05, 0.05))
    grade = np.array([1 + warm, 1.0, 1 - warm]) * float(rng.uniform(0.92, 1.1))
    return canvas.photo(SIZE, grade, rng)


def surface(rng, noise):
    kind = pick(rng, ["boards", "linen", "concrete", "boards", "linen"])
    if kind == "boards":
        return scene.boards(WIDTH, HEIGHT, rng, noise, pick(rng, ["#a87a50", "#8a6242", "#c9a67c", "#6d4a34", "#b8aa98"]))
    if kind == "linen":
        return scene.linen(WIDTH, HEIGHT, rng, noise, pick(rng, ["#e4e2dd", "#cfd6da", "#d9cbb8", "#b8c2b4", "#e0c9c4"]))
    return scene.concrete(WIDTH, HEIGHT, rng, noise, pick(rng, ["#a8a6a2", "#8c8d8f", "#c4c0b9"]))


def flat(rng, product, hung=False):
    """A garment alone: on a floor seen from above, or on a hanger against a wall."""
    noise = Noise(rng)
    arms = "flat_in" if hung or product.cut.get("hem", 0) > 100 else pick(rng, ["flat", "flat_in"])
    woman = product.woman if product.woman is not None else bool(rng.integers(2))
    person = bodies.Body(woman, (arms, arms), ("flat", "flat"), flat=True)
    first, last, wide = extent(product, arms)
    unit = min(0.80 * HEIGHT / (last - first), 0.92 * WIDTH / wide, 15.0) * float(rng.uniform(0.9, 1.0))
    tilt = 0.0 if hung else float(rng.uniform(-0.12, 0.12))
    middle = (first + last) / 2 * unit
    view = View(unit, WIDTH / 2 + np.sin(tilt) * middle + float(rng.uniform(-20, 20)), HEIGHT / 2 - np.cos(tilt) * middle, tilt)
    if hung:
        rgb = scene.wall(WIDTH, HEIGHT, rng, noise, pick(rng, WALLS + ["#dcdad5", "#e6e2da"]), "#8d7a64", HEIGHT + 50)
    else:
        rgb = surface(rng, noise)
    canvas = Canvas(rgb, view, True)
    if hung and product.category != "lower":
        hanger(canvas, person, noise)
    wear(canvas, person, product, noise, float(rng.uniform(0, 200)))
    return finish(canvas, rng, "flat")


def extent(product, arms):
    """Top and bottom (y) and width of a garment laid flat."""
    cut = product.cut
    if product.category == "lower":
        return cut.get("waist", 68), 88 + 78 * cut["length"] if "length" in cut else cut["hem"], max(62, 2 * cut.get("width", 0))
    if product.category == "full_body":
        return 26, cut["skirt"]["hem"], 76
    if cut["sleeve"] <= 0:
        return 26, cut["hem"], 46
    return 26, max(cut["hem"], 90 if cut["sleeve"] > 0.9 and arms == "flat_in" else 0), 108 if arms == "flat" else 78


def hanger(canvas, person, noise):
    wood = Fabric("plain", ["#9a6a3c"], gloss=0.2, noise=noise)
    steel = Fabric("plain", ["#a9abb0"], gloss=0.6, relief="none", noise=noise)
    hook = tube([(0, 27), (0.4, 20), (2.8, 16), (0.6, 12.6), (-2.2, 14.6)], [0.45, 0.45], 10)
    bar = outline(
        [(-person.shoulder + 1, 34.5), (-6, 28.6), (0, 26), (6, 28.6), (person.shoulder - 1, 34.5), (6, 31.4), (0, 29.4), (-6, 31.4)]
    )
    canvas.paint(Layer([hook], steel, bulge=0.6, edge=0, shadow=0.3))
    canvas.paint(Layer([bar], wood, bulge=1.4, edge=0, shadow=0.4))


def shoe_pair(rng, product):
    noise = Noise(rng)
    if rng.random() < 0.5:
        rgb = surface(rng, noise)
    else:
        rgb = scene.studio(WIDTH, HEIGHT, rng, noise, pick(rng, PAPERS), HEIGHT * 0.55)
    view = View(float(rng.uniform(21, 24)), WIDTH / 2, HEIGHT * 0.60, float(rng.uniform(-0.06, 0.06)))
    scene.ground_shadow(rgb, WIDTH / 2, HEIGHT * 0.60 + 60, 380, 70, 0.5)
    canvas = Canvas(rgb, view, True)
    shape = "boots" if product.cut["shape"] == "tall_boots" else "pumps" if product.cut["shape"] == "sandals" else product.cut["shape"]
    shoes.pair(canvas, shape, cloth_of(product, noise), noise, product.sole)
    return finish(canvas, rng, "flat")
