"""What the demo shop sells: cuts, cloths and colours, and which product is worn with which.

Owns the assortment. Knows nothing of drawing: a product is data that `studio.py` turns into photos.
"""

from dataclasses import dataclass

# colour name, pattern name for the manifest, pattern function, colours, relief, gloss
DENIM_BLUE = ("blue", "denim", "denim", ["#2b4468", "#7f9cc0"], "weave", 0.02)
DENIM_LIGHT = ("light blue", "denim", "denim", ["#6d8db2", "#c0d2e4"], "weave", 0.02)
DENIM_BLACK = ("black", "denim", "denim", ["#1d1f24", "#4a4e57"], "weave", 0.02)


def solid(name, colour, relief="weave", gloss=0.04):
    return (name, "solid", "plain", [colour], relief, gloss)


BRANDS = ["Alder & Moss", "Fjordlinje", "Casa Verano", "Northgate", "Petit Quai", "Umber Works"]

# kind: (category, woman, cut, cloths). woman None: either.
TOPS = {
    "shirt": (None, dict(neck="collar", ease=1.6, hem=81, sleeve=1.0, closing="buttons", collar="shirt", pockets=("chest",), tail=1.6), [
        ("red", "tartan", "tartan", ["#a3282c", "#1d2a4a", "#e8d9b0"], "weave", 0.02),
        ("white", "solid", "plain", ["#eef0f2"], "weave", 0.04),
        ("blue", "striped", "wide_stripes", ["#dfe8f3", "#4a76b4"], "weave", 0.03),
        ("green", "gingham", "gingham", ["#e9efe4", "#2f6b45"], "weave", 0.03),
        ("light blue", "denim", "denim", ["#5f82ad", "#a9c2dc"], "weave", 0.02),
        ("black", "dotted", "dots", ["#17171c", "#e9e4dc"], "weave", 0.05)]),
    "t-shirt": (None, dict(neck="crew", ease=2.2, hem=79, sleeve=0.30, sleeve_ease=2.0, loose=0.6), [
        ("white", "print", "plain", ["#f1f0ec"], "weave", 0.02),
        ("navy", "striped", "stripes", ["#f0ede4", "#1f2f52"], "weave", 0.02),
        ("mustard", "solid", "plain", ["#d39a24"], "weave", 0.02),
        ("pink", "tie-dye", "tie_dye", ["#f3b9c9", "#e05a8c", "#f6e7b8"], "weave", 0.02),
        ("black", "print", "plain", ["#1a1a1d"], "weave", 0.02),
        ("green", "solid", "plain", ["#3f7d55"], "weave", 0.02)]),
    "jumper": (None, dict(neck="crew", ease=3.4, hem=80, sleeve=1.0, sleeve_ease=2.2, loose=0.8, rib=True, crease=0.9), [
        solid("pink", "#e0528c", "cable"),
        ("grey", "marl", "marl", ["#9a9ca1", "#5d6067"], "rib", 0.02),
        solid("cream", "#e9dfc9", "cable"),
        ("navy", "striped", "stripes", ["#1d2b4f", "#c23b3b"], "rib", 0.02),
        solid("forest green", "#23513b", "cable"),
        ("orange", "colour block", "blocks", ["#e8e0cf", "#d8692a", "#2c3d63"], "rib", 0.02)]),
    "hoodie": (None, dict(neck="crew", ease=3.6, hem=80, sleeve=1.0, sleeve_ease=2.4, loose=0.85, rib=True, collar="hood", pockets=("kangaroo",), crease=1.0), [
        solid("grey", "#8f9296", "fleece"),
        solid("burgundy", "#6d1f30", "fleece"),
        solid("lilac", "#a993cf", "fleece")]),
    "blouse": (True, dict(neck="v", ease=1.8, hem=77, sleeve=0.78, sleeve_ease=3.2, loose=0.55, flare=1.5, crease=0.9), [
        ("white", "floral", "floral", ["#f3efe8", "#c2405a", "#3f6fb0", "#5d8a4c"], "weave", 0.08),
        ("teal", "solid", "plain", ["#1f7f86"], "none", 0.18),
        ("black", "leopard", "leopard", ["#c99a5c", "#5d3b1c", "#1c130c"], "none", 0.12),
        ("coral", "abstract", "abstract", ["#ec7a5c", "#f6d9a8", "#7d3050"], "none", 0.1)]),
    "turtleneck": (None, dict(neck="high", ease=0.9, hem=80, sleeve=1.0, loose=0.35, collar="turtle", rib=True), [
        solid("black", "#18181b", "rib"), solid("camel", "#b98b52", "rib"), solid("white", "#ece8df", "rib")]),
    "tank top": (True, dict(neck="scoop", ease=0.6, hem=76, sleeve=0.0, loose=0.2), [
        solid("red", "#c02a2f"), ("white", "ribbed", "plain", ["#f0eee8"], "rib", 0.02)]),
    "polo": (False, dict(neck="collar", ease=1.8, hem=80, sleeve=0.32, sleeve_ease=1.8, closing="polo", collar="shirt", loose=0.5), [
        solid("navy", "#1e2c50"), ("green", "striped", "stripes", ["#e6e8dc", "#2d6a4a"], "weave", 0.02)]),
}  # fmt: skip

JACKETS = {
    "blazer": (None, dict(neck="collar", ease=3.0, hem=86, sleeve=1.0, sleeve_ease=1.6, loose=0.5, notch=60, gap=3.2, buttons=2, pockets=("hip",), lapel="notch"), [
        solid("navy", "#1d2743"), ("grey", "checked", "houndstooth", ["#c9c7c2", "#4a4a4e"], "weave", 0.02), solid("beige", "#c6ab84"),
        ("charcoal", "pinstriped", "pinstripe", ["#2a2c31", "#9fa3aa"], "weave", 0.03)]),
    "denim jacket": (None, dict(neck="collar", ease=3.2, hem=76, sleeve=1.0, sleeve_ease=1.8, loose=0.6, notch=40, gap=4.5, pockets=("flaps",), lapel="shirt", rib=False), [DENIM_BLUE, DENIM_LIGHT]),
    "coat": (None, dict(neck="collar", ease=4.4, hem=118, sleeve=1.0, sleeve_ease=2.4, loose=0.75, notch=58, gap=5.0, buttons=3, pockets=("hip",), lapel="notch", flare=3.0), [
        solid("camel", "#b58a52", "fleece"), solid("red", "#9e2530", "fleece"), ("grey", "checked", "tartan", ["#8b8c90", "#5c5e66", "#d8d4cc"], "fleece", 0.02)]),
    "trench coat": (None, dict(neck="collar", ease=3.6, hem=114, sleeve=1.0, sleeve_ease=2.0, loose=0.6, notch=52, gap=1.2, buttons=3, double=True, pockets=("hip",), lapel="notch", flare=5.0, belt=True), [
        solid("beige", "#b49a70", "weave", 0.08), solid("olive", "#5c5b3b", "weave", 0.08)]),
    "leather jacket": (None, dict(neck="collar", ease=2.8, hem=75, sleeve=1.0, sleeve_ease=1.6, loose=0.55, notch=50, gap=3.6, lapel="notch", closing="zip"), [
        solid("black", "#141416", "none", 0.55), solid("brown", "#5a3420", "none", 0.5)]),
    "cardigan": (None, dict(neck="collar", ease=3.4, hem=88, sleeve=1.0, sleeve_ease=2.2, loose=0.8, notch=58, gap=4.4, buttons=3, lapel="none", rib=True), [
        solid("mustard", "#c08c27", "rib"), ("grey", "marl", "marl", ["#7f8288", "#4a4d53"], "cable", 0.02)]),
    "puffer jacket": (None, dict(neck="collar", ease=5.0, hem=83, sleeve=1.0, sleeve_ease=3.6, loose=0.9, notch=36, gap=0.2, lapel="band", closing="zip"), [
        solid("orange", "#d2601f", "puffer", 0.2), solid("black", "#1c1e22", "puffer", 0.25)]),
}  # fmt: skip

BOTTOMS = {
    "jeans": (None, dict(thigh=9.2, knee=6.8, hem=6.0, length=0.97, denim=True), [DENIM_BLUE, DENIM_LIGHT, DENIM_BLACK]),
    "slim jeans": (None, dict(thigh=8.6, knee=5.6, hem=4.4, length=0.95, denim=True, cuffed=True), [DENIM_BLUE, DENIM_BLACK]),
    "chinos": (None, dict(thigh=9.3, knee=6.9, hem=5.6, length=0.94), [
        solid("khaki", "#b39a6b"), solid("olive", "#5d6140"), solid("navy", "#232d4a"), solid("rust", "#a4502c")]),
    "suit trousers": (None, dict(thigh=9.3, knee=7.0, hem=6.2, length=0.97, crease_line=True), [
        solid("charcoal", "#34363c"), ("grey", "pinstriped", "pinstripe", ["#5d6068", "#b4b6bb"], "weave", 0.02)]),
    "wide trousers": (True, dict(thigh=10.2, knee=10.0, hem=11.5, length=0.98, waist=64, crease_line=True), [
        solid("white", "#e6e1d6"), solid("emerald", "#1f6a52", "none", 0.12), ("black", "pinstriped", "pinstripe", ["#1d1d22", "#c9c5bd"], "weave", 0.03)]),
    "joggers": (None, dict(thigh=9.8, knee=7.4, hem=4.6, length=0.95, side_stripe="#e8e6e0"), [solid("black", "#1c1d20"), solid("grey", "#8b8e93", "fleece")]),
    "leggings": (True, dict(thigh=8.2, knee=5.6, hem=3.8, length=0.94, waist=66), [solid("black", "#17171a", "none", 0.15), ("purple", "abstract", "abstract", ["#4b2a78", "#a04fb0", "#f08a6c"], "none", 0.15)]),
    "shorts": (None, dict(thigh=9.8, knee=9.4, hem=9.4, length=0.40), [solid("sand", "#c9b48a"), ("blue", "striped", "pinstripe", ["#5c86bd", "#eef2f7"], "weave", 0.02), ("light blue", "denim", "denim", ["#7b9bc0", "#cbd9e8"], "weave", 0.02)]),
    "mini skirt": (True, dict(hem=100, width=19, waist=66, full=0.4), [("red", "tartan", "tartan", ["#9c2630", "#23402f", "#e8d9a0"], "weave", 0.02), DENIM_BLUE, solid("black", "#171719", "none", 0.5)]),
    "pleated skirt": (True, dict(hem=126, width=29, waist=65, pleats=4.2), [solid("green", "#2f6b54", "none", 0.12), solid("gold", "#b88d3c", "none", 0.3), solid("pink", "#dba0ac", "none", 0.12)]),
    "pencil skirt": (True, dict(hem=116, width=15.0, waist=65, full=0.25, slit=True), [solid("black", "#1d1d20"), ("grey", "checked", "houndstooth", ["#d8d5ce", "#3d3d42"], "weave", 0.02)]),
    "full skirt": (True, dict(hem=120, width=38, waist=65, full=1.3), [("white", "floral", "floral", ["#f0ece2", "#d0483f", "#e7a33e", "#3e7a58"], "weave", 0.03), ("blue", "dotted", "dots", ["#27407c", "#f0ede4"], "weave", 0.03)]),
    "maxi skirt": (True, dict(hem=153, width=27, waist=65, full=1.0), [solid("plum", "#6f2b5e"), ("orange", "abstract", "abstract", ["#d9692a", "#f0c26a", "#8a2f2b"], "none", 0.06)]),
}  # fmt: skip

DRESSES = {
    "summer dress": (dict(neck="scoop", ease=1.0, sleeve=0.0, loose=0.15, skirt=dict(hem=118, width=30, full=1.0)), [
        ("yellow", "floral", "floral", ["#f1cf62", "#d2453c", "#f5f0e6", "#4d7d48"], "weave", 0.03),
        ("blue", "dotted", "dots", ["#2c57a0", "#f2efe8"], "weave", 0.03),
        ("red", "solid", "plain", ["#b7232c"], "none", 0.08)]),
    "shirt dress": (dict(neck="collar", ease=2.0, sleeve=0.5, loose=0.4, closing="buttons", collar="shirt", buttons=4, sash="#6a4a2c", skirt=dict(hem=116, width=24, full=0.6, buttons=4, button="#efe9dd")), [
        ("white", "striped", "pinstripe", ["#f0efe9", "#4f6fa6"], "weave", 0.03),
        ("khaki", "solid", "plain", ["#9a8a5c"], "weave", 0.03),
        ("light blue", "denim", "denim", ["#6d8db2", "#b4c8de"], "weave", 0.02)]),
    "wrap dress": (dict(neck="deep_v", ease=1.2, sleeve=0.76, sleeve_ease=1.6, loose=0.25, sash="#202020", skirt=dict(hem=120, width=25, full=0.8, slit=True)), [
        ("green", "abstract", "abstract", ["#1f6a55", "#e8d9a0", "#0f3a30"], "none", 0.08),
        ("black", "floral", "floral", ["#1a1a20", "#c7455e", "#e9b5b0", "#5c8a5a"], "none", 0.08),
        ("burgundy", "solid", "plain", ["#6d1d33"], "none", 0.1)]),
    "evening gown": (dict(neck="boat", crease=0.12, ease=0.6, sleeve=0.0, loose=0.1, skirt=dict(hem=164, width=33, full=1.1, crease=0.08)), [
        ("emerald", "solid", "plain", ["#0f6a4c"], "none", 0.35), ("black", "solid", "plain", ["#141418"], "none", 0.3), ("silver", "solid", "plain", ["#b4b7bf"], "none", 0.5)]),
    "knit dress": (dict(neck="high", ease=1.2, sleeve=1.0, loose=0.35, collar="turtle", skirt=dict(hem=108, width=19, full=0.35)), [
        solid("camel", "#b58a55", "rib"), ("grey", "marl", "marl", ["#8a8c92", "#54575d"], "cable", 0.02)]),
    "shift dress": (dict(neck="crew", ease=2.4, sleeve=0.30, sleeve_ease=1.4, loose=0.7, skirt=dict(hem=106, width=22, full=0.4)), [
        ("orange", "colour block", "blocks", ["#e06a2c", "#f0e6d2", "#3a2a5a"], "none", 0.04), ("navy", "striped", "stripes", ["#f1eee6", "#22325a"], "weave", 0.03)]),
}  # fmt: skip

SHOES = {
    "sneakers": ("sneakers", [solid("white", "#e6e4de"), solid("red", "#b8322c"), solid("blue", "#2f5a9c"), solid("black", "#1c1c1f")], "#eceae4"),
    "ankle boots": ("boots", [solid("brown", "#6b3f22", "none", 0.35), solid("black", "#161617", "none", 0.4), solid("tan", "#a8743f", "none", 0.25)], "#241a14"),
    "knee boots": ("tall_boots", [solid("black", "#151516", "none", 0.4)], "#141210"),
    "pumps": ("pumps", [solid("black", "#141415", "none", 0.6), solid("red", "#a81d28", "none", 0.6), solid("nude", "#c89a7c", "none", 0.4)], "#2a1c14"),
    "loafers": ("loafers", [solid("brown", "#5a2f1c", "none", 0.45), solid("black", "#171617", "none", 0.5)], "#1c1510"),
    "sandals": ("sandals", [solid("tan", "#9a6a3c", "none", 0.2), solid("gold", "#b8954a", "none", 0.5)], "#b08a5c"),
}  # fmt: skip


@dataclass
class Product:
    sku: str
    kind: str
    category: str
    woman: bool | None
    cut: dict
    cloth: tuple
    price: str
    brand: int
    sole: str = ""

    @property
    def name(self):
        colour, pattern = self.cloth[0], self.cloth[1]
        words = [colour] if pattern == "solid" or pattern in self.kind else [colour, pattern]
        return " ".join([*words, self.kind]).capitalize()

    @property
    def slug(self):
        return self.name.lower().replace(" ", "-")


def assortment(rng):
    """Every product of the shop, in a fixed order."""
    products = []

    def add(prefix, kind, category, woman, cut, cloth, low, high, sole=""):
        price = f"{int(rng.integers(low, high)) // 5 * 5 + 4.9:.2f}"
        products.append(
            Product(f"{prefix}-{len(products) + 1:03d}", kind, category, woman, cut, cloth, price, int(rng.integers(1, 7)), sole)
        )

    for prefix, table, category, low, high in (
        ("TOP", TOPS, "upper", 15, 70),
        ("JKT", JACKETS, "upper", 60, 190),
        ("BTM", BOTTOMS, "lower", 25, 95),
    ):
        for kind, (woman, cut, cloths) in table.items():
            for cloth in cloths:
                extra = {"print": "#d8452e" if cloth[0] == "white" else "#e8c24a"} if cloth[1] == "print" else {}
                add(prefix, kind, category, woman, {**cut, **extra}, cloth, low, high)
    for kind, (cut, cloths) in DRESSES.items():
        for cloth in cloths:
            add("DRS", kind, "full_body", True, cut, cloth, 40, 160)
    for kind, (cut, cloths, sole) in SHOES.items():
        for cloth in cloths:
            add("SHO", kind, "footwear", None, {"shape": cut}, cloth, 40, 140, sole)
    return products
