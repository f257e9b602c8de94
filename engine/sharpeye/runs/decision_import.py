"""Decisions that come from a file: the log of an export, or the annotations of another tool."""

import sqlite3
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sharpeye.data.annotations import read_annotations
from sharpeye.data.tables import ANNOTATION_SUFFIXES, kind_of
from sharpeye.errors import InputError
from sharpeye.runs.decisions import LATER_COLUMNS, LOG_COLUMNS, Decision, decide, write_log
from sharpeye.runs.result import read_result
from sharpeye.runs.scores import read_scores
from sharpeye.runs.spreadsheets import as_written
from sharpeye.runs.store import RunRow, dataset_source
from sharpeye.runs.team import added_classes
from sharpeye.runs.workspace import Workspace

EPOCH = pd.Timestamp("1970-01-01", tz="UTC")
# The year 2200, well within what a timestamp holds.
LATEST = 7.26e9
LOG_TYPES: dict[str, type[str] | Literal["Int64"]] = {
    **dict.fromkeys((*LOG_COLUMNS, *LATER_COLUMNS), str),
    "seq": "Int64",
    "target": "Int64",
}


def import_log(
    connection: sqlite3.Connection, workspace: Workspace, row: RunRow, path: Path, who: str | None = None
) -> int:
    """Append a decisions.csv that an export wrote to the log of a run's dataset; or decide as the annotations
    of another tool say (see `sharpeye.data.annotations`).

    Args:
        connection: the store.
        workspace: of the run.
        row: the run.
        path: the file.
        who: whose decisions annotations are that do not say; None takes the file's name.

    Returns how many actions were added.

    Raises:
        InputError: the run has no scores yet, or the file is missing, no decision log, or gives a label that
            is no class of the run; nothing is added.
    """
    if kind_of(path) in ANNOTATION_SUFFIXES:
        return _import_annotations(connection, workspace, row, path, who or path.stem)
    try:
        # Only an empty field is missing: a class may well be called None or NA.
        log = pd.read_csv(path, dtype=LOG_TYPES, keep_default_na=False, na_values=[""])
    except (OSError, ValueError, OverflowError, TypeError) as error:
        raise InputError(f"{path}: not a readable decision log ({error})") from error
    missing = set(LOG_COLUMNS) - set(log.columns)
    if missing:
        raise InputError(f"{path}: not a decision log, it has no column {', '.join(sorted(missing))}")
    log = as_written(log)
    for column in ("seq", "at", "who", "run", "kind"):
        if log[column].isna().any():
            raise InputError(f"{path}, row {int(log[column].isna().argmax()) + 1}: {column} is empty")
    log["at"] = _seconds(path, log["at"])
    classes = _classes(connection, workspace, row)
    unknown = log["to_label"].notna() & ~log["to_label"].isin(classes)
    if unknown.any():
        at = int(unknown.argmax())
        raise InputError(f"{path}, row {at + 1}: {log['to_label'].iloc[at]!r} is no class of run {row.id}")
    return write_log(connection, row.dataset, log)


def _classes(connection: sqlite3.Connection, workspace: Workspace, row: RunRow) -> list[str]:
    """The classes of a run, and those that people added."""
    known = read_result(workspace.run(row.id)).classes_in_order
    return [*known, *added_classes(connection, row.dataset)]


def _import_annotations(
    connection: sqlite3.Connection, workspace: Workspace, row: RunRow, path: Path, anybody: str
) -> int:
    """One action a person: their labels, as accepted, kept or chosen ones."""
    classes = _classes(connection, workspace, row)
    scores = read_scores(workspace.run(row.id).scores, ["id", "given_label", "suggested_label"]).astype(
        object
    )
    known = scores.set_index("id")
    source = Path(dataset_source(connection, row.dataset)[0])
    root = row.run_config().data.options.image_root or (source if source.is_dir() else source.parent)
    annotated, _ = read_annotations(path)
    decisions: dict[str, list[Decision]] = {}
    for image, label, who in annotated.itertuples(index=False):
        names = image, image.removeprefix(f"{root}/"), image.removeprefix(f"{source.name}/")
        name = next((one for one in names if one in known.index), None)
        if name is None:
            raise InputError(f"{path}: {image!r} is no image of run {row.id}")
        if label not in classes:
            raise InputError(f"{path}, {image}: {label!r} is no class of run {row.id}")
        given, suggested = known.loc[name]
        verdict = "keep" if label == given else "accept" if label == suggested else "relabel"
        decisions.setdefault(who or anybody, []).append(Decision(name, verdict, given, label))
    for who, made in decisions.items():
        decide(connection, row.dataset, row.id, who, made)
    return len(decisions)


def _seconds(path: Path, times: "pd.Series[str]") -> np.ndarray:
    """Seconds since 1970 of times in ISO 8601, or in seconds as earlier versions wrote them."""
    seconds = pd.to_numeric(times, errors="coerce").to_numpy(dtype=float, copy=True)
    written = pd.to_datetime(times.where(np.isnan(seconds)), utc=True, errors="coerce", format="ISO8601")
    known = written.notna().to_numpy()
    seconds[known] = (written[known] - EPOCH) / pd.Timedelta(seconds=1)
    bad = ~((seconds >= 0) & (seconds < LATEST))
    if bad.any():
        at = int(bad.argmax())
        raise InputError(f"{path}, row {at + 1}: at is no time: {times.iloc[at]!r}")
    return seconds
