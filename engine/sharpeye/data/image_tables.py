"""Tables that hold the images themselves: Parquet and Arrow files in Hugging Face's layout, in any number of
shards."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharpeye.config import SourceOptions
from sharpeye.data.folders import linked
from sharpeye.data.images import Encoded, Unreadable
from sharpeye.data.records import Record, Source
from sharpeye.data.tables import (
    found,
    label_column_of,
    named,
    read_parquet_schema,
    readable,
    true_column_of,
)
from sharpeye.errors import InputError
from sharpeye.files import file_stamp

# Rows that are unpacked at once: an encoding may repeat a large image for nothing.
BATCH_ROWS = 32


@dataclass(frozen=True)
class Shard:
    """One file of a table, its split (None where it has none), and how many rows it holds."""

    path: Path
    split: str | None
    count: int


def holds_images(schema: pa.Schema) -> bool:
    """Whether a table has a column of encoded images."""
    return _image_column(schema) is not None


def open_shard(path: Path, split: str | None = None) -> tuple[Shard, pa.Schema]:
    """A Parquet or Arrow file, and its schema; raises InputError that names it."""
    if path.suffix.lower() == ".parquet":
        schema = read_parquet_schema(path)
        with readable(path, path.suffix[1:]):
            return Shard(path, split, pq.ParquetFile(path).metadata.num_rows), schema
    with readable(path, path.suffix[1:]), pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_stream(file)
        return Shard(path, split, sum(batch.num_rows for batch in reader)), named(reader.schema)


def image_table(name: str, shards: list[tuple[Shard, pa.Schema]], options: SourceOptions) -> Source:
    """A table with encoded images in a binary column, or a struct with `bytes` and `path`.

    Raises:
        InputError: it has no label column, or its files differ in their columns.
    """
    first, schema = shards[0]
    image_column = _image_column(schema)
    assert image_column is not None
    names = [str(column) for column in schema.names]
    label_column = label_column_of(first.path, names, options)
    true_column = true_column_of(first.path, names, options)
    id_column, split_column = found("id", names), found("split", names)
    columns = [c for c in dict.fromkeys((image_column, label_column, true_column, id_column)) if c]
    for shard, other in shards:
        if missing := [column for column in columns if column not in other.names]:
            raise InputError(f"{shard.path}: no column {', '.join(missing)}, which {first.path.name} has")
    ends = np.cumsum([shard.count for shard, _ in shards])

    def read(rows: np.ndarray) -> Iterator[Record]:
        for (shard, _), end in zip(shards, ends, strict=True):
            start = end - shard.count
            wanted = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)] - start
            for row, fields in _rows(shard.path, columns, wanted):
                yield Record(
                    str(fields[id_column]) if id_column else f"{start + row:06d}",
                    _image_of(fields[image_column], shard.path.parent),
                    fields[label_column],
                    fields[true_column] if true_column else None,
                )

    splits = None
    if split_column:
        splits = np.concatenate([_column(shard, split_column) for shard, _ in shards])
    elif any(shard.split for shard, _ in shards):
        splits = np.repeat(
            np.array([shard.split for shard, _ in shards], dtype=object), np.diff(ends, prepend=0)
        )
    declared = _declared_names(schema, label_column)
    stamp = [[file_stamp(shard.path) for shard, _ in shards], label_column, true_column]
    return Source(name, int(ends[-1]), declared, read, stamp, splits, numbered=declared is not None)


def _rows(path: Path, columns: list[str], wanted: np.ndarray) -> Iterator[tuple[int, dict[str, object]]]:
    """Some rows of a file, by ascending number, few at a time."""
    if not len(wanted):
        return
    with readable(path, path.suffix[1:]):
        for start, batch in _batches(path, columns, wanted):
            rows = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + batch.num_rows)]
            for first in range(0, len(rows), BATCH_ROWS):
                some = rows[first : first + BATCH_ROWS]
                yield from zip(some, batch.take(pa.array(some - start)).to_pylist(), strict=True)


def _batches(path: Path, columns: list[str], wanted: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The batches of a file that may hold wanted rows, and the number of the first row of each."""
    start = 0
    if path.suffix.lower() != ".parquet":
        with pa.memory_map(str(path)) as file:
            for batch in pa.ipc.open_stream(file):
                chosen = batch.select(columns)
                # Offsets of a damaged file lead anywhere in memory.
                chosen.validate(full=True)
                yield start, chosen
                start += batch.num_rows
        return
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if np.searchsorted(wanted, start) < np.searchsorted(wanted, start + size):
            at = start
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                yield at, batch
                at += batch.num_rows
        start += size


def _column(shard: Shard, name: str) -> np.ndarray:
    batches = _batches(shard.path, [name], np.arange(shard.count))
    with readable(shard.path, shard.path.suffix[1:]):
        values = [value for _, batch in batches for value in batch.column(0).to_pylist()]
    return np.array([*values, None], dtype=object)[:-1]


def _image_of(value: object, folder: Path) -> Encoded:
    """The image in a field: bytes, or a struct with `bytes` or a `path` below the table's folder."""
    if not isinstance(value, dict):
        return value if isinstance(value, bytes) else b""
    content, path = value.get("bytes"), value.get("path")
    if content:
        return content if isinstance(content, bytes) else Unreadable("its bytes are no bytes")
    return linked(folder.resolve(), folder / str(path), follow_links=False) if path else b""


def _image_column(schema: pa.Schema) -> str | None:
    for field in schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return str(field.name)
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    return None


def _declared_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[column]["names"])
    except (KeyError, TypeError, ValueError):
        return None
