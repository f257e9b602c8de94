"""Which places people may read from and write to through the app: those given by --root, or any."""

import os
from pathlib import Path

from sharpeye.config import RunConfig
from sharpeye.data.remote import is_address
from sharpeye.errors import InputError
from sharpeye.runs.cluster import LOCAL
from sharpeye_app.readers import workspace

ROOTS_VARIABLE = "SHARPEYE_ROOTS"


def roots() -> list[str]:
    """Folders and addresses that the app is kept to; none where it is not."""
    return list(filter(None, os.environ.get(ROOTS_VARIABLE, "").split("\n")))


def check_place(text: str) -> None:
    """Raise InputError where a path or address lies outside of the roots. What the app wrote lies inside."""
    known = roots()
    if not known:
        return
    if is_address(text):
        inside = ".." not in text and any(
            text == root or text.startswith(root.rstrip("/") + "/") for root in known if is_address(root)
        )
    else:
        own = workspace().uploads, workspace().inspections, workspace().trusted
        folders = [*(Path(root) for root in known if not is_address(root)), *own]
        try:
            place = Path(text).expanduser().resolve()
        except (OSError, RuntimeError, ValueError):
            place = Path("/")
        inside = any(place.is_relative_to(folder) for folder in folders)
    if not inside:
        raise InputError(f"{text}: this app is kept to {', '.join(known)} (its option --root)")


def check_config(config: RunConfig) -> None:
    """Raise InputError where a configuration names a place outside of the roots."""
    for place in config.places:
        check_place(place)
    if roots() and config.cluster not in (None, LOCAL):
        # What another cluster sends is run here.
        raise InputError("--cluster: this app is kept to its roots (its option --root), and to this machine")
    if roots() and config.data.options.follow_links:
        raise InputError("--follow-links: this app is kept to its roots (its option --root)")
