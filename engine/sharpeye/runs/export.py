"""What leaves the workspace: cleaned labels, a cleaned copy of an image folder, the decision log, and files
for other tools."""

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from sharpeye.data.dataset import measures_of, open_dataset, source_rows
from sharpeye.data.folders import linked, walk
from sharpeye.data.images import encoded
from sharpeye.data.layout import read_layout
from sharpeye.data.load import open_training
from sharpeye.data.records import Record
from sharpeye.data.splits import listed_labels
from sharpeye.data.tables import read_parquet_schema
from sharpeye.errors import InputError
from sharpeye.files import replacing, replacing_folder
from sharpeye.runs.decisions import VERDICTS, current_decisions, read_log
from sharpeye.runs.peers import PEERS, LabeledTable
from sharpeye.runs.result import read_result
from sharpeye.runs.scores import ScoreColumn, read_scores
from sharpeye.runs.spreadsheets import spreadsheet_safe
from sharpeye.runs.store import RunRow, dataset_source
from sharpeye.runs.team import added_classes
from sharpeye.runs.workspace import Workspace

# By their first columns, the files of an earlier export are known.
OWN_COLUMNS = 3
EVIDENCE: list[ScoreColumn] = ["suggested_label", "confidence", "wrong_probability"]


def cleaned_labels(connection: sqlite3.Connection, workspace: Workspace, row: RunRow) -> pd.DataFrame:
    """One row a usable image of a run's training source (up to its limit): id, given_label, final_label,
    decision, excluded, note, who, when (ISO 8601), suggested_label, confidence, wrong_probability.

    Only decisions change a label: an accepted or chosen label is final, every other image keeps the given
    one. `excluded` are images that a decision leaves out of a cleaned copy. Images that were not scored,
    because they are trusted, say, come last; those that a person confirmed (`ids:FILE`, `--confirmed`) with
    that label.

    Raises:
        InputError: the run has no scores yet.
    """
    images = open_dataset(workspace.decoded / read_result(workspace.run(row.id)).images.training)
    rest = pd.DataFrame(
        {"id": images.ids, "given_label": np.array(images.class_names, dtype=object)[images.labels]}
    )
    scored = read_scores(workspace.run(row.id).scores, ["id", "given_label", *EVIDENCE])
    scored = scored.astype(dict.fromkeys(("id", "given_label", "suggested_label"), object))
    table = pd.concat([scored, rest[~rest["id"].isin(scored["id"])]], ignore_index=True)
    confirmed = pd.Series(dtype=object)
    if (trusted := workspace.run(row.id).trusted).exists():
        confirmed = listed_labels(trusted)
    confirmed = confirmed.reindex(table["id"]).reset_index(drop=True)
    made = current_decisions(connection, row.dataset).set_index("image").reindex(table["id"]).reset_index()
    table["final_label"] = made["to_label"].fillna(confirmed).fillna(table["given_label"])
    table["decision"] = made["verdict"].fillna(confirmed.notna().map({True: "confirm", False: ""}))
    leaves_out = [name for name, verdict in VERDICTS.items() if verdict.excludes]
    table["excluded"] = made["verdict"].isin(leaves_out)
    table["note"] = made["note"].fillna("")
    table["who"] = made["who"].fillna("")
    table["when"] = _iso(made["at"])
    own = ["id", "given_label", "final_label", "decision", "excluded", "note", "who", "when"]
    return table[[*own, *EVIDENCE]]


def _iso(seconds: "pd.Series[float]") -> "pd.Series[str]":
    """Seconds since 1970 as ISO 8601 in UTC, to the microsecond; empty where there are none."""
    return pd.to_datetime(seconds, unit="s", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ").fillna("")


@dataclass(frozen=True)
class ExportedFile:
    """A file that an export writes, and that the app offers as a download.

    Attributes:
        name: of the file.
        title: for people.
        table: what it holds: the cleaned labels, or the decision log.
        content: the table in the file's format.
    """

    name: str
    title: str
    table: Literal["labels", "decisions"]
    content: Callable[[pd.DataFrame], bytes]


def _csv(table: pd.DataFrame) -> bytes:
    return spreadsheet_safe(table).to_csv(index=False).encode()


def _parquet(table: pd.DataFrame) -> bytes:
    return table.to_parquet(index=False)


EXPORTED_FILES = (
    ExportedFile("labels.csv", "Labels, CSV", "labels", _csv),
    ExportedFile("labels.parquet", "Labels, Parquet", "labels", _parquet),
    ExportedFile("decisions.csv", "Decision log", "decisions", _csv),
)


def exported_content(
    connection: sqlite3.Connection, workspace: Workspace, row: RunRow, file: ExportedFile
) -> bytes:
    """Content of one file of an export; raises InputError where the run has no scores yet."""
    return file.content(_exported_table(connection, workspace, row, file.table))


def _exported_table(
    connection: sqlite3.Connection, workspace: Workspace, row: RunRow, table: Literal["labels", "decisions"]
) -> pd.DataFrame:
    if table == "labels":
        return cleaned_labels(connection, workspace, row)
    log = read_log(connection, row.dataset)
    return log.assign(at=_iso(log["at"]))


def export(
    connection: sqlite3.Connection,
    workspace: Workspace,
    row: RunRow,
    target: Path,
    with_images: bool,
    formats: Sequence[str] = (),
) -> pd.DataFrame:
    """Write EXPORTED_FILES to a folder; with images also images/, a cleaned copy; and files for other tools.

    Args:
        connection: the store.
        workspace: of the run.
        row: the run.
        target: the folder.
        with_images: whether a cleaned copy of the images is written.
        formats: of PEERS.

    Returns:
        The cleaned labels.

    Raises:
        InputError: nothing to export, images of a source that is no folder of class folders, or a file in the
            way that no export wrote. Nothing is written then.
    """
    tables = {
        "labels": _exported_table(connection, workspace, row, "labels"),
        "decisions": _exported_table(connection, workspace, row, "decisions"),
    }
    source = Path(dataset_source(connection, row.dataset)[0])
    if with_images and not source.is_dir():
        raise InputError(
            f"{source}: only a folder of class folders can be copied; labels.csv holds the cleaned labels, "
            "and --format hugging-face writes them beside the images"
        )
    if unknown := [name for name in formats if name not in PEERS]:
        raise InputError(f"--format {unknown[0]}: choose from {', '.join(PEERS)}")
    if with_images and (target / "images").exists():
        raise InputError(f"{target / 'images'}: exists already; remove it, or export to another folder")
    for file in EXPORTED_FILES:
        path = target / file.name
        if (
            path.exists()
            and (_columns(path) or [])[:OWN_COLUMNS] != list(tables[file.table].columns)[:OWN_COLUMNS]
        ):
            raise InputError(f"{path}: is there already and no export wrote it; export to another folder")
    if with_images:
        follow_links = row.run_config().data.options.follow_links
        copy_images(source, target / "images", tables["labels"], follow_links)
    for file in EXPORTED_FILES:
        with replacing(target / file.name) as temporary:
            temporary.write_bytes(file.content(tables[file.table]))
    for name in formats:
        write_for_peer(connection, workspace, row, tables["labels"], name, target / PEERS[name].file)
    return tables["labels"]


def write_for_peer(
    connection: sqlite3.Connection,
    workspace: Workspace,
    row: RunRow,
    labels: pd.DataFrame,
    name: str,
    path: Path,
) -> None:
    """Write the file of a run for another tool, of PEERS; its labels as of `cleaned_labels`, without excluded
    images.

    Raises:
        InputError: the run has no scores yet, or an image cannot be read any more.
    """
    result, data = read_result(workspace.run(row.id)), row.run_config().data
    labels = labels[~labels["excluded"]]
    classes = (*result.classes_in_order, *added_classes(connection, row.dataset))
    images = open_dataset(workspace.decoded / result.images.training)
    at = pd.Index(images.ids).get_indexer(pd.Index(labels["id"]))
    # In the order of the source, which then is read once.
    labels, at = labels.iloc[np.argsort(at)].reset_index(drop=True), np.sort(at)
    sizes = measures_of(images)[["width", "height"]].to_numpy()[at]
    folder = Path(dataset_source(connection, row.dataset)[0]).name
    rows = source_rows(images)

    def records() -> Iterator[Record]:
        source, wanted = open_training(data), labels["id"].tolist()
        known = source.read(rows[at]) if rows.max() < source.count else iter(())
        for name in wanted:
            record = next(known, None)
            if record is None or record.id != name:
                raise InputError(f"{data.train}: its images changed since the run; start it again")
            yield record

    def contents() -> Iterator[bytes]:
        return (encoded(record.id, record.image) for record in records())

    def files() -> Iterator[Path]:
        for record in records():
            if not isinstance(record.image, Path):
                raise InputError(
                    f"{data.train}: its images are no files of their own, which this format needs"
                )
            yield record.image

    table = LabeledTable(row.id, classes, labels, folder, sizes, contents, files)
    with replacing(path) as temporary:
        PEERS[name].write(table, temporary)


def _columns(path: Path) -> list[str] | None:
    """Names of the columns of a CSV or Parquet file; None where it is none."""
    try:
        if path.suffix == ".csv":
            return list(pd.read_csv(path, nrows=0).columns)
        return list(read_parquet_schema(path).names)
    except (OSError, ValueError, InputError):
        return None


def copy_images(source: Path, target: Path, labels: pd.DataFrame, follow_links: bool) -> None:
    """Lay every image of a class folder under the folder of its final label: hard links where possible, else
    copies.

    A split folder above the class folder and folders below it are kept, and so is the place of images without
    a row in `labels`; a relabelled image whose name is taken there gets its old label, and where that is not
    enough a number, into its name. What cannot be opened, and what is excluded, is left out.
    """
    root = source.resolve()
    layout = read_layout(walk(root, follow_links)[0])
    if not layout.entries:
        raise InputError(
            f"{source}: only class folders can be copied; labels.csv holds the cleaned labels, and --format "
            "hugging-face writes them beside the images"
        )
    finals: dict[str, str] = dict(labels[["id", "final_label"]].to_numpy().tolist())
    left_out = set(labels["id"][labels["excluded"]])
    if outside := next((name for name in finals.values() if Path(name).name != name), None):
        raise InputError(f"label {outside!r} cannot name a folder; labels.csv holds the cleaned labels")
    placed = []
    for entry in layout.entries:
        file = linked(root, root / entry.path, follow_links)
        readable = isinstance(file, Path) and file.is_file() and os.access(file, os.R_OK)
        if isinstance(file, Path) and readable and str(entry.path) not in left_out:
            placed.append((entry, file.resolve(), finals.get(str(entry.path), entry.label)))
    with replacing_folder(target) as temporary:
        for entry, file, final in sorted(placed, key=lambda item: item[0].label != item[2]):
            given = entry.label
            wanted = temporary / entry.folder / final / entry.path.relative_to(entry.folder / given)
            wanted.parent.mkdir(parents=True, exist_ok=True)
            place = next(
                name
                for number in itertools.count()
                if not (name := _numbered(wanted, given, number)).exists()
            )  # never an existing file: it may be a link to one of the originals
            try:
                os.link(file, place)
            except OSError:
                shutil.copy2(file, place)


def _numbered(place: Path, given: str, number: int) -> Path:
    """The name wanted; the same with the old label; then with a number too."""
    if number == 0:
        return place
    return place.with_name(f"{place.stem}-was-{given}{'' if number == 1 else f'-{number}'}{place.suffix}")
