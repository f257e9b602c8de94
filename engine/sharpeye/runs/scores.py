"""scores.parquet: one row an image, in the order of the training set. Every column of it is named here."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sharpeye.errors import InputError
from sharpeye.files import replacing

# Small, so that the app reads one image's candidate scores without the others'.
ROW_GROUP = 10_000

ScoreColumn = Literal[
    "id",
    "given_label",
    "true_label",
    "rank",
    "suggested_label",
    "confidence",
    "wrong_probability",
    "likely_labels",
    "likely_probabilities",
    "candidate_classes",
    "candidate_scores",
    "image_row",
    "findings",
    "duplicate_group",
    "outlier_distance",
    "width",
    "height",
    "brightness",
    "sharpness",
]


@dataclass(frozen=True)
class ScoreColumns:
    """The columns of scores.parquet, N rows each.

    Attributes:
        id: of the images.
        given_label: name of the given label.
        true_label: name of the true label, missing where unknown; None without true labels.
        influence: by method, one column each, higher = more suspicious.
        rank: 1 for the most suspicious image under the first method; before all, images whose picture stands
            in the validation split under another label.
        suggested_label: class of highest noise posterior, which weighs the given label and the noise learnt
            from all.
        confidence: that posterior.
        wrong_probability: posterior that the given label is wrong.
        likely_labels: names of the classes of highest noise posterior, the given one among them, best first,
            (N, k).
        likely_probabilities: that posterior, (N, k).
        candidate_classes: names of the candidate labels of each image, (N, k).
        candidate_scores: the first method's score of each of them, (N, k).
        image_row: row of the image in the decoded data set.
        findings: what is wrong with the image apart from its label, see `sharpeye.data.findings.FINDINGS`.
        duplicate_group: number of the group of pictures that show the same; −1 for none.
        outlier_distance: 1 − mean cosine of the features to those of the images most like it.
        width: in pixels.
        height: in pixels.
        brightness: see `sharpeye.data.images.Measures`.
        sharpness: likewise.
    """

    id: np.ndarray
    given_label: "pd.Categorical[str]"
    true_label: "pd.Categorical[str] | None"
    influence: dict[str, np.ndarray]
    rank: np.ndarray
    suggested_label: "pd.Categorical[str]"
    confidence: np.ndarray
    wrong_probability: np.ndarray
    likely_labels: np.ndarray
    likely_probabilities: np.ndarray
    candidate_classes: np.ndarray
    candidate_scores: np.ndarray
    image_row: np.ndarray
    findings: "pd.Categorical[str]"
    duplicate_group: np.ndarray
    outlier_distance: np.ndarray
    width: np.ndarray
    height: np.ndarray
    brightness: np.ndarray
    sharpness: np.ndarray


def ranks_of(influence: np.ndarray, certain: np.ndarray) -> np.ndarray:
    """1 for the most suspicious image, those that are wrong for certain first, ties in their order, (N,)."""
    ranks = np.empty(len(influence), dtype=np.int64)
    ranks[np.lexsort((np.arange(len(influence)), -influence, ~certain))] = np.arange(1, len(influence) + 1)
    return ranks


def write_scores(path: Path, columns: ScoreColumns) -> None:
    """Write scores.parquet."""
    table = pd.DataFrame(index=range(len(columns.id)))
    for field in fields(columns):
        value = getattr(columns, field.name)
        if field.name == "influence":
            for method, influence in columns.influence.items():
                table[method] = influence
        elif value is not None:
            table[field.name] = list(value) if getattr(value, "ndim", 1) > 1 else value
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, row_group_size=ROW_GROUP)


def read_scores(path: Path, columns: Sequence[ScoreColumn]) -> pd.DataFrame:
    """Some columns of scores.parquet; `true_label` only where there are true labels.

    Raises:
        InputError: the file is damaged.
    """
    try:
        there = pq.read_schema(path).names
        wanted: list[str] = [name for name in columns if name != "true_label" or name in there]
        return pd.read_parquet(path, columns=wanted)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: damaged ({error}); `sharpeye doctor --repair`, then resume the run"
        ) from error


def read_influence(path: Path, methods: Sequence[str]) -> pd.DataFrame:
    """The influence of some methods, one column each."""
    return pd.read_parquet(path, columns=list(methods))


def read_row(path: Path, row: int, columns: Sequence[str]) -> dict[str, object]:
    """Some columns of one row of a Parquet file with as many rows as there are images.

    Only its row group is read.

    Raises:
        InputError: there is no such row.
    """
    file = pq.ParquetFile(path)
    start = 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if row < start + size:
            return dict(file.read_row_group(group, list(columns)).slice(row - start, 1).to_pylist()[0])
        start += size
    raise InputError(f"{path.name}: no row {row}")
