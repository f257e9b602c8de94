from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from sharpeye.errors import InputError
from sharpeye.runs.scores import (
    ScoreColumn,
    ScoreColumns,
    ranks_of,
    read_influence,
    read_row,
    read_scores,
    write_scores,
)


def labels(*codes: int) -> "pd.Categorical[str]":
    return pd.Categorical.from_codes(list(codes), pd.Index(["ant", "bee"]))


COLUMNS = ScoreColumns(
    id=np.array(["a", "b"], dtype=object),
    given_label=labels(0, 1),
    true_label=labels(1, -1),
    influence={"fvm": np.array([0.5, 2.0]), "val_loss": np.array([1.0, 3.0])},
    rank=np.array([2, 1]),
    suggested_label=labels(0, 0),
    confidence=np.array([0.9, 0.6]),
    wrong_probability=np.array([0.1, 0.7]),
    likely_labels=np.array([["ant", "bee"]] * 2, dtype=object),
    likely_probabilities=np.array([[0.6, 0.4]] * 2),
    candidate_classes=np.array([["ant", "bee"]] * 2, dtype=object),
    candidate_scores=np.array([[0.1, 0.5], [2.0, 1.0]]),
    image_row=np.array([4, 7]),
    findings=pd.Categorical(["", "dark"]),
    duplicate_group=np.array([-1, 0]),
    outlier_distance=np.array([0.1, 0.2]),
    width=np.array([30, 40]),
    height=np.array([30, 20]),
    brightness=np.array([0.9, 0.2]),
    sharpness=np.array([1.0, 0.5]),
)


def test_every_column_has_a_name_to_read_it_by() -> None:
    assert {field.name for field in fields(ScoreColumns)} - {"influence"} == set(get_args(ScoreColumn))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, COLUMNS)
    table = read_scores(path, get_args(ScoreColumn))
    assert table["id"].tolist() == ["a", "b"]
    assert table["true_label"].isna().tolist() == [False, True]
    assert table["image_row"].tolist() == [4, 7]
    assert np.stack(table["candidate_scores"]).tolist() == COLUMNS.candidate_scores.tolist()
    assert read_influence(path, ["val_loss"])["val_loss"].tolist() == [1.0, 3.0]
    assert read_row(path, 1, ["candidate_classes"]) == {"candidate_classes": ["ant", "bee"]}
    with pytest.raises(InputError, match="no row 2"):
        read_row(path, 2, ["id"])


def test_without_true_labels_there_is_no_such_column(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    write_scores(path, replace(COLUMNS, true_label=None))
    assert "true_label" not in read_scores(path, ["id", "true_label"])


def test_ties_keep_their_order() -> None:
    assert ranks_of(np.array([1.0, 3.0, 1.0, 2.0]), np.zeros(4, dtype=bool)).tolist() == [3, 1, 4, 2]
    assert ranks_of(np.array([1.0, 3.0, 1.0, 2.0]), np.arange(4) == 2).tolist() == [4, 2, 1, 3]
