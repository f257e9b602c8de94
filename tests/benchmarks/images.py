"""The images that a benchmark of quality is about."""

import os
from typing import Any


def chosen_images(label_column: str) -> dict[str, Any]:
    """Fields of a RunConfig: the packaged demo or, with SHARPEYE_CIFAR10N=DIR (train.parquet and
    test.parquet), 10,000 images of CIFAR-10N with the labels of this column."""
    folder = os.environ.get("SHARPEYE_CIFAR10N")
    if not folder:
        return {"train": "demo", "validation": "demo"}
    return {
        "train": f"{folder}/train.parquet",
        "validation": f"{folder}/test.parquet",
        "label_column": label_column,
        "true_label_column": "label",
        "limit": 10_000,
    }
