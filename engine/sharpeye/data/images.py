"""Decoding of single images: safe, 8-bit RGB, square."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.fft import dctn

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
# Pictures are compared at so many grey pixels a side.
THUMBNAIL_SIDE = 32
HASH_SIDE = 8
# Smaller pictures are kept without loss.
LOSSLESS_SIDE = 64
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class BadImage(Exception):
    """One image that cannot be used; the message says why, without its name."""


@dataclass(frozen=True)
class Framing:
    """Which square of an image a model sees: the middle `share` of its shorter side, scaled to `side`.

    Attributes:
        side: pixels per side.
        share: of the shorter side, above 0, at most 1.
        interpolation: `bilinear`, `bicubic` or `lanczos`.
    """

    side: int
    share: float = 1.0
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Measures:
    """What can be told of a picture without knowing what it shows.

    Attributes:
        width: in pixels.
        height: in pixels.
        brightness: 99th percentile of the grey values, from 0 (black) to 1 (white): low where nothing in a
            picture is light.
        sharpness: standard deviation of the Laplacian of the grey values, at most PREVIEW_SIDE pixels a side,
            over that of the grey values themselves: low where a picture is blurred, whatever its contrast.
        perceptual_hash: 64 bits that change little when a picture is scaled, encoded again or made lighter.
    """

    width: int
    height: int
    brightness: float
    sharpness: float
    perceptual_hash: int


@dataclass(frozen=True)
class Decoded:
    """One decoded image.

    Attributes:
        pixels: uint8, (size, size, 3); where no size was asked for, those of the preview, (h, w, 3).
        preview: a JPEG or PNG of the whole image of at most PREVIEW_SIDE pixels a side; empty where the
            pixels of the size asked for show all that there is to see.
        measures: of the whole image.
    """

    pixels: np.ndarray
    preview: bytes
    measures: Measures


def decode(image: Encoded, size: int | None) -> Decoded:
    """Decode to 8-bit RGB, shorter side scaled to `size`, centre-cropped to a square; and a preview.

    Args:
        image: encoded bytes, a path, or an opened PIL image.
        size: pixels per side; None where only the preview is wanted.

    Raises:
        BadImage: empty, truncated, not an image of an allowed format, or too many pixels.
    """
    with _upright(image, max(2 * (size or 0), PREVIEW_SIDE)) as (whole, (width, height)):
        square = None if size is None else _framed(whole, Framing(size))
        shown = size is not None and max(whole.size) <= size
        whole.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BILINEAR)
        preview = np.asarray(whole)
        grey = whole.convert("L")
        measures = Measures(width, height, *_light_and_sharpness(grey), perceptual_hash(grey))
        return Decoded(preview if square is None else square, b"" if shown else _encoded(whole), measures)


def framed(image: Encoded, framing: Framing) -> np.ndarray:
    """The square of an image that a model sees, uint8, (side, side, 3); raises BadImage as `decode` does."""
    with _upright(image, round(framing.side / framing.share)) as (whole, _):
        return _framed(whole, framing)


@contextmanager
def _upright(image: Encoded, least: int) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """The whole image in RGB, each side at least so many pixels where it has them, and its full size."""
    try:
        with open_image(image) as opened:
            full = opened.size
            opened.draft("RGB", (least, least))
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            turned = (upright.width < upright.height) != (full[0] < full[1])
            yield upright.convert("RGB"), full[::-1] if turned else full
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise BadImage(f"truncated or corrupt image ({error})") from error


def _framed(whole: Image.Image, framing: Framing) -> np.ndarray:
    bleed = (1 - framing.share) / 2
    method = INTERPOLATIONS[framing.interpolation]
    return np.asarray(ImageOps.fit(whole, (framing.side, framing.side), method, bleed=bleed))


def _light_and_sharpness(picture: Image.Image) -> tuple[float, float]:
    grey = np.asarray(picture, dtype=np.float32) / 255
    laplacian = -4 * grey[1:-1, 1:-1] + grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    contrast = float(grey.std())
    sharpness = float(laplacian.std()) / contrast if laplacian.size and contrast > 0 else 0.0
    return float(np.percentile(grey, 99)), sharpness


def thumbnail(picture: Image.Image) -> np.ndarray:
    """Grey values by which pictures are compared, float32, (THUMBNAIL_SIDE, THUMBNAIL_SIDE)."""
    grey = picture.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(grey, dtype=np.float32)


def perceptual_hash(picture: Image.Image) -> int:
    """Which of the lowest frequencies of a picture are above their median, 64 bits.

    pHash (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"), over the
    HASH_SIDE x HASH_SIDE lowest coefficients of the cosine transform of the thumbnail.
    """
    low = dctn(thumbnail(picture))[:HASH_SIDE, :HASH_SIDE]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes())


def _encoded(preview: Image.Image) -> bytes:
    buffer = io.BytesIO()
    if max(preview.size) <= LOSSLESS_SIDE:
        preview.save(buffer, "PNG", compress_level=1)
    else:
        preview.save(buffer, "JPEG", quality=PREVIEW_QUALITY)
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
