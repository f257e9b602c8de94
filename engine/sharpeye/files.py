"""Files that are either whole or not there: written to a temporary name, then renamed."""

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED_SECONDS = 24 * 3600.0
TEMPORARY = re.compile(r"\..+-[0-9a-f]{12}\.tmp")


def file_stamp(path: Path) -> tuple[str, int, int]:
    """Name, bytes and time of change of a file, (name, −1, −1) where it is not there: changes when the
    file does."""
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
        _write_through(temporary)
        os.replace(temporary, path)
        _write_through(path.parent)
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
            for inside in (*temporary.rglob("*"), temporary):
                _write_through(inside)
            os.replace(temporary, path)
            _write_through(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove temporary files and folders that a killed process left below a folder, once they are older
    than ABANDONED_SECONDS."""
    with suppress(OSError):  # others work in that folder, too
        for path in [path for path in folder.rglob(".*.tmp") if TEMPORARY.fullmatch(path.name)]:
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as it is there and can be removed."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}.tmp")


def _write_through(path: Path) -> None:
    """Have a file or folder on the disk before what refers to it: else a power cut may leave the name with
    nothing behind it."""
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written to but not read
        return
    try:
        os.fsync(number)
    finally:
        os.close(number)
