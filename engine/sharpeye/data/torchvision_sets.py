"""Classification data sets of torchvision, and the files of human labels for CIFAR."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sharpeye.config import SourceOptions
from sharpeye.data.records import Record, Source
from sharpeye.errors import InputError
from sharpeye.files import file_stamp
from sharpeye.specs import TorchvisionSource

# Those that map an image to one class. Others decode any file that a folder holds, or have no labels.
CLASSIFICATION = (
    "CIFAR10",
    "CIFAR100",
    "CLEVRClassification",
    "Caltech101",
    "Caltech256",
    "Country211",
    "DTD",
    "EMNIST",
    "EuroSAT",
    "FER2013",
    "FakeData",
    "FGVCAircraft",
    "FashionMNIST",
    "Flowers102",
    "Food101",
    "GTSRB",
    "Imagenette",
    "KMNIST",
    "MNIST",
    "Omniglot",
    "OxfordIIITPet",
    "PCAM",
    "Places365",
    "QMNIST",
    "RenderedSST2",
    "SEMEION",
    "STL10",
    "SUN397",
    "SVHN",
    "StanfordCars",
    "USPS",
)


def torchvision_dataset(spec: TorchvisionSource, default_split: str, options: SourceOptions) -> Source:
    """A torchvision classification dataset by class name.

    Downloads where that is possible, else reads the local root.
    """
    from sharpeye.vision import torchvision_module

    datasets = torchvision_module("datasets")
    name = spec.name
    split = spec.split or ("train" if default_split == "train" else "test")
    if name not in CLASSIFICATION or not hasattr(datasets, name):
        known = ", ".join(one for one in CLASSIFICATION if hasattr(datasets, one))
        raise InputError(f"torchvision:{name}: no classification data set of torchvision; it has {known}")
    kind = getattr(datasets, name)
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
    return Source(f"torchvision:{name}/{split}", len(dataset), names, read, stamp, numbered=names is not None)


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
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line for line in lines if "Unsupported" in line), lines[0]).strip()
        raise InputError(f"{path}: refused, not a plain file of label arrays ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a dictionary of label arrays, found {type(content).__name__}")
    names = ", ".join(str(key) for key in content)
    if column is None or column not in content:
        raise InputError(
            f"{path}: choose --label-column from: {names}" + (f" (not {column!r})" if column else "")
        )
    try:
        labels = np.asarray(content[column], dtype=np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {column} holds no numbers ({error})") from error
    if not np.isfinite(labels).all() or (labels != labels.round()).any():
        raise InputError(f"{path}: {column} holds numbers that are no classes")
    return labels.astype(np.int64)
