"""What a tree of files says of its images: their classes and splits. Of folders and archives alike."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from sharpeye.data.images import unread_reason

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "validation",
    "testing": "validation",
    "trusted": "trusted",
}
# What people add to the name of a split: training_set, seg_train, test-images.
FILLERS = {"set", "sets", "seg", "split", "data", "dataset", "image", "images", "img", "imgs", "folder"}
BESIDE = "lies beside the class folders, not in one"
JUNK = re.compile(r"\..*|@.*|__MACOSX|#recycle|\$RECYCLE\.BIN|System Volume Information|lost\+found")


@dataclass(frozen=True)
class Entry:
    """An image file.

    Attributes:
        path: below the root.
        folder: that its class folder lies in, below the root.
        label: name of its class folder.
        split: name of its split folder.
    """

    path: PurePosixPath
    folder: PurePosixPath
    label: str
    split: str | None


@dataclass(frozen=True)
class Layout:
    """The images of a tree of files.

    Attributes:
        entries: in order of their paths.
        skipped: files in class folders that are not read, and why.
        notes: what people should know of how folders were taken.
    """

    entries: tuple[Entry, ...]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def split_name(name: object) -> str | None:
    """`train`, `validation` or `trusted` where a name means a split, as `Training_Set` does; else None."""
    words = [word for word in re.split(r"[\W_]+", str(name).strip().lower()) if word]
    named = [word for word in words if word in SPLIT_NAMES]
    if len(named) != 1 or any(word not in FILLERS for word in words if word not in SPLIT_NAMES):
        return None
    return SPLIT_NAMES[named[0]]


def is_junk(path: PurePosixPath) -> bool:
    """Whether a file or a folder above it is hidden, or left behind by a system or a program."""
    return any(JUNK.fullmatch(part) for part in path.parts)


def read_layout(paths: list[PurePosixPath]) -> Layout:
    """The layout CLASS/….jpg, or SPLIT/CLASS/….jpg, of files.

    Folders around these (`data/train/cat/1.jpg`, `seg_train/seg_train/sea/1.jpg`) are passed over. Beside
    split folders, other folders are left out, with a note.

    Args:
        paths: of all files, relative to the root.
    """
    files = sorted(path for path in paths if not is_junk(path))
    wrapper = _wrapper(files)
    inner = [path.relative_to(wrapper) for path in files]
    notes: list[str] = []
    splits = _split_folders(inner)
    entries, skipped = [], []
    left_out: dict[str, None] = {}
    for path, below in zip(files, inner, strict=True):
        if len(below.parts) < 2:
            if _is_image(path):
                skipped.append((str(path), BESIDE))
            continue
        split, folder = None, wrapper
        if splits:
            if below.parts[0] not in splits:
                left_out[below.parts[0]] = None
                continue
            split = below.parts[0]
            folder, below = wrapper / splits[split], below.relative_to(splits[split])
            if len(below.parts) < 2:
                skipped.append((str(path), BESIDE))
                continue
        if _is_image(path):
            entries.append(Entry(path, folder, below.parts[0], split))
        else:
            skipped.append((str(path), unread_reason(path.suffix)))
    if splits:
        notes += [
            f"The folder {name}/ beside the splits {', '.join(f'{one}/' for one in splits)} was left out."
            for name in left_out
        ]
    else:
        classes = {entry.label for entry in entries}
        notes += [
            f"The folder {name}/ was read as a class, though it is called like a split."
            for name in sorted(classes)
            if split_name(name)
        ]
    if wrapper.parts:
        notes.append(f"The class folders were found in {wrapper}/.")
    return Layout(tuple(entries), tuple(skipped), tuple(notes))


def _is_image(path: PurePosixPath) -> bool:
    return not unread_reason(path.suffix)


def _wrapper(files: list[PurePosixPath]) -> PurePosixPath:
    """The folder that all images lie in, where the class folders are further down: `.` for most."""
    wrapper = PurePosixPath()
    images = [path for path in files if _is_image(path)]
    while images:
        below = [path.relative_to(wrapper).parts for path in images]
        first = {parts[0] for parts in below}
        if len(first) > 1 or any(len(parts) < 3 for parts in below):
            break
        if split_name(next(iter(first))):
            break
        wrapper = wrapper / next(iter(first))
    return wrapper


def _split_folders(files: list[PurePosixPath]) -> dict[str, PurePosixPath]:
    """Split folders at the top, and where their class folders lie; none where there is no training split with
    class folders."""
    found: dict[str, PurePosixPath] = {}
    for name in dict.fromkeys(path.parts[0] for path in files if len(path.parts) > 1):
        if split_name(name) is None:
            continue
        images = [path for path in files if path.parts[0] == name and _is_image(path)]
        place = PurePosixPath(name)
        # Some archives hold seg_train/seg_train/….
        at = 1
        while images and all(len(path.parts) > at + 2 and split_name(path.parts[at]) for path in images):
            place, at = place / images[0].parts[at], at + 1
        if images and any(len(path.relative_to(place).parts) > 1 for path in images):
            found[name] = place
    trains = any(split_name(name) in ("train", "trusted") for name in found)
    return found if trains else {}
