"""From what names a source to a `Source`: which of the readers beside this file reads it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from glob import glob, has_magic  # of any pattern, an absolute one too
from importlib import resources
from pathlib import Path, PurePath, PurePosixPath
from typing import assert_never

from sharpeye.config import SourceOptions
from sharpeye.data.archives import ARCHIVE_SUFFIXES, archive, web_dataset
from sharpeye.data.folders import class_folders, tree_source
from sharpeye.data.image_tables import holds_images, image_table, open_shard
from sharpeye.data.layout import read_layout, split_name
from sharpeye.data.records import Source, split_names
from sharpeye.data.remote import RemoteFile, files_below, local_copy, matching
from sharpeye.data.tables import kind_of, manifest, read_parquet_schema
from sharpeye.data.torchvision_sets import torchvision_dataset
from sharpeye.errors import InputError
from sharpeye.specs import DemoSource, FileSource, RemoteSource, SourceSpec, TorchvisionSource

KINDS = (
    "a folder, a zip or tar file of class folders, a .csv, .tsv, .jsonl, .parquet or .arrow file, "
    "annotations of Label Studio, FiftyOne, COCO or CVAT, one of these elsewhere by its address, demo, "
    "hf:NAME, or torchvision:NAME"
)
# Beside the images of a folder: in Hugging Face's layout, and in FiftyOne's.
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "samples.json", "labels.json")


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
        return _image_files(str(packaged), [packaged], replace(options, true_label_column="true_label"))
    if isinstance(spec, TorchvisionSource):
        return torchvision_dataset(spec, default_split, options)
    if isinstance(spec, RemoteSource):
        return replace(_remote(spec.address, options), name=spec.address)
    if not isinstance(spec, FileSource):
        assert_never(spec)
    try:
        path = Path(spec.path).expanduser()
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{spec}: no file has such a name ({error})") from error
    if has_magic(spec.path) and not there:
        source = _many(spec.path, options)
    elif path.is_dir():
        source = _folder(path.resolve(), options)
    elif there:
        source = _file(path.resolve(), options)
    else:
        raise InputError(f"{spec}: no such file or folder (SPEC is {KINDS})")
    if source.count == 0:
        raise InputError(f"{spec}: no images found")
    return source


def _file(path: Path, options: SourceOptions) -> Source:
    kind = kind_of(path)
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return archive(path)
    if path.suffix.lower() == ".arrow" or (kind == ".parquet" and holds_images(read_parquet_schema(path))):
        return _image_files(str(path), [path], options)
    if kind:
        return manifest(path, options)
    raise InputError(f"{path}: expected {KINDS}")


def _folder(root: Path, options: SourceOptions) -> Source:
    """A folder: Hugging Face's `save_to_disk`, its shards of Parquet, its images beside `metadata.csv`, or
    class folders."""
    if (root / "dataset_dict.json").exists():
        return _image_files(str(root), sorted(root.glob("*/*.arrow")), options)
    if (root / "state.json").exists() and (arrows := sorted(root.glob("*.arrow"))):
        return _image_files(str(root), arrows, options)
    tables = [path for name in METADATA if (path := root / name).is_file() and path.stat().st_size]
    if tables:
        return manifest(tables[0], options)
    shards = sorted(path for place in (root, root / "data") for path in place.glob("*.parquet"))
    if shards and all(holds_images(read_parquet_schema(path)) for path in shards):
        return _image_files(str(root), shards, options)
    return class_folders(root, options.follow_links)


def _many(pattern: str, options: SourceOptions) -> Source:
    """All Parquet or Arrow files that a pattern names, or all shards of WebDataset, as one source."""
    names = sorted(glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207
    return _together(pattern, [Path(name).resolve() for name in names], options)


def _together(pattern: str, paths: list[Path], options: SourceOptions) -> Source:
    if not paths:
        raise InputError(f"{pattern}: no file matches")
    if all(path.name.lower().endswith(ARCHIVE_SUFFIXES) for path in paths):
        return web_dataset(pattern, paths)
    other = next((path for path in paths if path.suffix.lower() not in (".parquet", ".arrow")), None)
    if other:
        raise InputError(f"{pattern}: .parquet, .arrow or .tar files can be read together, not {other.name}")
    return _image_files(pattern, paths, options)


def _remote(address: str, options: SourceOptions) -> Source:
    """A source elsewhere. Tables, archives and shards are copied to this machine, other images fetched one by
    one.

    Raises:
        InputError: it cannot be reached, or is none.
    """
    path = PurePosixPath(address)
    if has_magic(address):
        return _together(address, [local_copy(one) for one in matching(address)], options)
    if path.name.lower().endswith((*ARCHIVE_SUFFIXES, ".arrow")) or kind_of(path):
        return _file(local_copy(address), _rooted(options, address.rpartition("/")[0]))
    files = files_below(address)
    shards = [one for one in files if one.suffix.lower() == ".parquet"]
    if table := next((name for name in METADATA if PurePosixPath(name) in files), None):
        return manifest(local_copy(files[PurePosixPath(table)][0].address), _rooted(options, address))
    if shards:
        configurations = {one.parts[0] for one in shards if len(one.parts) > 2}
        if len(configurations) > 1:
            raise InputError(
                f"{address}: it has several configurations ({', '.join(sorted(configurations))}); add /NAME "
                "to choose one"
            )
        places = [local_copy(files[one][0].address) for one in shards]
        return _image_files(address, places, options, [split_of_shard(one) for one in shards])
    layout = read_layout(list(files))
    stamp = [[str(entry.path), *files[entry.path][1]] for entry in layout.entries]

    @contextmanager
    def images() -> Iterator[Callable[[PurePosixPath], RemoteFile]]:
        yield lambda path: files[path][0]

    return tree_source(address, layout, [], images, stamp)


def _rooted(options: SourceOptions, address: str) -> SourceOptions:
    """Options under which image paths are relative to an address, unless they say otherwise."""
    return options if options.image_root else replace(options, image_root=address)


def _image_files(
    name: str, paths: list[Path], options: SourceOptions, splits: list[str | None] | None = None
) -> Source:
    if not paths:
        raise InputError(f"{name}: no .arrow file is there")
    splits = splits or [split_of_shard(path) for path in paths]
    shards = [open_shard(path, split) for path, split in zip(paths, splits, strict=True)]
    if lacking := next((shard for shard, schema in shards if not holds_images(schema)), None):
        raise InputError(f"{lacking.path}: it has no column of image bytes")
    if len({shard.split for shard, _ in shards}) == 1:
        shards = [(replace(shard, split=None), schema) for shard, schema in shards]
    return image_table(name, shards, options)


def split_of_shard(path: PurePath) -> str | None:
    """The split that the name of a shard or of its folder means: `train-00000-of-00002.parquet`."""
    words = [word for word in re.split(r"[^A-Za-z]+", path.stem) if word not in ("", "of", "data")]
    return split_name(" ".join(words)) or split_name(path.parent.name)


def has_splits(source: Source) -> bool:
    """Whether a source says itself which of its images are the validation split."""
    return bool((split_names(source) == "validation").any())
