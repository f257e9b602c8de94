"""What the pages read: the workspace, its runs, one run's scores beside the decisions, and pictures. Never torch."""

import getpass
import io
import json
import os
import re
import sqlite3
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from PIL import Image

from engine.errors import InputError
from engine.runs.decisions import VERDICTS, Decision, changes_since, decide, earlier_decisions, head
from engine.runs.store import RunRow, list_runs, store
from engine.runs.workspace import RunFolder, Workspace, open_workspace

SUSPECTS_AHEAD = 100
WORKSPACE_VARIABLE = "SHARPEYE_WORKSPACE"
STATES = ("open", *VERDICTS)


@lru_cache(maxsize=1)
def workspace() -> Workspace:
    """The workspace that this app was started on."""
    return open_workspace(os.environ[WORKSPACE_VARIABLE])


def all_runs() -> list[RunRow]:
    """Every run, the latest first."""
    with store(workspace()) as connection:
        return list_runs(connection)[::-1]


def reviewable_runs() -> list[RunRow]:
    """Runs that have scores, the latest first; some may still be drawing their map."""
    return [row for row in all_runs() if workspace().run(row.id).result.exists()]


def run_title(row: RunRow) -> str:
    """A run in one line, for people."""
    config = json.loads(row.config)
    name = config["train"] if config["train"].startswith(("demo", "torchvision:")) else Path(config["train"]).name
    return f"{name} · {config['methods'][0]}, {config['budget']} · {row.id[:6]}"


@dataclass
class Review:
    """One run's scores, row by row of scores.parquet, and what is decided of each image.

    Attributes:
        run: its id.
        dataset: whose decisions these are.
        folder: of the run.
        result: the run's result.json.
        ids: of the images, (N,).
        classes: C names.
        given, suggested: class numbers, (N,).
        truth: class numbers, −1 where unknown, or None without true labels.
        rank: 1 for the most suspicious, (N,).
        order: rows by rank, (N,).
        confidence, wrong: of the suggestion, and P(given label is wrong), (N,).
        image_row: row in the decoded dataset, (N,).
        verdict: position in STATES, (N,).
        label: class that a decision gave, −1 where none did, (N,).
        earlier: by row, decisions on another state of the source that fit here, see `_fitting`.
        seen: sequence number of the last action taken in.
    """

    run: str
    dataset: str
    folder: RunFolder
    result: dict[str, Any]
    ids: pd.Index
    classes: list[str]
    given: np.ndarray
    suggested: np.ndarray
    truth: np.ndarray | None
    rank: np.ndarray
    order: np.ndarray
    confidence: np.ndarray
    wrong: np.ndarray
    image_row: np.ndarray
    verdict: np.ndarray
    label: np.ndarray
    earlier: dict[int, Decision]
    seen: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def decoded(self) -> str:
        """Name of the decoded training images."""
        return str(self.result["images"]["training"])

    @property
    def methods(self) -> list[str]:
        return list(self.result["methods"])

    def percentile(self) -> np.ndarray:
        """Share of the images that are less suspicious, in percent, (N,)."""
        return 100.0 * (1 - self.rank / len(self))

    def scores(self, method: str) -> np.ndarray:
        """One method's influence, (N,)."""
        return pq.read_table(self.folder.scores, columns=[method]).column(0).to_numpy()

    def row_details(self, row: int, path: Path, columns: list[str]) -> dict[str, Any]:
        """Some columns of one row of a Parquet file beside these scores; only its row group is read."""
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if row < size:
                return dict(file.read_row_group(group, columns).slice(row, 1).to_pylist()[0])
            row -= size
        raise InputError(f"{path.name}: no row {row}")

    def decision(self, row: int, verdict: str, label: int | None = None) -> Decision:
        """A verdict on one row; `label` is the class number chosen to relabel.

        Raises:
            KeyError: no such verdict.
        """
        labels = {"accept": self.suggested[row], "reject": self.given[row], "relabel": label, "skip": None}
        chosen = labels[verdict]
        name = None if chosen is None else self.classes[int(chosen)]
        return Decision(str(self.ids[row]), verdict, self.classes[self.given[row]], name)

    def still_fitting(self) -> list[Decision]:
        """The earlier decisions on images that are open here."""
        return [decision for row, decision in self.earlier.items() if self.verdict[row] == 0]

    def decide(self, connection: sqlite3.Connection, decisions: list[Decision], seen: int | None = None) -> None:
        """Append one action of this computer's user; see `engine.runs.decisions.decide`."""
        decide(connection, self.dataset, self.run, getpass.getuser(), decisions, seen)

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Take in the decisions made since it was last looked."""
        with self.lock:
            last = head(connection, self.dataset)
            if last == self.seen:
                return
            changes = changes_since(connection, self.dataset, self.seen)
            rows = self.ids.get_indexer(pd.Index([image for image, _, _ in changes]))
            numbers = {name: number for number, name in enumerate(self.classes)}
            for row, (_, verdict, label) in zip(rows, changes, strict=True):
                if row >= 0:
                    self.verdict[row] = STATES.index(verdict or "open")
                    self.label[row] = numbers.get(label or "", -1)
            self.seen = last

    def summary(self) -> dict[str, Any]:
        """How far the review is, and what is still expected: counts, wrong labels expected in all and among the open images
        that come next, and how many of these are more likely wrong than right."""
        is_open = self.verdict == 0
        suspects = self.order[is_open[self.order]][:SUSPECTS_AHEAD]
        changed = (self.label >= 0) & (self.label != self.given)
        expected, expected_open = float(self.wrong.sum()), float(self.wrong[is_open].sum())
        return {
            "images": len(self),
            "decided": int((~is_open).sum()),
            "changed": int(changed.sum()),
            "expected": expected,
            "expected_open": expected_open,
            "interval_open": [end * expected_open / max(expected, 1e-9) for end in self.result["expected_wrong_interval"]],
            "next": len(suspects),
            "expected_next": float(self.wrong[suspects].sum()),
            "likely_next": int((self.wrong[suspects] > 0.5).sum()),
        }


def outdated(result: dict[str, Any]) -> bool:
    """Whether a result was computed by a version that left out what the pages show."""
    return "expected_wrong_interval" not in result


def review(run: str) -> Review:
    """A run's scores with the decisions as they stand.

    Raises:
        InputError: it has no scores yet.
    """
    folder = workspace().run(run)
    if not folder.result.exists():
        raise InputError(f"run {run} has no scores yet")
    with store(workspace()) as connection:
        dataset = connection.execute("SELECT dataset FROM runs WHERE id = ?", (run,)).fetchone()
        if dataset is None:
            raise InputError(f"run {run} was deleted")
        found = _read_review(run, str(dataset[0]), folder.scores.stat().st_mtime_ns)
        found.refresh(connection)
    return found


@lru_cache(maxsize=2)
def _read_review(run: str, dataset: str, written: int) -> Review:
    folder = workspace().run(run)
    result = json.loads(folder.result.read_text())
    schema = pq.read_schema(folder.scores)
    if outdated(result) or "image_row" not in schema.names:
        raise InputError(f"run {run} was computed by an earlier version of Sharpeye: start it again")
    columns = ["id", "given_label", "suggested_label", "rank", "confidence", "wrong_probability", "image_row"]
    table = pd.read_parquet(folder.scores, columns=columns + (["true_label"] if "true_label" in schema.names else []))
    classes = list(result["classes_in_order"])

    def codes(column: str) -> np.ndarray:
        return table[column].cat.set_categories(classes).cat.codes.to_numpy(np.int32)

    ids, given = pd.Index(table["id"]), codes("given_label")
    with store(workspace()) as connection:
        made = earlier_decisions(connection, dataset)
    return Review(
        run=run,
        dataset=dataset,
        folder=folder,
        result=result,
        ids=ids,
        classes=classes,
        given=given,
        suggested=codes("suggested_label"),
        truth=codes("true_label") if "true_label" in table else None,
        rank=table["rank"].to_numpy(np.int64),
        order=np.argsort(table["rank"].to_numpy(), kind="stable"),
        confidence=table["confidence"].to_numpy(np.float32),
        wrong=table["wrong_probability"].to_numpy(np.float32),
        image_row=table["image_row"].to_numpy(np.int64),
        verdict=np.zeros(len(table), dtype=np.int8),
        label=np.full(len(table), -1, dtype=np.int32),
        earlier={} if made.empty else _fitting(made, ids, given, classes),
    )


def _fitting(made: pd.DataFrame, ids: pd.Index, given: np.ndarray, classes: list[str]) -> dict[int, Decision]:
    """By row, the decisions on images that are among `ids` under the same given label, for labels that are still classes."""
    found = {}
    rows, columns = ids.get_indexer(pd.Index(made["image"])), ["image", "verdict", "from_label", "to_label"]
    for row, (image, verdict, before, after) in zip(rows, made[columns].to_numpy(), strict=True):
        label = None if pd.isna(after) else str(after)
        if row >= 0 and classes[given[row]] == before and (label is None or label in classes):
            found[int(row)] = Decision(image, verdict, before, label)
    return found


@lru_cache(maxsize=8)
def _decoded(name: str) -> tuple[np.ndarray, np.ndarray, Path]:
    """Memory-mapped pixels, ends of the previews, and the folder of a decoded dataset."""
    folder = workspace().decoded / name
    size = json.loads((folder / "dataset.json").read_text())["image_size"]
    ends = pq.read_table(folder / "table.parquet", columns=["preview_end"]).column(0).to_numpy()
    pixels = np.memmap(folder / "images.u8", dtype=np.uint8, mode="r", shape=(len(ends), size, size, 3))
    return pixels, ends, folder


def picture(name: str, row: int) -> tuple[bytes, str]:
    """An image of a decoded dataset as people should see it, and its media type.

    Raises:
        InputError: there is no such dataset or row.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", name) or not (workspace().decoded / name / "dataset.json").exists():
        raise InputError(f"no decoded dataset {name!r}")
    pixels, ends, folder = _decoded(name)
    if not 0 <= row < len(ends):
        raise InputError(f"dataset {name} has no image {row}")
    start = int(ends[row - 1]) if row else 0
    if ends[row] > start:
        with (folder / "previews.bin").open("rb") as file:
            file.seek(start)
            return file.read(int(ends[row]) - start), "image/jpeg"
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels[row])).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "image/png"


def picture_url(name: str, row: int) -> str:
    """Where the browser finds an image: by dataset and number, never by path."""
    return f"/pictures/{name}/{row}"
