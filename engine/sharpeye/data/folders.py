"""A folder of class folders as a source."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from sharpeye.data.images import Encoded, Unreadable
from sharpeye.data.layout import Entry, Layout, is_junk, read_layout, split_name
from sharpeye.data.records import Record, Source
from sharpeye.errors import InputError
from sharpeye.files import file_stamp


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
    return tree_source(str(root), layout, skipped, images, stamp)


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
        skipped.append((relative(root, str(error.filename)), f"unreadable folder ({error.strerror})"))

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


def tree_source(
    name: str,
    layout: Layout,
    skipped: list[tuple[str, str]],
    images: Callable[[], AbstractContextManager[Callable[[PurePosixPath], Encoded]]],
    stamp: object,
) -> Source:
    """The source of a tree of files, as messages call it; inside `images()`, each can be had."""
    entries, unread = layout.entries, (*skipped, *layout.skipped)
    if not entries:
        example = f"{PurePosixPath(name).name}/cat/1.jpg"
        text = f"{name}: no images found; expected one folder per class, such as {example}"
        first = f" (first of {len(unread):,} files: {unread[0][0]}: {unread[0][1]})" if unread else ""
        raise InputError(text + first)
    classes = sorted({entry.label for entry in entries})
    if all(split_name(name) for name in classes):
        listed = ", ".join(f"{name}/" for name in classes)
        raise InputError(
            f"{name}: {listed} hold images, and no class folders; give a table of paths and labels instead"
        )
    names = [_encodable(entry) for entry in entries]

    def read(rows: np.ndarray) -> Iterator[Record]:
        with images() as image_of:
            for row in rows:
                yield Record(names[row], image_of(entries[row].path), entries[row].label)

    splits = np.array([entry.split for entry in entries], dtype=object)
    return Source(
        name,
        len(entries),
        tuple(classes),
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


def relative(root: Path, path: str) -> str:
    """A path relative to a folder, where it lies below it."""
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
