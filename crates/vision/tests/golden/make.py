#!/usr/bin/env python3
"""Golden tensors for preprocessing, made with Pillow and NumPy and nothing of ours.

Writes source.png, one raw little-endian tensor per case, and cases.json beside this file.
Needs: pillow 11.3, numpy. Run it only to add cases; the results are committed.

Pillow up to 12 resamples rows first, then columns. Pillow 13 picks the order by shape, which
changes single pixels at hard edges; one order for all shapes is the rule here.
"""

import json
import math
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

HERE = Path(__file__).parent
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
}
DTYPES = {"f32": "<f4", "f16": "<f2", "u8": "u1"}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def source():
    """131 x 83 pixels without any symmetry: gradients, hard edges, a wave and noise."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:83, 0:131].astype(float)
    red = 255 * x / 130
    green = 128 + 100 * np.sin(x / 7 + y / 11)
    blue = 255 * (y / 82) ** 2
    pixels = np.stack([red, green, blue], axis=2)
    pixels[10:40, 15:50] = (250, 20, 40)
    pixels[55:60, 70:128] = (5, 5, 5)
    pixels += rng.normal(0, 6, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def half_up(value):
    return int(np.floor(value + 0.5))


def fitted(image, spec):
    """The input picture in RGB, as architecture.md describes `resize`."""
    size, how = (spec["width"], spec["height"]), FILTERS[spec["filter"]]
    if spec["resize"] == "stretch":
        return np.asarray(image.resize(size, how))
    if spec["resize"] == "letterbox":
        ratio = min(size[0] / image.width, size[1] / image.height)
        inner = image.resize((half_up(image.width * ratio), half_up(image.height * ratio)), how)
        pad = spec.get("pad", [0, 0, 0])
        canvas = Image.new("RGB", size, tuple(pad if spec["colour"] == "rgb" else pad[::-1]))
        canvas.paste(inner, ((size[0] - inner.width) // 2, (size[1] - inner.height) // 2))
        return np.asarray(canvas)
    share = spec.get("crop_share", 1)
    cover = [math.floor(side / share) for side in size]
    if cover[0] * image.height >= cover[1] * image.width:
        inner = image.resize((cover[0], max(cover[1], cover[0] * image.height // image.width)), how)
    else:
        inner = image.resize((max(cover[0], cover[1] * image.width // image.height), cover[1]), how)
    left, top = (inner.width - size[0]) // 2, (inner.height - size[1]) // 2
    return np.asarray(inner)[top : top + size[1], left : left + size[0]]


def tensor(image, spec):
    pixels = fitted(image, spec)
    if spec["colour"] == "bgr":
        pixels = pixels[:, :, ::-1]
    values = pixels
    if spec["dtype"] != "u8":
        scale = spec.get("scale", 1 / 255)
        mean, std = np.array(spec.get("mean", [0.0] * 3)), np.array(spec.get("std", [1.0] * 3))
        values = (pixels.astype(np.float64) * scale - mean) / std
    if spec["layout"] == "nchw":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values.astype(DTYPES[spec["dtype"]]))


def case(box=None, **spec):
    defaults = {"name": "image", "layout": "nchw", "dtype": "f32", "colour": "rgb"}
    return {"box": box, "input": {**defaults, **spec}}


CASES = {
    "stretch_bilinear": case(width=24, height=32, resize="stretch", filter="bilinear", **IMAGENET),
    "stretch_bicubic_enlarged": case(
        [80, 20, 104, 51], width=33, height=40, resize="stretch", filter="bicubic", dtype="u8"
    ),
    "stretch_nearest_nhwc": case(
        width=29, height=17, resize="stretch", filter="nearest", dtype="u8", layout="nhwc"
    ),
    "letterbox_wide": case(
        width=40, height=36, resize="letterbox", filter="bilinear", layout="nhwc", colour="bgr",
        pad=[10, 120, 230],
    ),
    "letterbox_tall_crop": case(
        [3, 1, 28, 80], width=32, height=32, resize="letterbox", filter="lanczos3", pad=[114] * 3
    ),
    "crop_bicubic": case(width=20, height=32, resize="crop", filter="bicubic", **IMAGENET),
    "crop_wide_f16": case(
        [40, 5, 100, 82], width=36, height=14, resize="crop", filter="bilinear", dtype="f16",
        scale=1.0, mean=[103.94, 116.78, 123.68], colour="bgr",
    ),
    # 83 rows become 36 of which 32 are kept, and 131 columns 56 (56.8).
    "crop_share": case(
        width=32, height=32, resize="crop", crop_share=0.875, filter="bicubic", **IMAGENET
    ),
    # Rows as before; 28 rows become 31 (31.1).
    "crop_share_tall": case(
        [20, 1, 75, 82], width=24, height=28, resize="crop", crop_share=0.9, filter="bilinear"
    ),
    "view_lanczos": case(
        [10, 7, 97, 60], width=21, height=28, resize="stretch", filter="lanczos3", dtype="u8"
    ),
}


def main():
    assert PIL.__version__.startswith("11.3."), "the order of the passes depends on the version"
    image = source()
    image.save(HERE / "source.png", optimize=True)
    for name, spec in CASES.items():
        view = image.crop(spec["box"]) if spec["box"] else image
        (HERE / f"{name}.bin").write_bytes(tensor(view, spec["input"]).tobytes())
    (HERE / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")


if __name__ == "__main__":
    main()
