import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

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


def test_without_a_size_the_whole_image_is_kept_small() -> None:
    wide = decode(encoded(Image.effect_noise((600, 300), 80), "JPEG"), None)
    assert wide.pixels.shape == (128, 256, 3)
    assert Image.open(io.BytesIO(wide.preview)).format == "JPEG"
    assert (wide.measures.width, wide.measures.height) == (600, 300)
    icon = Image.effect_noise((20, 10), 80).convert("RGB")
    lossless = Image.open(io.BytesIO(decode(encoded(icon), None).preview))
    np.testing.assert_array_equal(np.asarray(lossless), np.asarray(icon))


def test_sides_are_those_people_see() -> None:
    image, exif = Image.new("RGB", (40, 20)), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    measures = decode(buffer.getvalue(), None).measures
    assert (measures.width, measures.height) == (20, 40)


def test_blurred_and_dark_images_are_measured() -> None:
    sharp = Image.effect_noise((200, 200), 60).convert("RGB")
    blurred, dark = sharp.filter(ImageFilter.GaussianBlur(3)), sharp.point(lambda value: value // 4)
    measured = [decode(encoded(image), None).measures for image in (sharp, blurred, dark)]
    assert measured[1].sharpness < measured[0].sharpness / 3
    assert abs(measured[2].sharpness / measured[0].sharpness - 1) < 0.1
    assert measured[2].brightness < measured[0].brightness / 3
    assert decode(encoded(Image.new("RGB", (2, 2))), None).measures.sharpness == 0
