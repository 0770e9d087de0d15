"""From the bytes of an image file to an array. The data stage and the endpoint both decode here, so that they agree."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
MAX_PIXELS = 2**26
"""67 million pixels, 200 MB in RGB: below the size at which Pillow itself begins to warn of a decompression bomb."""

Pixels = NDArray[np.uint8]


def decode_image(data: bytes, height: int, width: int, channels: int) -> Pixels:
    """Decode a PNG, JPEG, BMP or WebP file and bring it to a size, as `decode_upright` and `resize_image` do.

    Args:
        data: the bytes of the file.
        height: pixels of the result.
        width: pixels of the result.
        channels: 1 gray or 3 RGB.

    Returns:
        `[height, width, channels] uint8`.

    Raises:
        ValueError: the bytes are not an image that can be decoded here.
    """
    return resize_image(decode_upright(data), height, width, channels)


def decode_upright(data: bytes) -> Pixels:
    """Decode a PNG, JPEG, BMP or WebP file at its own size, `[height, width, 1 gray or 3 RGB] uint8`.

    The EXIF orientation is applied, transparency is laid on white, 16-bit gray keeps its upper 8 bits, and the first
    frame of several is taken.

    Raises:
        ValueError: the bytes are not an image that can be decoded here.
    """
    with _opened(data) as opened:
        try:
            opened.load()
            image: Image.Image = ImageOps.exif_transpose(opened)
        except Exception as error:  # broken bytes raise anything: OSError, SyntaxError, struct.error, zlib.error
            raise ValueError(f"the image is damaged: {error}") from None
    return _to_array(_flatten(image))


def resize_image(pixels: Pixels, height: int, width: int, channels: int) -> Pixels:
    """Bring `[h, w, 1 or 3] uint8` to `[height, width, channels] uint8`.

    Color becomes gray by ITU-R 601 luma. Another size is reached by bilinear resampling over the whole area of each
    new pixel. What has that shape already is handed back as it is.
    """
    if pixels.shape == (height, width, channels):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return _to_array(image)


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not an image; {', '.join(FORMATS[:-1])} and {FORMATS[-1]} are read") from None
    except Exception as error:  # as above: a broken header raises anything
        raise ValueError(f"the image is damaged: {error}") from None
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ValueError(f"the image has {image.height} x {image.width} pixels; at most {MAX_PIXELS:,} are decoded")
    if image.mode in ("I", "F"):
        raise ValueError(f"the image has pixels of 32 bits (mode {image.mode}); 8 and 16 bits are decoded")
    return image


def _is_gray(mode: str) -> bool:
    return mode in ("1", "L", "LA", "La") or mode.startswith("I;16")


def _flatten(image: Image.Image) -> Image.Image:
    """8 bits per channel, opaque: mode L or RGB."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        ground.alpha_composite(layer)
        return ground.convert("L" if _is_gray(image.mode) else "RGB")
    return image.convert("L" if _is_gray(image.mode) else "RGB")


def _to_array(image: Image.Image) -> Pixels:
    array = np.array(image, dtype=np.uint8)
    return array[..., None] if array.ndim == 2 else array
