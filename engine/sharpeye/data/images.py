"""Decoding of single images: safe, 8-bit RGB, square."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.fft import dctn

from sharpeye.data.remote import RemoteFile
from sharpeye.errors import InputError

# The kinds of images that are read, and the suffixes of their files.
SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx"),
    "ICO": (".ico",),
}
FORMATS = tuple(SUFFIXES_OF)
SUFFIXES = frozenset(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
# What further packages read, and the extra that installs them.
EXTRA_SUFFIXES = {".heic": "heif", ".heif": "heif", ".hif": "heif", ".dcm": "dicom", ".dicom": "dicom"}
EXTRA_PACKAGES = {"heif": "pillow_heif", "dicom": "pydicom"}

# Decoded at once; of a JPEG, after it was scaled down on the way.
MAX_PIXELS = 2**27
# A JPEG is decoded to at least so many pixels a side where the whole image is wanted.
MAX_SIDE = 4096
# Larger images are decoded one at a time.
LARGE_PIXELS = 2**24
ONE_LARGE = threading.Lock()
# Of 16-bit colours. Below this, too few of their shades are left.
LEAST_UPPER = 64
# Checked here instead, since a JPEG of any size can be decoded small.
Image.MAX_IMAGE_PIXELS = None
# Blocks beyond 32 MB go back to the system at once. Smaller ones stay with the thread that decoded an image.
Image.core.set_block_size(2**26)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be had, and why."""

    reason: str


Encoded = bytes | Path | RemoteFile | Image.Image | Unreadable

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


# What is done to an image that is not 8-bit and opaque.
DEPTH, TRANSPARENT = "depth", "transparent"
CONVERSIONS = {
    DEPTH: "hold more than 8 bits: each was scaled so that its smallest value is black and its largest white",
    TRANSPARENT: "are transparent in part: they were put on white",
}


class BadImage(Exception):
    """One image that cannot be used; the message says why, without its name."""


@cache
def has_extra(name: str) -> bool:
    """Whether the package of an extra is installed; Pillow then opens HEIF too."""
    if find_spec(EXTRA_PACKAGES[name]) is None:
        return False
    if name == "heif":
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return True


def unread_reason(suffix: str) -> str:
    """Why files of a suffix are not read; empty where they are."""
    suffix = suffix.lower()
    extra = EXTRA_SUFFIXES.get(suffix)
    if suffix in SUFFIXES or (extra and has_extra(extra)):
        return ""
    if extra:
        return f"{suffix} needs another package: pip install 'sharpeye[{extra}]'"
    return f"{suffix} is no kind of image that is read" if suffix else "a file without a suffix is not read"


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
        conversions: what had to be done to make it 8-bit RGB, of CONVERSIONS.
    """

    pixels: np.ndarray
    preview: bytes
    measures: Measures
    conversions: tuple[str, ...]


def decode(image: Encoded, size: int | None) -> Decoded:
    """Decode to 8-bit RGB, shorter side scaled to `size`, centre-cropped to a square; and a preview.

    Args:
        image: encoded bytes, a path, or an opened PIL image.
        size: pixels per side; None where only the preview is wanted.

    Raises:
        BadImage: empty, truncated, not an image of an allowed format, or too many pixels.
    """
    with _upright(image, max(2 * (size or 0), PREVIEW_SIDE)) as (whole, (width, height), conversions):
        square = None if size is None else _framed(whole, Framing(size))
        shown = size is not None and max(whole.size) <= size
        whole.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BILINEAR)
        preview = np.asarray(whole)
        grey = whole.convert("L")
        measures = Measures(width, height, *_light_and_sharpness(grey), perceptual_hash(grey))
        pixels = preview if square is None else square
        return Decoded(pixels, b"" if shown else _encoded(whole), measures, conversions)


def framed(image: Encoded, framing: Framing) -> np.ndarray:
    """The square of an image that a model sees, uint8, (side, side, 3); raises BadImage as `decode` does."""
    with _upright(image, round(framing.side / framing.share)) as (whole, _, _):
        return _framed(whole, framing)


@contextmanager
def _upright(image: Encoded, least: int) -> Iterator[tuple[Image.Image, tuple[int, int], tuple[str, ...]]]:
    """The whole image in RGB, each side at least so many pixels where it has them; its full size; and the
    conversions."""
    try:
        with open_image(image) as opened:
            full = opened.size
            pixels = _drafted(opened, least)
            # Of colours with 16 bits, Pillow keeps the upper 8.
            deep = any(";16" in str(part.args) for part in getattr(opened, "tile", ()))
            with ONE_LARGE if pixels > LARGE_PIXELS else nullcontext():
                # Pillow sees to the orientation in place: a copy of a large image takes hundreds of MB.
                ImageOps.exif_transpose(opened, in_place=True)
                turned = (opened.width < opened.height) != (full[0] < full[1])
                whole, conversions = _to_rgb(opened, deep)
                yield whole, full[::-1] if turned else full, conversions
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # decoders raise many kinds
        raise BadImage(f"truncated or corrupt image ({error})") from error


def _drafted(opened: Image.Image, least: int) -> int:
    """Have a JPEG decoded as small as each side keeps so many pixels; how many pixels will be decoded.

    Raises:
        BadImage: too many.
    """
    width, height = opened.size
    opened.draft("RGB", (least, least))
    if opened.width * opened.height > MAX_PIXELS:
        raise BadImage(
            f"{width:,} x {height:,} pixels: refused as a possible decompression bomb, since only JPEG is "
            f"read beyond {MAX_PIXELS:,}"
        )
    return opened.width * opened.height


def size_of(image: Encoded) -> tuple[int, int]:
    """Width and height of an image, from its header; raises BadImage as `decode` does, but for its pixels."""
    try:
        with open_image(image) as opened:
            size = opened.size
            _drafted(opened, PREVIEW_SIDE)
            return size
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # decoders raise many kinds
        raise BadImage(f"unreadable image ({error})") from error


def _to_rgb(image: Image.Image, deep: bool) -> tuple[Image.Image, tuple[str, ...]]:
    """An opaque 8-bit RGB image, and what had to be done for that.

    Args:
        image: any.
        deep: whether its colours have 16 bits, the upper 8 of which are here.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image).convert("RGB"), (DEPTH,)
    if deep and image.mode in ("RGB", "RGBA") and np.max(image.getextrema()) < LEAST_UPPER:
        raise BadImage("16 bits a channel, the lower ones of which alone are used: save it with 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.min(image.getextrema()[-1]) < 255:
            ground = Image.new("RGBA", image.size, "white")
            ground.alpha_composite(image)
            return ground.convert("RGB"), (TRANSPARENT,)
    # Without a copy where nothing is to be done.
    return image if image.mode == "RGB" else image.convert("RGB"), ()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of any depth as 8 bits, from the smallest (black) to the largest (white) of the image.

    An image of a single value is taken as of 16 bits, or from 0 to 1 where it holds fractions.
    """
    values = np.asarray(image, dtype=np.float32)
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 0.0)
    if low == high:
        low, high = 0.0, 1.0 if image.mode == "F" else 65535.0
    scaled = (np.where(finite, values, low) - low) / (high - low)
    return Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))


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


def encoded(name: str, image: Encoded) -> bytes:
    """The file that an image is, as it is; PNG where it is none.

    Raises:
        InputError: it cannot be read; names it.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, RemoteFile):
        return image.read()
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()
    try:
        if isinstance(image, Path):
            return image.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: cannot be read any more ({error.strerror})") from error
    raise InputError(f"{name}: {image.reason}")


def opened_upright(image: Encoded) -> bytes:
    """The whole image as PNG; raises BadImage as `decode` does."""
    with _upright(image, MAX_SIDE) as (whole, _, _):
        buffer = io.BytesIO()
        whole.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def open_image(image: Encoded) -> Image.Image:
    """Read an image's header without decoding its pixels; raises BadImage as `decode` does."""
    if isinstance(image, Unreadable):
        raise BadImage(image.reason)
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, RemoteFile):
        try:
            image = image.read()
        except InputError as error:
            raise BadImage(str(error)) from error
    if isinstance(image, Path):
        try:
            if not image.is_file():
                raise BadImage("file is missing")
            if image.stat().st_size == 0:
                raise BadImage("file is empty (0 bytes)")
        except OSError as error:
            raise BadImage(f"unreadable file ({error.strerror})") from error
        if EXTRA_SUFFIXES.get(image.suffix.lower()) == "dicom":
            return open_dicom(image)
    elif not image:
        raise BadImage("no image bytes")
    formats = (*FORMATS, "HEIF") if has_extra("heif") else FORMATS
    try:
        return Image.open(image if isinstance(image, Path) else io.BytesIO(image), formats=formats)
    except UnidentifiedImageError as error:
        raise BadImage(f"not an image of a known format ({', '.join(formats)})") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise BadImage(f"unreadable image ({error})") from error


def open_dicom(path: Path) -> Image.Image:
    """The first frame of a DICOM file, with its own window of values.

    Raises:
        BadImage: not DICOM, or of a kind that pydicom does not decode here.
    """
    if not has_extra("dicom"):
        raise BadImage(unread_reason(".dcm"))
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut, convert_color_space

    try:
        data = dcmread(path)
        values = data.pixel_array
        if int(data.get("NumberOfFrames", 1)) > 1:
            values = values[0]
        if data.get("SamplesPerPixel", 1) == 3:
            return Image.fromarray(
                np.asarray(convert_color_space(values, data.PhotometricInterpretation, "RGB"), dtype=np.uint8)
            )
        values = np.asarray(apply_voi_lut(apply_modality_lut(values, data), data), dtype=np.float32)
        return Image.fromarray(-values if data.PhotometricInterpretation == "MONOCHROME1" else values)
    except Exception as error:  # pydicom and its decoders raise many kinds
        raise BadImage(f"unreadable DICOM ({error})") from error
