"""A folder of class folders, or an archive of one, as a source."""

import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from sharpeye.data.images import Encoded, Unreadable
from sharpeye.data.layout import Entry, Layout, is_junk, read_layout
from sharpeye.data.records import Record, Source
from sharpeye.errors import InputError
from sharpeye.files import file_stamp

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Of one file in an archive, once it is unpacked.
MEMBER_BYTES = 2**28


def class_folders(root: Path, follow_links: bool = False) -> Source:
    """A folder of class folders, ROOT/CLASS/….jpg, or of splits of these; see `read_layout`.

    Args:
        root: the folder.
        follow_links: read also what symbolic links lead to outside the folder, and linked folders.

    Raises:
        InputError: there are no images in it.
    """
    paths, skipped = walk(root, follow_links)

    layout = read_layout(paths)

    @contextmanager
    def images() -> Iterator[Callable[[PurePosixPath], Encoded]]:
        yield lambda path: linked(root, root / path, follow_links)

    stamp = [follow_links, *((str(entry.path), *file_stamp(root / entry.path)) for entry in layout.entries)]
    return _source(root, layout, skipped, images, stamp)


def linked(root: Path, file: Path, follow_links: bool) -> Encoded:
    """A file below a folder, unless it is a link that leads nowhere, or out of the folder."""
    try:
        inside = follow_links or file.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):
        return Unreadable("a link that leads to itself, or a name that no file has")
    if not inside:
        return Unreadable(f"leads out of {root}: links are followed with --follow-links")
    return file


def walk(root: Path, follow_links: bool) -> tuple[list[PurePosixPath], list[tuple[str, str]]]:
    """All files below a folder, relative to it, and what could not be looked into."""
    files: list[PurePosixPath] = []
    skipped: list[tuple[str, str]] = []
    visited: set[str] = set()

    def unreadable(error: OSError) -> None:
        skipped.append((_relative(root, str(error.filename)), f"unreadable folder ({error.strerror})"))

    for folder, below, names in os.walk(root, onerror=unreadable, followlinks=follow_links):
        at = PurePosixPath(Path(folder).relative_to(root).as_posix())
        if follow_links:
            # A link to a folder above would be walked for ever.
            place = os.path.realpath(folder)
            if place in visited:
                below.clear()
                continue
            visited.add(place)
        below[:] = sorted(name for name in below if not is_junk(PurePosixPath(name)))
        for name in below:
            if not follow_links and (Path(folder) / name).is_symlink():
                skipped.append((str(at / name), "a link to a folder: these are followed with --follow-links"))
        files += [at / name for name in names]
    return files, skipped


def archive(path: Path) -> Source:
    """A zip or tar file of class folders, or of splits of these. Nothing is unpacked to the disk.

    Raises:
        InputError: no readable archive, or there are no images in it.
    """
    opened = _zip if path.suffix.lower() == ".zip" else _tar
    inside: dict[PurePosixPath, str] = {}
    skipped = []
    with opened(path) as (names, _):
        for name in names:
            member = PurePosixPath(name.replace("\\", "/"))
            if member.is_absolute() or ".." in member.parts:
                skipped.append((name, "its name leaves the archive"))
            else:
                inside[member] = name

    @contextmanager
    def images() -> Iterator[Callable[[PurePosixPath], Encoded]]:
        with opened(path) as (_, read):
            yield lambda member: read(inside[member])

    return _source(path, read_layout(list(inside)), skipped, images, file_stamp(path))


@contextmanager
def _zip(path: Path) -> Iterator[tuple[list[str], Callable[[str], Encoded]]]:
    """Names of the files in a zip file, and how to read one; raises InputError where it is none."""
    try:
        packed = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable zip file ({error})") from error

    def read(name: str) -> Encoded:
        try:
            with packed.open(name) as member:
                return _bounded(member)
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            return Unreadable(f"cannot be unpacked ({error})")

    with packed:
        yield [info.filename for info in packed.infolist() if not info.is_dir()], read


@contextmanager
def _tar(path: Path) -> Iterator[tuple[list[str], Callable[[str], Encoded]]]:
    """The same of a tar file."""
    # Opened here, since tarfile leaves the file open where it is no tar file.
    with path.open("rb") as file:
        try:
            packed = tarfile.open(fileobj=file)  # noqa: SIM115
            members = {member.name: member for member in packed if member.isfile()}
        except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
            raise InputError(f"{path}: not a readable tar file ({error})") from error

        def read(name: str) -> Encoded:
            try:
                content = packed.extractfile(members[name])
                return Unreadable("not a file") if content is None else _bounded(content)
            except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
                return Unreadable(f"cannot be unpacked ({error})")

        with packed:
            yield list(members), read


def _bounded(file: IO[bytes]) -> Encoded:
    content = file.read(MEMBER_BYTES + 1)
    if len(content) > MEMBER_BYTES:
        return Unreadable(f"larger than {MEMBER_BYTES:,} bytes once it is unpacked")
    return content


def _source(
    root: Path,
    layout: Layout,
    skipped: list[tuple[str, str]],
    images: Callable[[], AbstractContextManager[Callable[[PurePosixPath], Encoded]]],
    stamp: object,
) -> Source:
    """The source of a tree of files; inside `images()`, each can be had."""
    entries, unread = layout.entries, (*skipped, *layout.skipped)
    if not entries:
        text = f"{root}: no images found; expected one folder per class, such as {root.name}/cat/1.jpg"
        first = f" (first of {len(unread):,} files: {unread[0][0]}: {unread[0][1]})" if unread else ""
        raise InputError(text + first)
    names = [_encodable(entry) for entry in entries]

    def read(rows: np.ndarray) -> Iterator[Record]:
        with images() as image_of:
            for row in rows:
                yield Record(names[row], image_of(entries[row].path), entries[row].label)

    splits = np.array([entry.split for entry in entries], dtype=object)
    return Source(
        str(root),
        len(entries),
        tuple(sorted({entry.label for entry in entries})),
        read,
        stamp,
        splits if entries[0].split is not None else None,
        skipped=unread,
        notes=layout.notes,
    )


def _encodable(entry: Entry) -> str:
    name = str(entry.path)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name!a}: the name is not UTF-8; rename it") from error
    return name


def _relative(root: Path, path: str) -> str:
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
