from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rayml.ml.images import decode_image, decode_upright, resize_image

HEIGHT, WIDTH = 7, 11
COLOR = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
GRAY = COLOR[..., 0]


def encode(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_color_comes_back(kind: str) -> None:
    data = encode(COLOR, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert decode_upright(data).shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(decode_image(data, HEIGHT, WIDTH, 3), COLOR)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_gray_comes_back(kind: str) -> None:
    data = encode(GRAY, kind)
    assert decode_upright(data).shape == (HEIGHT, WIDTH, 1)
    np.testing.assert_array_equal(decode_image(data, HEIGHT, WIDTH, 1), GRAY[..., None])
    np.testing.assert_array_equal(decode_image(data, HEIGHT, WIDTH, 3), np.repeat(GRAY[..., None], 3, axis=2))


def test_jpeg_is_close_and_gray_jpeg_stays_gray() -> None:
    smooth = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    data = encode(smooth, "JPEG", quality=95)
    assert decode_upright(data).shape == (48, 64, 1)
    assert np.abs(decode_image(data, 48, 64, 1)[..., 0].astype(int) - smooth).max() <= 4


def test_color_becomes_gray_by_luma() -> None:
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert decode_image(encode(red, "PNG"), 2, 2, 1).tolist() == [[[76]] * 2] * 2  # 0.299 * 255


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_camera_held_sideways(orientation: int, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(COLOR, "PNG", exif=exif)
    upright = np.rot90(COLOR, turned)
    assert decode_upright(data).shape == upright.shape
    np.testing.assert_array_equal(decode_image(data, *upright.shape), upright)


def test_transparency_is_laid_on_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)
    np.testing.assert_array_equal(decode_image(encode(pixels, "PNG"), 1, 3, 3)[0, :, 0], [255, 127, 0])
    gray = Image.fromarray(pixels[..., 0]).convert("LA")
    gray.putalpha(Image.fromarray(pixels[..., 3]))
    data = encode(gray, "PNG")
    assert decode_upright(data).shape == (1, 3, 1)
    np.testing.assert_array_equal(decode_image(data, 1, 3, 1)[0, :, 0], [255, 127, 0])


def test_a_palette_with_a_transparent_color() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    data = encode(image, "PNG", transparency=0)
    assert decode_image(data, 1, 2, 3).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_16_bit_gray_keeps_its_upper_byte() -> None:
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    data = encode(values, "PNG")
    assert decode_upright(data).shape == (1, 5, 1)
    assert decode_image(data, 1, 5, 1)[0, :, 0].tolist() == [0, 0, 1, 0x12, 0xFF]


def test_two_colors() -> None:
    data = encode(Image.fromarray(GRAY).convert("1", dither=Image.Dither.NONE), "PNG")
    assert set(np.unique(decode_image(data, HEIGHT, WIDTH, 1))) == {0, 255}


def test_smaller_is_the_mean_of_the_area_and_pixels_resize_like_files() -> None:
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = decode_image(encode(board, "PNG"), 8, 8, 1)
    assert np.abs(small.astype(int) - 127).max() <= 2
    np.testing.assert_array_equal(resize_image(board[..., None], 8, 8, 1), small)
    np.testing.assert_array_equal(resize_image(COLOR, 5, 4, 1), decode_image(encode(COLOR, "PNG"), 5, 4, 1))
    assert resize_image(COLOR, HEIGHT, WIDTH, 3) is COLOR


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (encode(COLOR, "PNG")[:80], "damaged"),
        (encode(np.tile(COLOR, (20, 20, 1)), "JPEG")[:900], "damaged"),
        (encode(COLOR, "GIF"), "not an image"),
        (encode(COLOR, "TIFF"), "not an image"),
        (png_header(9000, 9000), "9000 x 9000 pixels"),
        (png_header(60_000, 60_000), "damaged.*decompression bomb|60000 x 60000"),
    ],
    ids=["empty", "text", "cut PNG", "cut JPEG", "GIF", "TIFF", "81 megapixels", "bomb"],
)
def test_what_cannot_be_decoded_is_a_value_error(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_image(data, 4, 4, 3)
