"""Decoding of single images: safe, 8-bit RGB, square."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"}
)

# Pillow only warns up to twice its limit.
warnings.simplefilter("error", Image.DecompressionBombWarning)

Encoded = bytes | Path | Image.Image

# What people look at where the model's input is smaller than the image.
PREVIEW_SIDE = 256
PREVIEW_QUALITY = 85


class BadImage(Exception):
    """One image that cannot be used; the message says why, without its name."""


def decode(image: Encoded, size: int) -> tuple[np.ndarray, bytes]:
    """Decode to 8-bit RGB, shorter side scaled to `size`, centre-cropped to a square.

    And a preview of the whole image.

    Args:
        image: encoded bytes, a path, or an opened PIL image.
        size: pixels per side.

    Returns:
        uint8 array of shape (size, size, 3), and a JPEG of at most PREVIEW_SIDE pixels a side; empty where
        the array shows all that there is to see.

    Raises:
        BadImage: empty, truncated, not an image of an allowed format, or too many pixels.
    """
    try:
        with open_image(image) as opened:
            opened.draft("RGB", (max(2 * size, PREVIEW_SIDE),) * 2)
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            whole = upright.convert("RGB")
            fitted = ImageOps.fit(whole, (size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadImage(f"truncated or corrupt image ({error})") from error
    return np.asarray(fitted), b"" if max(whole.size) <= size else _preview(whole)


def _preview(whole: Image.Image) -> bytes:
    whole.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=PREVIEW_QUALITY)
    return buffer.getvalue()


def open_image(image: Encoded) -> Image.Image:
    """Read an image's header without decoding its pixels; raises BadImage as `decode` does."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Path):
        if not image.is_file():
            raise BadImage("file is missing")
        if image.stat().st_size == 0:
            raise BadImage("file is empty (0 bytes)")
    elif not image:
        raise BadImage("no image bytes")
    try:
        opened = Image.open(image if isinstance(image, Path) else io.BytesIO(image), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: refused as a possible decompression bomb"
        raise BadImage(message) from error
    except UnidentifiedImageError as error:
        raise BadImage(f"not an image of a known format ({', '.join(FORMATS)})") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadImage(f"unreadable image ({error})") from error
    return opened
