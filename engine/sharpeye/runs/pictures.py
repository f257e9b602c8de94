"""Pictures that the app asks for, by names that come from a browser."""

import re

from sharpeye.data.previews import preview
from sharpeye.errors import InputError
from sharpeye.runs.workspace import Workspace


def picture(workspace: Workspace, name: str, row: int) -> tuple[bytes, str]:
    """An image of a decoded data set, and its media type.

    Raises:
        InputError: there is no such data set or row.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", name) or not (workspace.decoded / name / "dataset.json").exists():
        raise InputError(f"no decoded dataset {name!r}")
    shown = preview(workspace.decoded / name, row)
    return shown, media_type(shown)


def media_type(content: bytes) -> str:
    """The media type of a preview."""
    return "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
