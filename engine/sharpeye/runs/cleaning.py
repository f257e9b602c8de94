"""Results that runs share, by size and by when they were last read; old ones can go."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from sharpeye.errors import InputError
from sharpeye.files import remove
from sharpeye.runs.store import FINISHED, list_runs, store
from sharpeye.runs.workspace import Workspace

DAY_SECONDS = 24 * 3600.0
KEY = re.compile(r"-[0-9a-f]{12}(-epoch\d+)?$")


@dataclass(frozen=True)
class SharedResults:
    """Results of one kind: how many files, their bytes, and which of them were last read long enough ago."""

    kind: str
    files: int
    size: int
    old: tuple[Path, ...]
    old_size: int


def shared_results(workspace: Workspace, days: float) -> list[SharedResults]:
    """All results that runs share, by kind, the largest first; old are those not read for so many days."""
    kinds: dict[str, list[Path]] = {}
    for path in workspace.artifacts.glob("*"):
        kinds.setdefault(KEY.sub("", path.stem), []).append(path)
    since = time.time() - days * DAY_SECONDS
    found = []
    for kind, paths in kinds.items():
        sizes = {path: _size(path) for path in paths}
        old = tuple(path for path in paths if path.stat().st_mtime < since)
        found.append(
            SharedResults(kind, len(paths), sum(sizes.values()), old, sum(sizes[path] for path in old))
        )
    return sorted(found, key=lambda one: -one.size)


def _size(path: Path) -> int:
    """Bytes of a file, or of all in a folder of shards."""
    inside = path.iterdir() if path.is_dir() else (path,)
    return sum(one.stat().st_size for one in inside)


def drop(workspace: Workspace, results: list[SharedResults]) -> int:
    """Remove the old ones of some results; how many bytes that frees.

    Raises:
        InputError: a run is at work, or waits.
    """
    with store(workspace) as connection:
        busy = [row.id for row in list_runs(connection) if row.state not in FINISHED]
    if busy:
        raise InputError(f"run {busy[0]} is at work or waits: clean when it is done")
    for one in results:
        for path in one.old:
            remove(path)
    return sum(one.old_size for one in results)
