"""Where images come from: one function a source, each returning a `Source` of records to decode."""

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, assert_never

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sharpeye.config import SourceOptions
from sharpeye.data.images import SUFFIXES, Encoded
from sharpeye.errors import InputError
from sharpeye.files import file_stamp
from sharpeye.specs import DemoSource, FileSource, SourceSpec, TorchvisionSource

PATH_COLUMNS = ("path", "file", "file_name", "filename", "filepath", "image_path")
LABEL_COLUMNS = ("label", "given_label", "class", "target")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "validation",
    "trusted": "trusted",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source before decoding; labels as the source writes them."""

    id: str
    image: Encoded
    label: object
    true_label: object = None
    split: object = None


@dataclass(frozen=True)
class Source:
    """A countable, re-readable stream of records.

    Attributes:
        name: how messages call it.
        count: number of rows.
        class_names: declared class names, or None where the labels themselves name the classes.
        read: row numbers, ascending -> the records of those rows, in that order.
        stamp: JSON-able state of the files behind it; changes when they change.
        has_splits: whether it marks rows as training or validation.
    """

    name: str
    count: int
    class_names: tuple[str, ...] | None
    read: Callable[[np.ndarray], Iterator[Record]]
    stamp: object
    has_splits: bool = False


def open_source(spec: SourceSpec, options: SourceOptions, default_split: str = "train") -> Source:
    """Open a source.

    Args:
        spec: which one.
        options: how to read it.
        default_split: `train` or `validation`, of a source that has both and whose spec names none.

    Raises:
        InputError: nothing is there, it is empty, or a column is missing.
    """
    if isinstance(spec, DemoSource):
        split = "train" if default_split == "train" else "validation"
        packaged = Path(str(resources.files("sharpeye.data.demo") / f"{split}.parquet"))
        return image_parquet(packaged, replace(options, true_label_column="true_label"))
    if isinstance(spec, TorchvisionSource):
        return torchvision_dataset(spec, default_split, options)
    if not isinstance(spec, FileSource):
        assert_never(spec)
    path = Path(spec.path).expanduser().resolve()
    if path.is_dir():
        source = class_folders(path)
    elif not path.exists():
        raise InputError(
            f"{spec}: no such file or folder "
            "(SPEC is demo, a folder, a .csv/.parquet file, or torchvision:NAME)"
        )
    elif path.suffix == ".csv":
        source = manifest(path, read_csv(path), options)
    elif path.suffix == ".parquet":
        schema = read_parquet_schema(path)
        encoded = _bytes_column(schema) is not None
        source = image_parquet(path, options) if encoded else manifest(path, pd.read_parquet(path), options)
    else:
        raise InputError(f"{spec}: expected a folder, a .csv or a .parquet file")
    if source.count == 0:
        raise InputError(f"{spec}: no images found")
    return source


def visible_folders(root: Path) -> list[Path]:
    """Folders directly below a folder, by name, without hidden ones."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def holds_splits(root: Path) -> bool:
    """Whether the folders below are splits (train/, validation/), and the class folders lie one level
    deeper."""
    folders = visible_folders(root)
    return bool(folders) and all(p.name.lower() in SPLIT_NAMES for p in folders)


def class_folders(root: Path) -> Source:
    """A folder of class folders, ROOT/CLASS/….jpg.

    Or of splits of these, ROOT/train/CLASS/… and ROOT/validation/CLASS/….
    """
    folders = visible_folders(root)
    by_split = holds_splits(root)
    pairs = [
        (f.name if by_split else None, c) for f in folders for c in (sorted(f.iterdir()) if by_split else [f])
    ]
    entries = [
        (file, folder.name, split)
        for split, folder in pairs
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]
    if not entries:
        raise InputError(
            f"{root}: no images found; expected one folder per class, such as {root.name}/cat/1.jpg"
        )
    for file, _, _ in entries:
        try:
            str(file).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{str(file)!a}: the name is not UTF-8; rename it") from error

    def read(rows: np.ndarray) -> Iterator[Record]:
        for row in rows:
            file, label, split = entries[row]
            if not file.resolve().is_relative_to(root):
                raise InputError(f"{file}: the link leaves the dataset's folder {root}")
            yield Record(file.relative_to(root).as_posix(), file, label, split=split)

    stamp = [(str(file.relative_to(root)), *file_stamp(file)) for file, _, _ in entries]
    return Source(
        str(root), len(entries), tuple(sorted({label for _, label, _ in entries})), read, stamp, by_split
    )


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV manifest; raises InputError that names the file."""
    try:
        return pd.read_csv(path, dtype=object, keep_default_na=False, na_values=[""])
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path}: not a readable CSV ({str(error).strip()})") from error


def manifest(path: Path, table: pd.DataFrame, options: SourceOptions) -> Source:
    """A table of paths (relative to the file's folder) and labels; optional true label and split columns."""
    columns = [str(name) for name in table.columns]
    path_column = _one_of(path, columns, None, PATH_COLUMNS, "image path")
    label_column = _one_of(path, columns, options.label_column, LABEL_COLUMNS, "label")
    true_column = _true_column(path, columns, options)
    root = path.parent.resolve()
    empty = pd.Series([None] * len(table), dtype=object)
    paths, labels = table[path_column], table[label_column]
    true_labels = table[true_column] if true_column else empty
    splits = table["split"] if "split" in columns else empty
    broken = paths.astype(str).str.contains("\0", regex=False).to_numpy()
    if broken.any():
        row = int(broken.argmax())
        raise InputError(
            f"{path}, row {row + 1}: path {paths.iloc[row]!r} holds a zero byte; no file has such a name"
        )

    def read(rows: np.ndarray) -> Iterator[Record]:
        for row in rows:
            name = str(paths.iloc[row])
            file = (root / name).resolve()
            if not file.is_relative_to(root):
                raise InputError(f"{path}, row {row + 1}: path {name!r} leaves the dataset's folder {root}")
            yield Record(name, file, labels.iloc[row], true_labels.iloc[row], splits.iloc[row])

    stamp = [*file_stamp(path), label_column, true_column, [file_stamp(root / str(name)) for name in paths]]
    return Source(str(path), len(table), None, read, stamp, "split" in columns)


def image_parquet(path: Path, options: SourceOptions) -> Source:
    """Parquet with encoded images in a binary column, or a struct with `bytes` (Hugging Face's layout)."""
    schema = read_parquet_schema(path)
    image_column = _bytes_column(schema)
    assert image_column is not None
    label_column = _one_of(path, schema.names, options.label_column, LABEL_COLUMNS, "label")
    true_column = _true_column(path, schema.names, options)
    id_column = "id" if "id" in schema.names else None
    split_column = "split" if "split" in schema.names else None
    columns = [
        c for c in dict.fromkeys((image_column, label_column, true_column, id_column, split_column)) if c
    ]
    count = pq.ParquetFile(path).metadata.num_rows

    def read(rows: np.ndarray) -> Iterator[Record]:
        file = pq.ParquetFile(path)
        start = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + size)] - start
            if len(wanted):
                for at, row in zip(
                    wanted, file.read_row_group(group, columns).take(wanted).to_pylist(), strict=True
                ):
                    image = row[image_column]
                    yield Record(
                        str(row[id_column]) if id_column else f"{start + at:06d}",
                        (image.get("bytes") if isinstance(image, dict) else image) or b"",
                        row[label_column],
                        row[true_column] if true_column else None,
                        row[split_column] if split_column else None,
                    )
            start += size

    stamp = [*file_stamp(path), label_column, true_column]
    return Source(
        str(path), count, _hugging_face_names(schema, label_column), read, stamp, split_column is not None
    )


def torchvision_dataset(spec: TorchvisionSource, default_split: str, options: SourceOptions) -> Source:
    """A torchvision classification dataset by class name.

    Downloads where that is possible, else reads the local root.
    """
    from sharpeye.vision import torchvision_module

    datasets = torchvision_module("datasets")
    name = spec.name
    split = spec.split or ("train" if default_split == "train" else "test")
    kind = getattr(datasets, name, None)
    if not inspect.isclass(kind):
        raise InputError(f"torchvision:{name}: torchvision.datasets has no such dataset")
    root = Path(options.torchvision_root or "~/.cache/torchvision").expanduser()
    parameters = inspect.signature(kind).parameters
    arguments: dict[str, object] = {"root": str(root)} if "root" in parameters else {}
    if "train" in parameters:
        arguments["train"] = split == "train"
    elif "split" in parameters:
        arguments["split"] = split
    if "download" in parameters:
        arguments["download"] = True
    try:
        dataset: Any = kind(**arguments)
    except Exception as error:  # torchvision raises whatever its download code meets
        raise InputError(
            f"torchvision:{name}: cannot be loaded or downloaded under {root} ({error})"
        ) from error
    classes = getattr(dataset, "classes", None)
    human = (
        read_human_labels(Path(options.human_labels), options.label_column) if options.human_labels else None
    )
    if human is not None and len(human) != len(dataset):
        raise InputError(
            f"{options.human_labels}: {len(human)} labels for the {len(dataset)} images of {name}"
        )

    def read(rows: np.ndarray) -> Iterator[Record]:
        for row in rows:
            image, label = dataset[int(row)]
            if human is None:
                yield Record(f"{row:06d}", image, int(label))
            else:
                yield Record(f"{row:06d}", image, int(human[row]), int(label))

    human_stamp = file_stamp(Path(options.human_labels)) if options.human_labels else None
    stamp = [name, split, str(root), len(dataset), options.label_column, human_stamp]
    names = tuple(str(c) for c in classes) if classes is not None else None
    return Source(f"torchvision:{name}/{split}", len(dataset), names, read, stamp)


def read_human_labels(path: Path, column: str | None) -> np.ndarray:
    """One column of the official CIFAR-10N/100N `.pt` file, without running what a pickle may hold.

    Returns:
        int64 array of given labels in CIFAR order.

    Raises:
        InputError: missing or hostile file, or no such column.
    """
    import torch

    core = np._core.multiarray  # type: ignore[attr-defined]
    dtypes = [type(np.dtype(code)) for code in ("int64", "int32", "int8", "uint8", "float64")]
    allowed: list[Any] = [
        *((core._reconstruct, f"numpy.{name}.multiarray._reconstruct") for name in ("core", "_core")),
        np.ndarray,
        np.dtype,
        *dtypes,
    ]
    if not path.is_file():
        raise InputError(f"{path}: no such file of human labels")
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds for a file it does not trust or cannot read
        reason = next(
            (line for line in str(error).splitlines() if "Unsupported" in line), str(error).splitlines()[0]
        ).strip()
        raise InputError(f"{path}: refused, not a plain file of label arrays ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a dictionary of label arrays, found {type(content).__name__}")
    names = ", ".join(str(key) for key in content)
    if column is None or column not in content:
        raise InputError(
            f"{path}: choose --label-column from: {names}" + (f" (not {column!r})" if column else "")
        )
    return np.asarray(content[column]).astype(np.int64).reshape(-1)


def read_parquet_schema(path: Path) -> pa.Schema:
    """The Arrow schema of a Parquet file; raises InputError that names the file."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error


def _bytes_column(schema: pa.Schema) -> str | None:
    for field in schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return field.name
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return field.name
    return None


def _hugging_face_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _one_of(path: Path, columns: list[str], wanted: str | None, usual: tuple[str, ...], what: str) -> str:
    for name in (wanted,) if wanted else usual:
        if name in columns:
            return name
    missing = f"column {wanted!r}" if wanted else f"{what} column (one of {', '.join(usual)})"
    raise InputError(f"{path}: no {missing}; its columns are {', '.join(columns)}")


def _true_column(path: Path, columns: list[str], options: SourceOptions) -> str | None:
    if options.true_label_column:
        return _one_of(path, columns, options.true_label_column, (), "true label")
    return "true_label" if "true_label" in columns else None
