"""What leaves the workspace: cleaned labels, a cleaned copy of an image folder, and the decision log."""

import itertools
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd

from engine.config import RunConfig
from engine.data.load import trusted_list
from engine.data.sources import holds_splits, read_csv
from engine.errors import InputError
from engine.files import replacing, replacing_folder
from engine.runs.decisions import current_decisions, read_log, write_log
from engine.runs.store import RunRow, dataset_source
from engine.runs.workspace import Workspace

LOG_TYPES: dict[str, Any] = {"image": str, "from_label": str, "to_label": str, "who": str, "run": str, "target": "Int64"}


def cleaned_labels(connection: sqlite3.Connection, workspace: Workspace, row: RunRow) -> pd.DataFrame:
    """One row an image of a run: id, given_label, final_label, decision, when.

    Only decisions change a label: an accepted or chosen label is final, every other image keeps the given one. Training
    images that a person confirmed for the validation split (`ids:FILE`) come last, with the label confirmed.

    Raises:
        InputError: the run has no scores yet.
    """
    path = workspace.run(row.id).scores
    if not path.exists():
        raise InputError(f"run {row.id} has no scores yet: it is {row.state}")
    table = pd.read_parquet(path, columns=["id", "given_label"]).astype(str)
    made = current_decisions(connection, row.dataset).set_index("image").reindex(table["id"]).reset_index()
    table["final_label"] = made["to_label"].fillna(table["given_label"])
    table["decision"] = made["verdict"].fillna("")
    table["when"] = pd.to_datetime(made["at"], unit="s", utc=True)
    if listed := trusted_list(RunConfig.from_json(row.config)):
        confirmed = read_csv(listed).astype(str).rename(columns={"label": "final_label"})
        if "given_label" in confirmed:
            confirmed["decision"] = "confirm"
            table = pd.concat([table, confirmed[["id", "given_label", "final_label", "decision"]]], ignore_index=True)
    return table


def export(connection: sqlite3.Connection, workspace: Workspace, row: RunRow, target: Path, with_images: bool) -> pd.DataFrame:
    """Write labels.csv, labels.parquet and decisions.csv to a folder; with images also images/, a cleaned copy.

    Returns:
        The cleaned labels.

    Raises:
        InputError: nothing to export, or images of a source that is no folder of class folders.
    """
    labels = cleaned_labels(connection, workspace, row)
    source = Path(dataset_source(connection, row.dataset)[0])
    if with_images and not source.is_dir():
        raise InputError(f"{source}: only a folder of class folders can be copied; labels.csv holds the cleaned labels")
    if with_images and (target / "images").exists():
        raise InputError(f"{target / 'images'}: exists already; remove it, or export to another folder")
    for name, write in (
        ("labels.csv", lambda path: labels.to_csv(path, index=False)),
        ("labels.parquet", lambda path: labels.to_parquet(path, index=False)),
        ("decisions.csv", lambda path: read_log(connection, row.dataset).to_csv(path, index=False)),
    ):
        with replacing(target / name) as temporary:
            write(temporary)
    if with_images:
        copy_images(source, target / "images", labels)
    return labels


def copy_images(source: Path, target: Path, labels: pd.DataFrame) -> None:
    """Lay every image of a class folder under the folder of its final label: hard links where possible, else copies.

    A split folder above the class folder and folders below it are kept; a relabelled image whose name is taken there
    gets its old label, and where that is not enough a number, into its name.
    """
    depth = 1 if holds_splits(source) else 0
    moved = labels["final_label"] != labels["given_label"]
    with replacing_folder(target) as temporary:
        for image, given, final in labels.loc[
            moved.sort_values(kind="stable").index, ["id", "given_label", "final_label"]
        ].itertuples(index=False):
            parts = Path(image).parts
            wanted = temporary.joinpath(*parts[:depth], final, *parts[depth + 1 :])
            wanted.parent.mkdir(parents=True, exist_ok=True)
            place = next(
                name for number in itertools.count() if not (name := _numbered(wanted, given, number)).exists()
            )  # never an existing file: it may be a link to one of the originals
            try:
                os.link(source / image, place)
            except OSError:
                shutil.copy2(source / image, place)


def _numbered(place: Path, given: str, number: int) -> Path:
    """The name wanted; the same with the old label; then with a number too."""
    if number == 0:
        return place
    return place.with_name(f"{place.stem}-was-{given}{'' if number == 1 else f'-{number}'}{place.suffix}")


def import_log(connection: sqlite3.Connection, row: RunRow, path: Path) -> int:
    """Append a decisions.csv that `export` wrote to the log of a run's dataset; returns how many actions were added.

    Raises:
        InputError: the file is missing or no decision log.
    """
    try:
        # Only an empty field is missing: a class may well be called None or NA.
        log = pd.read_csv(path, dtype=LOG_TYPES, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable decision log ({error})") from error
    missing = {"seq", "at", "who", "run", "kind", "target", "image", "verdict", "from_label", "to_label"} - set(log.columns)
    if missing:
        raise InputError(f"{path}: not a decision log, it has no column {', '.join(sorted(missing))}")
    return write_log(connection, row.dataset, log)
