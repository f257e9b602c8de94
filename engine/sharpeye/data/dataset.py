"""Labelled images, decoded once to a compact cache on disk and memory-mapped from there."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from sharpeye.data.images import CONVERSIONS, BadImage, Decoded, Measures, decode, size_of
from sharpeye.data.layout import SPLIT_NAMES, split_name
from sharpeye.data.records import (
    Record,
    Source,
    is_missing,
    label_problem,
    label_text,
    ordered_names,
    split_names,
)
from sharpeye.errors import InputError
from sharpeye.files import replacing_folder

# So that few images that come as bytes are in memory at once.
DECODE_CHUNK = 64
# Changes when what `ingest` writes does.
LAYOUT = 6

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class LabeledImages:
    """Images with their given labels, whatever the source.

    Attributes:
        name: how messages call it.
        ids: unique names of the images, shape (N,).
        images: what the model is fed: uint8 RGB, shape (N, S, S, 3), or features, float16, (N, d); usually a
            read-only memory map. Features have no columns before they are computed.
        labels: given labels, int64 in [0, C), shape (N,).
        true_labels: true labels, shape (N,), or None; for benchmarks only, no method reads them. −1 where
            unknown.
        class_names: C names.
        splits: "train", "trusted" (training images with trusted labels), "validation" or "", shape (N,).
        hashes: content hash of the decoded pixels, shape (N,).
        skipped: rows left out so far, columns id and reason.
        folder: of the decoded dataset.
        rows: of the images in that folder's table, shape (N,); −1 for those that lie elsewhere, see `joined`.
        trusted: the label of the same picture in the validation split where that is another one, else −1,
            shape (N,).
        numbered: whether a number as a label is a position among the class names.
        notes: what people should know of how the images were read.
    """

    name: str
    ids: np.ndarray
    images: "np.ndarray | SelectedImages"
    labels: np.ndarray
    true_labels: np.ndarray | None
    class_names: tuple[str, ...]
    splits: np.ndarray
    hashes: np.ndarray
    skipped: pd.DataFrame
    folder: Path
    rows: np.ndarray
    trusted: np.ndarray
    numbered: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, keep: np.ndarray, reason: str | None = None) -> "LabeledImages":
        """The images that `keep` (bool, shape (N,)) selects.

        With a reason, the others are added to `skipped`.
        """
        skipped = self.skipped
        if reason is not None:
            left_out = pd.DataFrame({"id": self.ids[~keep], "reason": reason})
            skipped = pd.concat([skipped, left_out], ignore_index=True)
        return replace(
            self,
            ids=self.ids[keep],
            images=self.images if keep.all() else SelectedImages(self.images, np.flatnonzero(keep)),
            labels=self.labels[keep],
            true_labels=None if self.true_labels is None else self.true_labels[keep],
            splits=self.splits[keep],
            hashes=self.hashes[keep],
            skipped=skipped,
            rows=self.rows[keep],
            trusted=self.trusted[keep],
        )

    def key(self) -> str:
        """Identity of the content: images and given labels, in order."""
        content = hashlib.sha256("\n".join(self.hashes).encode())
        content.update(self.labels.tobytes())
        content.update("\n".join(self.class_names).encode())
        return content.hexdigest()[:16]

    def class_counts(self) -> np.ndarray:
        """Images per class, shape (C,)."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def class_shares(self) -> np.ndarray:
        """Share of the images in each class, shape (C,)."""
        shares: np.ndarray = self.class_counts() / len(self)
        return shares


class SelectedImages:
    """Rows of an image array by number, read only when asked for: a subset of a memory map without a copy."""

    def __init__(self, images: "Images", rows: np.ndarray):
        self.images: np.ndarray | JoinedImages = (
            images.images if isinstance(images, SelectedImages) else images
        )
        self.rows: np.ndarray = images.rows[rows] if isinstance(images, SelectedImages) else rows

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.images[self.rows[rows]]


class JoinedImages:
    """Two image arrays of equal size, one after the other, without a copy."""

    def __init__(self, first: "Images", second: "Images"):
        self.first, self.second = first, second

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.first.shape[1:])

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        early = rows < len(self.first)
        some = self.first[rows[early]]
        pixels = np.empty((len(rows), *self.shape[1:]), dtype=some.dtype)
        pixels[early] = some
        pixels[~early] = self.second[rows[~early] - len(self.first)]
        return pixels


def joined(images: LabeledImages, others: LabeledImages) -> LabeledImages:
    """The images of two sets of the same classes, one after the other; those of the second lie in another
    folder."""
    return replace(
        images,
        ids=np.concatenate([images.ids, others.ids]),
        images=SelectedImages(
            JoinedImages(images.images, others.images), np.arange(len(images) + len(others))
        ),
        labels=np.concatenate([images.labels, others.labels]),
        true_labels=None,
        splits=np.concatenate([images.splits, others.splits]),
        hashes=np.concatenate([images.hashes, others.hashes]),
        rows=np.concatenate([images.rows, np.full(len(others), -1)]),
        trusted=np.concatenate([images.trusted, others.trusted]),
    )


def fingerprint(source: Source, image_size: int | None, limit: int | None) -> str:
    """Identity of what `ingest` would write; changes when a file of the source changes."""
    text = json.dumps([LAYOUT, source.name, source.stamp, source.class_names, image_size, limit], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def natural_size(source: Source, limit: int = 256) -> int:
    """Largest side in pixels of the first images of a source; 0 when none can be opened."""

    def side(record: Record) -> int:
        try:
            return max(size_of(record.image))
        except BadImage:
            return 0

    first = islice(source.read(np.arange(min(source.count, limit))), limit)
    with ThreadPoolExecutor() as pool:
        # In parallel, since images elsewhere are waited for.
        return max((size for some in chunks(first, DECODE_CHUNK) for size in pool.map(side, some)), default=0)


def ingest(
    source: Source,
    cache: Path,
    image_size: int | None,
    limit: int | None = None,
    report: Report | None = None,
) -> LabeledImages:
    """Decode a source into `cache`/<fingerprint>/ unless it is there, and open it.

    Args:
        source: what to read.
        cache: folder of decoded datasets.
        image_size: pixels per side after scaling; None keeps previews only, for models that are fed features.
        limit: keep at most this many rows, evenly spaced over those that the source itself does not mark as
            validation; None keeps all.
        report: called with (images decoded, images in all).

    Raises:
        InputError: no usable image is left, or the disk has no room for the decoded images.
    """
    folder = cache / fingerprint(source, image_size, limit)
    if not folder.exists():
        rows = limited_rows(source, limit)
        needed = len(rows) * (image_size or 0) ** 2 * 3
        check_room(cache, needed, f"{source.name}: the decoded images", "--image-size or --limit")
        with replacing_folder(folder) as temporary:
            _decode_all(source, rows, temporary, image_size, report or (lambda done, total: None))
    return open_dataset(folder)


def limited_rows(source: Source, limit: int | None) -> np.ndarray:
    """The rows of a source that are read under a limit, see `ingest`, ascending."""
    validation = split_names(source) == "validation"
    limited = np.flatnonzero(~validation)
    if limit is not None and limit < len(limited):
        limited = limited[np.unique(np.linspace(0, len(limited) - 1, limit).astype(np.int64))]
    return np.sort(np.concatenate([limited, np.flatnonzero(validation)]))


def open_dataset(folder: Path) -> LabeledImages:
    """Open a decoded dataset: its table in memory, its images memory-mapped."""
    info = json.loads((folder / "dataset.json").read_text())
    table = pd.read_parquet(folder / "table.parquet")
    return LabeledImages(
        name=info["name"],
        ids=table["id"].to_numpy(dtype=object),
        images=open_pixels(folder, len(table), info["image_size"]),
        labels=table["label"].to_numpy(np.int64),
        true_labels=table["true_label"].to_numpy(np.int64) if "true_label" in table else None,
        class_names=tuple(info["class_names"]),
        splits=table["split"].to_numpy(dtype=object),
        hashes=table["hash"].to_numpy(dtype=object),
        skipped=pd.read_csv(folder / "skipped.csv", dtype=str, keep_default_na=False),
        folder=folder,
        rows=np.arange(len(table)),
        numbered=info["numbered"],
        trusted=np.full(len(table), -1, dtype=np.int64),
        notes=tuple(info["notes"]),
    )


def open_pixels(folder: Path, count: int, size: int | None) -> np.ndarray:
    """Pixels of a decoded dataset, (N, S, S, 3), memory-mapped; (N, 0) where it keeps none."""
    if size is None:
        return np.empty((count, 0), dtype=np.float16)
    return np.memmap(folder / "images.u8", dtype=np.uint8, mode="r", shape=(count, size, size, 3))


def measures_of(images: LabeledImages) -> pd.DataFrame:
    """The `Measures` of images, a column each, in their order."""
    names = [field.name for field in fields(Measures)]
    return pd.read_parquet(images.folder / "table.parquet", columns=names).iloc[images.rows]


def source_rows(images: LabeledImages) -> np.ndarray:
    """Rows of the source that images were read from, in their order, (N,)."""
    table = pd.read_parquet(images.folder / "table.parquet", columns=["source_row"])
    return table["source_row"].to_numpy()[images.rows]


def check_room(folder: Path, needed: int, what: str, options: str) -> None:
    """Raise InputError where a folder has no room for so many bytes; `options` ask for less."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{what} need {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free; "
            f"lower {options}, or move --workspace"
        )


def _decode_all(source: Source, rows: np.ndarray, folder: Path, size: int | None, report: Report) -> None:
    usable: list[Record] = []
    kept: list[dict[str, object]] = []
    skipped = list(source.skipped)
    taken_ids: set[str] = set()
    converted: Counter[str] = Counter()

    def attempt(record: Record) -> Decoded | str:
        try:
            return decode(record.image, size)
        except BadImage as problem:
            return str(problem)

    with (
        (folder / "images.u8").open("wb") as file,
        (folder / "previews.bin").open("wb") as previews,
        ThreadPoolExecutor() as pool,
    ):
        done = 0
        for chunk in chunks(source.read(rows), DECODE_CHUNK):
            for number, (record, decoded) in enumerate(zip(chunk, pool.map(attempt, chunk), strict=True)):
                row = rows[done + number]
                if isinstance(decoded, str):
                    skipped.append((record.id, decoded))
                    continue
                if problem := _row_problem(record, row, source, taken_ids):
                    skipped.append((record.id, problem))
                    continue
                taken_ids.add(record.id)
                converted.update(decoded.conversions)
                pixels = decoded.pixels.tobytes()
                if size is not None:
                    file.write(pixels)
                previews.write(decoded.preview)
                usable.append(replace(record, image=b""))
                kept.append(
                    {
                        "hash": hashlib.blake2b(pixels, digest_size=16).hexdigest(),
                        "preview_end": previews.tell(),
                        "source_row": row,
                        **asdict(decoded.measures),
                    }
                )
            done += len(chunk)
            report(done, len(rows))
    if not usable:
        rejected = skipped[len(source.skipped) :]
        first = f" (first: {rejected[0][0]}: {rejected[0][1]})" if rejected else ""
        raise InputError(f"{source.name}: no usable image among {len(rows):,} rows{first}")
    names, codes = _encode([r.label for r in usable], [r.true_label for r in usable], source)
    measured = pd.DataFrame(kept).astype({"perceptual_hash": np.uint64})
    splits = split_names(source)[measured["source_row"]]
    table = pd.DataFrame({"id": [r.id for r in usable], "label": codes[0], "split": splits}).join(measured)
    if any(not is_missing(r.true_label) for r in usable):
        table["true_label"] = codes[1]
    table.to_parquet(folder / "table.parquet", index=False)
    pd.DataFrame(skipped, columns=["id", "reason"]).to_csv(folder / "skipped.csv", index=False)
    notes = [f"{converted[kind]:,} images {what}." for kind, what in CONVERSIONS.items() if converted[kind]]
    info = {
        "name": source.name,
        "class_names": names,
        "image_size": size,
        "numbered": source.numbered,
        "notes": [*source.notes, *notes],
    }
    (folder / "dataset.json").write_text(json.dumps(info, indent=1))


def chunks(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    """Records in lists of a size, the last one shorter."""
    while chunk := list(islice(records, size)):
        yield chunk


def _row_problem(record: Record, row: int, source: Source, taken_ids: set[str]) -> str:
    """Why a row with a readable image cannot be used; empty when it can."""
    if record.id in taken_ids:
        return "another row has the same id"
    if source.class_names is None:
        if problem := label_problem(record.label):
            return problem
    elif is_missing(record.label):
        return "label is empty"
    elif _position(record.label, source.class_names, source.numbered) is None:
        return f"label {record.label!r} is outside the {len(source.class_names)} classes"
    split = None if source.splits is None else source.splits[row]
    if not is_missing(split) and split_name(split) is None:
        return f"split {split!r} is none of {', '.join(SPLIT_NAMES)}"
    return ""


def _position(label: object, names: tuple[str, ...], numbered: bool) -> int | None:
    """Index of a label: a class number where the source numbers its classes, else a class name."""
    if numbered and not isinstance(label, bool):
        if isinstance(label, (float, np.floating)) and float(label).is_integer():
            label = int(label)
        if isinstance(label, (int, np.integer)):
            return int(label) if 0 <= label < len(names) else None
    text = str(label)
    return names.index(text) if text in names else None


def _encode(
    labels: list[object], true_labels: list[object], source: Source
) -> tuple[list[str], list[np.ndarray]]:
    """Class names, and both label lists as positions in them (−1: missing or outside)."""
    names, numbered = source.class_names, source.numbered
    if names is None:
        labels = [label_text(label) for label in labels]
        true_labels = [None if label_problem(label) else label_text(label) for label in true_labels]
        names = tuple(ordered_names(map(str, labels)))
    known: dict[str, int] = {}

    def encoded(values: list[object]) -> np.ndarray:
        positions = np.full(len(values), -1, dtype=np.int64)
        for at, value in enumerate(values):
            if not is_missing(value):
                key = repr(value)
                if key not in known:
                    position = _position(value, names, numbered)
                    known[key] = -1 if position is None else position
                positions[at] = known[key]
        return positions

    return list(names), [encoded(labels), encoded(true_labels)]


Images = np.ndarray | SelectedImages | JoinedImages


def reopening(images: Images) -> Callable[[], Images]:
    """What opens images again in another process, of which their files alone are read; for memory maps, and
    what is selected of these or joined from these."""
    if isinstance(images, SelectedImages):
        whole, rows = reopening(images.images), images.rows
        return lambda: SelectedImages(whole(), rows)
    if isinstance(images, JoinedImages):
        first, second = reopening(images.first), reopening(images.second)
        return lambda: JoinedImages(first(), second())
    if isinstance(images, np.memmap) and images.filename is not None:
        name, kind, offset, shape = images.filename, images.dtype, images.offset, images.shape
        return lambda: np.memmap(name, kind, "r", offset, shape)
    return lambda: images
