"""Files that are either whole or not there: written to a temporary name, then renamed."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def absolute(spec: str | None) -> str | None:
    """An existing path as an absolute one, so that it means the same from any folder; anything else as it is."""
    return str(Path(spec).expanduser().resolve()) if spec and Path(spec).expanduser().exists() else spec


def file_stamp(path: Path) -> tuple[str, int, int]:
    """Name, bytes and time of change of a file, (name, −1, −1) where it is not there: changes when the file does."""
    try:
        state = path.stat()
    except OSError:
        return (path.name, -1, -1)
    return (path.name, state.st_size, state.st_mtime_ns)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success rename it to `path`, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, on failure remove it.

    Where another process has put a folder at `path` meanwhile, that one is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        if not path.exists():
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}.tmp")
