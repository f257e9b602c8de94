"""Pictures of a decoded data set, as people should see them."""

import io
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from sharpeye.data.dataset import open_pixels
from sharpeye.errors import InputError


def preview(folder: Path, row: int) -> bytes:
    """The picture of a row of a decoded data set, as JPEG or PNG; raises InputError where there is none."""
    pixels, ends = open_previews(folder)
    if not 0 <= row < len(ends):
        raise InputError(f"dataset {folder.name} has no image {row}")
    start = int(ends[row - 1]) if row else 0
    if ends[row] > start:
        with (folder / "previews.bin").open("rb") as file:
            file.seek(start)
            return file.read(int(ends[row]) - start)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels[row])).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=8)
def open_previews(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of a decoded data set, and where each preview ends; of images without one, their pixels show all
    that there is."""
    size = json.loads((folder / "dataset.json").read_text())["image_size"]
    ends = pq.read_table(folder / "table.parquet", columns=["preview_end"]).column(0).to_numpy()
    return open_pixels(folder, len(ends), size), ends
