"""Images of decoded data sets, as people should see them."""

import io
import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from sharpeye.data.dataset import open_pixels
from sharpeye.errors import InputError
from sharpeye.runs.workspace import Workspace


def picture(workspace: Workspace, name: str, row: int) -> tuple[bytes, str]:
    """An image of a decoded data set, and its media type.

    Raises:
        InputError: there is no such data set or row.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", name) or not (workspace.decoded / name / "dataset.json").exists():
        raise InputError(f"no decoded dataset {name!r}")
    pixels, ends, folder = _open_pixels(workspace, name)
    if not 0 <= row < len(ends):
        raise InputError(f"dataset {name} has no image {row}")
    start = int(ends[row - 1]) if row else 0
    if ends[row] > start:
        with (folder / "previews.bin").open("rb") as file:
            file.seek(start)
            preview = file.read(int(ends[row]) - start)
            return preview, "image/png" if preview.startswith(b"\x89PNG") else "image/jpeg"
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels[row])).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "image/png"


@lru_cache(maxsize=8)
def _open_pixels(workspace: Workspace, name: str) -> tuple[np.ndarray, np.ndarray, Path]:
    """Pixels, ends of the previews, and the folder of a decoded data set."""
    folder = workspace.decoded / name
    size = json.loads((folder / "dataset.json").read_text())["image_size"]
    ends = pq.read_table(folder / "table.parquet", columns=["preview_end"]).column(0).to_numpy()
    return open_pixels(folder, len(ends), size), ends, folder
