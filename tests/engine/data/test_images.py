import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharpeye.data.images import BadImage, decode


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def test_same_size_keeps_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), 20).pixels, pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = (
        Image.new("I;16", (9, 12), 40_000)
        if mode == "I;16"
        else Image.new("RGB", (9, 12), (156, 156, 156)).convert(mode)
    )
    pixels = decode(encoded(image, "TIFF" if mode == "CMYK" else "PNG"), 8).pixels
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    assert abs(int(pixels.mean()) - 156) <= 3 or mode == "1"


def test_shorter_side_is_scaled_and_the_middle_kept() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert decode(encoded(Image.fromarray(pixels)), 10).pixels.min() == 255


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no image bytes"),
        (b"this is text", "not an image"),
        (png_header(100_000, 100_000), "decompression bomb"),
        (png_header(12_000, 12_000), "decompression bomb"),
        (encoded(Image.effect_noise((64, 64), 80), "JPEG")[:700], "truncated or corrupt"),
    ],
)
def test_bad_images_say_why(content: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        decode(content, 16)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match="missing"):
        decode(tmp_path / "none.png", 16)
    (tmp_path / "empty.png").touch()
    with pytest.raises(BadImage, match="0 bytes"):
        decode(tmp_path / "empty.png", 16)
