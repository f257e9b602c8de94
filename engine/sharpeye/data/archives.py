"""Archives as sources: zip and tar files of class folders, and shards of WebDataset."""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from sharpeye.data.folders import tree_source
from sharpeye.data.images import Encoded, Unreadable, unread_reason
from sharpeye.data.layout import read_layout
from sharpeye.data.records import Record, Source
from sharpeye.errors import InputError
from sharpeye.files import file_stamp

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Of one file in an archive, once it is unpacked.
MEMBER_BYTES = 2**28
# What reading a damaged archive raises.
BROKEN = (
    OSError,
    EOFError,
    OverflowError,
    RuntimeError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
# Of the file that holds a sample's label in WebDataset.
LABEL_SUFFIX = ".cls"
LABEL_BYTES = 1000


def archive(path: Path) -> Source:
    """A zip or tar file of class folders, or of splits of these; or a shard of WebDataset. Nothing is
    unpacked to the disk.

    Raises:
        InputError: no readable archive, or there are no images in it.
    """
    inside: dict[PurePosixPath, str] = {}
    skipped = []
    with _opened(path) as (names, _):
        if any(name.endswith(LABEL_SUFFIX) for name in names):
            return web_dataset(str(path), [path])
        for name in names:
            member = PurePosixPath(name.replace("\\", "/"))
            if member.is_absolute() or ".." in member.parts:
                skipped.append((name, "its name leaves the archive"))
            else:
                inside[member] = name

    @contextmanager
    def images() -> Iterator[Callable[[PurePosixPath], Encoded]]:
        with _opened(path) as (_, read):
            yield lambda member: read(inside[member])

    return tree_source(str(path), read_layout(list(inside)), skipped, images, file_stamp(path))


def web_dataset(name: str, paths: list[Path]) -> Source:
    """Shards of WebDataset: tar files in which files of one name make a sample, `0001.jpg` beside `0001.cls`,
    a text that holds the label.

    Raises:
        InputError: a shard cannot be read, or no sample has an image and a label.
    """
    samples: list[tuple[Path, str, str]] = []
    skipped: list[tuple[str, str]] = []
    for path in paths:
        with _opened(path) as (names, read):
            labels = {name.removesuffix(LABEL_SUFFIX): name for name in names if name.endswith(LABEL_SUFFIX)}
            for member in names:
                key = member.removesuffix(PurePosixPath(member).suffix)
                if member.endswith(LABEL_SUFFIX) or unread_reason(PurePosixPath(member).suffix):
                    continue
                if key not in labels:
                    skipped.append((f"{path.name}/{member}", f"there is no {key}{LABEL_SUFFIX} beside it"))
                    continue
                content = read(labels[key])
                text = content[:LABEL_BYTES].decode("utf-8", "replace") if isinstance(content, bytes) else ""
                samples.append((path, member, text.strip()))
    if not samples:
        raise InputError(f"{name}: no image with a {LABEL_SUFFIX} file beside it")

    def records(rows: np.ndarray) -> Iterator[Record]:
        for path, own in groupby(rows, lambda row: samples[row][0]):
            with _opened(path) as (_, read):
                for row in own:
                    _, member, label = samples[row]
                    yield Record(f"{path.name}/{member}", read(member), label)

    stamp = [file_stamp(path) for path in paths]
    return Source(name, len(samples), None, records, stamp, skipped=tuple(skipped))


def _opened(path: Path) -> AbstractContextManager[tuple[list[str], Callable[[str], Encoded]]]:
    """Names of the files in an archive, and how to read one, while it is open."""
    return _zip(path) if path.suffix.lower() == ".zip" else _tar(path)


@contextmanager
def _zip(path: Path) -> Iterator[tuple[list[str], Callable[[str], Encoded]]]:
    """Names of the files in a zip file, and how to read one; raises InputError where it is none."""
    try:
        packed = zipfile.ZipFile(path)
    except BROKEN as error:
        raise InputError(f"{path}: not a readable zip file ({error})") from error

    def read(name: str) -> Encoded:
        try:
            with packed.open(name) as member:
                return _bounded(member)
        except BROKEN as error:
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
        except BROKEN as error:
            raise InputError(f"{path}: not a readable tar file ({error})") from error

        def read(name: str) -> Encoded:
            try:
                content = packed.extractfile(members[name])
                return Unreadable("not a file") if content is None else _bounded(content)
            except BROKEN as error:
                return Unreadable(f"cannot be unpacked ({error})")

        with packed:
            yield list(members), read


def _bounded(file: IO[bytes]) -> Encoded:
    content = file.read(MEMBER_BYTES + 1)
    if len(content) > MEMBER_BYTES:
        return Unreadable(f"larger than {MEMBER_BYTES:,} bytes once it is unpacked")
    return content
