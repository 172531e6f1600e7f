#!/usr/bin/env python3
"""Small pictures in the forms that our own encoders cannot write. Needs: pillow, numpy."""

from pathlib import Path

import numpy as np
from PIL import Image, features

HERE = Path(__file__).parent


def picture():
    """37 x 23: red grows to the right, green grows downward, a blue block sits upper left."""
    y, x = np.mgrid[0:23, 0:37]
    pixels = np.stack([x * 6, y * 10, np.where((x < 12) & (y < 8), 220, 30)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def main():
    image = picture()
    image.save(HERE / "plain.png", optimize=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright when turned 90 degrees clockwise
    image.save(HERE / "baseline.jpg", quality=95, subsampling=0)
    image.save(HERE / "progressive.jpg", quality=95, subsampling=2, progressive=True)
    image.save(HERE / "restart.jpg", quality=95, restart_marker_rows=1)
    image.convert("L").save(HERE / "gray.jpg", quality=95)
    image.convert("CMYK").save(HERE / "cmyk.jpg", quality=95)
    image.save(HERE / "turned.jpg", quality=95, subsampling=0, exif=exif)
    image.save(HERE / "turned.png", exif=exif)
    image.save(HERE / "turned.tif", exif=exif, compression="tiff_lzw")
    image.save(HERE / "lossy.webp", quality=95)
    image.save(HERE / "turned.webp", lossless=True, exif=exif)
    frames = [image, Image.new("RGB", image.size, (255, 255, 255))]
    frames[0].save(HERE / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(HERE / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.fromarray((np.mgrid[0:23, 0:37][1] * 255 // 36).astype(np.uint8)))
    alpha.save(HERE / "alpha.png", optimize=True)
    alpha.save(HERE / "alpha.webp", lossless=True, exact=True)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    palette.save(HERE / "palette.png", transparency=0)
    Image.open(HERE / "palette.png").convert("RGBA").save(HERE / "palette_as_rgba.png", optimize=True)
    sixteen = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(sixteen).save(HERE / "gray16.png")
    image.save(HERE / "plain.bmp")
    image.convert("1").save(HERE / "bilevel.tif", compression="group4")
    image.save(HERE / "jpeg.tif", compression="jpeg", quality=95)


if __name__ == "__main__":
    assert features.check("webp")
    main()
