"""Tables of labels in the files that people have: CSV in any dialect and encoding, TSV, JSON lines, Parquet,
and the files of annotation tools."""

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sharpeye.config import SourceOptions
from sharpeye.data.annotations import read_annotations
from sharpeye.data.folders import linked
from sharpeye.data.images import Encoded, Unreadable
from sharpeye.data.records import Record, Source
from sharpeye.data.remote import RemoteFile, is_address, joined
from sharpeye.errors import InputError
from sharpeye.files import file_stamp

TEXT_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson")
ANNOTATION_SUFFIXES = (".json", ".xml")
TABLE_SUFFIXES = (
    *TEXT_SUFFIXES,
    *(suffix + ".gz" for suffix in TEXT_SUFFIXES),
    ".parquet",
    *ANNOTATION_SUFFIXES,
)
# What stands for an image where a table is shown.
PICTURE = "(image)"
SEPARATORS = (",", ";", "\t", "|")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "filepath", "image_path", "image")
LABEL_COLUMNS = ("label", "given_label", "class", "target", "labels", "class_name", "category")
# Of a table's text, unpacked.
TEXT_BYTES = 2**31


def kind_of(path: PurePath) -> str:
    """The suffix of a table, in small letters and without `.gz`; empty where it is none."""
    name = path.name.lower()
    suffix = next((suffix for suffix in TABLE_SUFFIXES if name.endswith(suffix)), "")
    return suffix.removesuffix(".gz")


def read_table(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A table as its file writes it, every field an object, missing ones None or NaN; and notes on how it was
    read.

    Raises:
        InputError: names the file, and the line where one is wrong.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        with readable(path, "Parquet"):
            # What pandas noted in the file of its index is left aside: it may be damaged.
            return pq.read_table(path).to_pandas(ignore_metadata=True).astype(object), ()
    if kind in ANNOTATION_SUFFIXES:
        return read_annotations(path)
    text, notes = _text(path)
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(path, text), notes
    return _separated(path, text, kind), notes


def first_rows(path: Path, count: int = 5) -> pd.DataFrame | None:
    """The first rows of a table, images as a word; None where the file is none.

    Raises:
        InputError: it is a table, and cannot be read.
    """
    kind = kind_of(path)
    if not kind or not path.is_file():
        return None
    if kind != ".parquet":
        return read_table(path)[0].head(count)
    with readable(path, "Parquet"):
        batch = next(pq.ParquetFile(path).iter_batches(count), None)
    rows = pd.DataFrame([] if batch is None else batch.to_pylist(), dtype=object)
    return rows.map(lambda value: PICTURE if isinstance(value, bytes | dict) else value)


def _text(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text of a file, by its byte order mark, else UTF-8, else Windows-1252, which reads any bytes."""
    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                content = file.read(TEXT_BYTES + 1)
        else:
            with path.open("rb") as file:
                content = file.read(TEXT_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a readable file ({error})") from error
    if len(content) > TEXT_BYTES:
        raise InputError(f"{path}: more than {TEXT_BYTES:,} bytes of text; give the table as Parquet")
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    encoding = next((name for mark, name in marks.items() if content.startswith(mark)), None)
    if encoding is None and content[1:2] == b"\0":
        encoding = "utf-16-le"
    if encoding is None and content[:1] == b"\0":
        encoding = "utf-16-be"
    try:
        return content.decode(encoding or "utf-8"), ()
    except UnicodeDecodeError as error:
        if encoding:
            raise InputError(f"{path}: not a readable text file ({error})") from error
    return content.decode("cp1252", "replace"), (f"{path.name} is not UTF-8: it was read as Windows-1252.",)


def _separated(path: Path, text: str, kind: str) -> pd.DataFrame:
    header = text.partition("\n")[0]
    separator = "\t" if kind in (".tsv", ".tab") else max(SEPARATORS, key=header.count)
    try:
        table = pd.read_csv(
            io.StringIO(text), sep=separator, dtype=object, keep_default_na=False, na_values=[""]
        )
    except (OSError, ValueError, OverflowError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: not a readable table ({str(error).strip()})") from error
    return table.rename(columns=lambda name: str(name).strip())


def _json_lines(path: Path, text: str) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f'{path}, line {number}: expected an object such as {{"file_name": …}}')
        if "\\ud" in line.lower():
            # Halves of characters that were cut apart, which no file can hold.
            row = json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pd.DataFrame(
        {name: np.array([row.get(name) for row in rows] + [None], dtype=object)[:-1] for name in names}
    )


def manifest(path: Path, options: SourceOptions) -> Source:
    """A table of image paths and labels, optionally with true labels and splits.

    Args:
        path: of the table. Image paths are relative to its folder, or to `options.image_root`.
        options: how to read it.

    Raises:
        InputError: it cannot be read, or has no such column.
    """
    table, notes = read_table(path)
    columns = [str(name) for name in table.columns]
    path_column = column_of(path, columns, options.path_column, PATH_COLUMNS, "image path", "--path-column")
    label_column = label_column_of(path, columns, options)
    true_column = true_column_of(path, columns, options)
    split_column = found("split", columns)
    paths, labels = table[path_column], table[label_column]
    none = pd.Series([None] * len(table), dtype=object)
    true_labels = table[true_column] if true_column else none
    wanted = options.image_root or ""
    root = wanted if is_address(wanted) else Path(wanted or path.parent).expanduser().resolve()

    def read(rows: np.ndarray) -> Iterator[Record]:
        for row in rows:
            name = str(paths.iloc[row])
            image = _image_at(root, name, options.follow_links)
            yield Record(name, image, labels.iloc[row], true_labels.iloc[row])

    stamps = [
        file_stamp(file) if isinstance(file := _image_at(root, str(name), True), Path) else None
        for name in paths
    ]
    stamp = [
        *file_stamp(path),
        path_column,
        label_column,
        true_column,
        str(options.image_root),
        options.follow_links,
        stamps,
    ]
    splits = table[split_column].to_numpy(dtype=object) if split_column else None
    return Source(str(path), len(table), None, read, stamp, splits, notes=notes)


def _image_at(root: Path | str, name: str, follow_links: bool) -> Encoded:
    """The file that a field of a table names: relative, absolute, `~`, `file://`, with backslashes, or an
    address.

    Args:
        root: folder of the images, or its address.
        name: as the table has it.
        follow_links: take files outside of the root, and addresses elsewhere, too.
    """
    if "\0" in name:
        return Unreadable("its path holds a zero byte; no file has such a name")
    if is_address(name):
        # A table must not make this machine ask for what its owner may not.
        if follow_links or (isinstance(root, str) and name.startswith(root.rstrip("/") + "/")):
            return RemoteFile(name)
        return Unreadable("an address elsewhere: these are followed with --follow-links")
    if isinstance(root, str):
        below = PurePosixPath(name.replace("\\", "/"))
        if below.is_absolute() or ".." in below.parts or ":" in below.parts[0]:
            return Unreadable(f"leaves the folder of the images {root}")
        return RemoteFile(joined(root, below))
    try:
        if name.lower().startswith("file:"):
            name = unquote(urlsplit(name).path)
        elif name.startswith("~"):
            name = str(Path(name).expanduser())
        file = root / name
        if "\\" in name and not file.exists():
            file = root / name.replace("\\", "/")
    except (OSError, RuntimeError, ValueError):
        return Unreadable("no file has such a name")
    if not follow_links and not _below(root, file):
        return Unreadable(f"leaves the folder of the images {root}: give --image-root")
    return linked(root, file, follow_links)


def _below(root: Path, file: Path) -> bool:
    """Whether a path stays below a folder, links aside."""
    return Path(os.path.normpath(file)).is_relative_to(root)


def found(name: str, columns: list[str]) -> str | None:
    """The column of a name; else the one that differs from it in capitals only."""
    if name in columns:
        return name
    return next((column for column in columns if column.strip().lower() == name.lower()), None)


def column_of(
    path: Path, columns: list[str], wanted: str | None, usual: tuple[str, ...], what: str, option: str
) -> str:
    """The column that an option names, or the first usual one.

    Raises:
        InputError: there is none.
    """
    for name in (wanted,) if wanted else usual:
        if column := found(name, columns):
            return column
    missing = f"column {wanted!r}" if wanted else f"{what} column (one of {', '.join(usual)})"
    known = ", ".join(columns[:30]) + (", …" if len(columns) > 30 else "")
    raise InputError(f"{path}: no {missing}; its columns are {known}: choose one with {option}")


def label_column_of(path: Path, columns: list[str], options: SourceOptions) -> str:
    """The column of the given labels; raises InputError where there is none."""
    return column_of(path, columns, options.label_column, LABEL_COLUMNS, "label", "--label-column")


def true_column_of(path: Path, columns: list[str], options: SourceOptions) -> str | None:
    """The column of the true labels, if any; raises InputError where a named one is not there."""
    wanted = options.true_label_column
    if wanted:
        return column_of(path, columns, wanted, (), "true label", "--true-label-column")
    return found("true_label", columns)


def read_parquet_schema(path: Path) -> pa.Schema:
    """The Arrow schema of a Parquet file; raises InputError that names the file."""
    with readable(path, "Parquet"):
        return named(pq.read_schema(path))


def named(schema: pa.Schema) -> pa.Schema:
    """A schema, once the names of its columns are known to be text; raises ValueError where they are not."""
    list(schema.names)
    return schema


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """What Arrow raises inside the block becomes an InputError that names the file, and what it should be."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable {kind} file ({error})") from error
