"""Reviewing a run: its scores beside what is decided of each image. Never torch."""

import getpass
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from sharpeye.data.findings import masks_of
from sharpeye.errors import InputError
from sharpeye.runs.decisions import (
    VERDICTS,
    Decision,
    blind_decisions,
    changes_since,
    count_since,
    decide,
    earlier_decisions,
    head,
)
from sharpeye.runs.result import RunResult, no_sign, read_result
from sharpeye.runs.reviewed_estimate import Decile, deciles, revised
from sharpeye.runs.scores import read_influence, read_row, read_scores
from sharpeye.runs.store import store
from sharpeye.runs.team import added_classes, midnight
from sharpeye.runs.workspace import RunFolder, Workspace

# The summary tells how many of so many suspects that come next are expected to be wrong.
SUSPECTS_AHEAD = 100
# Over the last of so many decisions, hits are compared with those predicted.
RECENT = 50
STATES = ("open", *VERDICTS)
READING = threading.Lock()
# Verdicts without a label that say that the given one is wrong.
SAY_WRONG = [STATES.index("none")]
EVIDENCE_COLUMNS = ("likely_labels", "likely_probabilities", "candidate_classes", "candidate_scores")


@dataclass(frozen=True)
class ReviewSummary:
    """How far a review is, and what is still expected.

    Attributes:
        images: number of scored images.
        decided: images with a decision.
        changed: images whose label changes.
        expected: wrong labels expected in all: those found, and those expected among open images.
        expected_open: the same among the open images, skipped ones too, in the light of what was found, see
            `sharpeye.runs.reviewed_estimate`.
        interval_open: lowest and highest number of these.
        no_sign: whether there is no sign of any.
        next: number of suspects that come next, at most SUSPECTS_AHEAD.
        expected_next: wrong labels expected among them.
        likely_next: those of them that are more likely wrong than right.
        recent: number of the last decisions, at most RECENT; skipped images aside.
        hits: those of them that say the label was wrong.
        predicted: how many of them were expected to.
        today: images that the person decided on today.
    """

    images: int
    decided: int
    changed: int
    expected: float
    expected_open: float
    interval_open: tuple[float, float]
    no_sign: bool
    next: int
    expected_next: float
    likely_next: int
    recent: int
    hits: int
    predicted: float
    today: int


@dataclass(frozen=True)
class Evidence:
    """What speaks for and against the label of one image.

    Attributes:
        labels: names of the most probable labels, best first, the given one among them.
        probabilities: noise posterior of each.
        candidates: names of the candidate labels, the most plausible first.
        scores: the ranking method's score of each.
        near_labels: labels of the trusted images most like the image, of any class; none before the map.
        near_given: rows of the validation images of the given label that are most like the image.
        near_suggested: the same of the suggested label.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    candidates: tuple[str, ...]
    scores: tuple[float, ...]
    near_labels: tuple[str, ...]
    near_given: tuple[int, ...]
    near_suggested: tuple[int, ...]


@dataclass
class Review:
    """One run's scores, row by row of scores.parquet, and what is decided of each image.

    Attributes:
        run: its id.
        dataset: whose decisions these are.
        folder: of the run.
        result: of the run.
        ids: of the images, (N,).
        classes: names of the C classes, and of those that people added.
        given: class numbers of the given labels, (N,).
        suggested: class numbers of the suggestions, (N,).
        truth: class numbers, −1 where unknown, (N,), or None without true labels.
        rank: 1 for the most suspicious, (N,).
        order: rows by rank, (N,).
        confidence: of the suggestion, (N,).
        wrong: P(given label is wrong), (N,).
        image_row: row in the decoded data set, (N,).
        findings: by name of FINDINGS, the images that have it, bool, (N,).
        duplicate_group: of pictures that show the same, −1 for none, (N,).
        verdict: position in STATES, (N,).
        label: class that a decision gave, −1 where none did, (N,).
        action: number of the action that decided, 0 where none did, (N,).
        earlier: by row, decisions on another state of the source that fit here, see `_fitting`.
        head: sequence number of the last action taken in.
    """

    run: str
    dataset: str
    folder: RunFolder
    result: RunResult
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
    findings: dict[str, np.ndarray]
    duplicate_group: np.ndarray
    verdict: np.ndarray
    label: np.ndarray
    action: np.ndarray
    earlier: dict[int, Decision]
    head: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def decoded(self) -> str:
        """Name of the decoded training images."""
        return self.result.images.training

    @property
    def methods(self) -> list[str]:
        return list(self.result.methods)

    def percentile(self) -> np.ndarray:
        """Share of the images that are less suspicious, in percent, (N,)."""
        return 100.0 * (1 - self.rank / len(self))

    def influence(self, method: str) -> np.ndarray:
        """One method's influence, (N,)."""
        return read_influence(self.folder.scores, [method])[method].to_numpy()

    def evidence(self, row: int) -> Evidence:
        """What speaks for and against the label of one image; neighbours only once the map is drawn.

        Raises:
            InputError: there is no such row.
        """
        known: dict[str, Any] = read_row(self.folder.scores, row, EVIDENCE_COLUMNS)
        scored = zip(known["candidate_scores"], known["candidate_classes"], strict=True)
        pairs = sorted((float(score), str(label)) for score, label in scored)
        near: dict[str, Any] = {"near_given": (), "near_suggested": (), "near_labels": ()}
        if self.folder.embedding.exists():
            near = read_row(self.folder.embedding, row, list(near))
        return Evidence(
            labels=tuple(known["likely_labels"]),
            probabilities=tuple(known["likely_probabilities"]),
            candidates=tuple(label for _, label in pairs),
            scores=tuple(score for score, _ in pairs),
            near_labels=tuple(near["near_labels"]),
            near_given=tuple(one for one in near["near_given"] if one >= 0),
            near_suggested=tuple(one for one in near["near_suggested"] if one >= 0),
        )

    def decision(self, row: int, verdict: str, label: int | None = None, note: str | None = None) -> Decision:
        """A verdict on one row; `label` is the class number chosen where the verdict takes one.

        To accept the given label, or to choose it, is to keep it.

        Raises:
            KeyError: no such verdict.
            IndexError: no such row or class.
            ValueError: the verdict takes a label and there is none.
        """
        gives = VERDICTS[verdict].gives
        if not 0 <= row < len(self):
            raise IndexError(f"row {row}")
        if gives == "chosen" and label is None:
            raise ValueError(f"verdict {verdict!r} without a label")
        if label is not None and not 0 <= label < len(self.classes):
            raise IndexError(f"label {label}")
        labels = {"suggested": self.suggested[row], "given": self.given[row], "chosen": label, "none": None}
        chosen = labels[gives]
        if chosen is not None and chosen == self.given[row]:
            verdict = "keep"
        name = None if chosen is None else self.classes[int(chosen)]
        return Decision(str(self.ids[row]), verdict, self.classes[self.given[row]], name, note or None)

    def still_fitting(self) -> list[Decision]:
        """The earlier decisions on images that are open here."""
        return [decision for row, decision in self.earlier.items() if self.verdict[row] == 0]

    def decide(
        self,
        connection: sqlite3.Connection,
        decisions: list[Decision],
        who: str,
        known_up_to: int | None = None,
        blind: bool = False,
    ) -> None:
        """Append one action of a person; see `sharpeye.runs.decisions.decide`."""
        decide(connection, self.dataset, self.run, who, decisions, known_up_to, blind)

    def second_opinions(self, connection: sqlite3.Connection, who: str) -> dict[int, tuple[int, int]]:
        """Position in STATES and class of a person's blind second opinions, by row."""
        made = blind_decisions(connection, self.dataset)
        made = made[made["who"] == who]
        rows, numbers = self.ids.get_indexer(pd.Index(made["image"])), self._numbers()
        said = made[["verdict", "to_label"]].to_numpy()
        return {
            int(row): (STATES.index(verdict), numbers.get(label or "", -1))
            for row, (verdict, label) in zip(rows, said, strict=True)
            if row >= 0
        }

    def surest_of_classes(self) -> np.ndarray:
        """Of each class, the row of the image whose given label is the surest, (C,); −1 for none."""
        surest = np.full(len(self.classes), -1, dtype=np.int64)
        order = np.argsort(-self.wrong, kind="stable")
        surest[self.given[order]] = order
        return surest

    def rows_of(self, images: Iterable[str]) -> np.ndarray:
        """The rows of images, those that the run lacks left out."""
        rows = self.ids.get_indexer(pd.Index(list(images), dtype=object))
        return rows[rows >= 0]

    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.classes)}

    def refresh(self, connection: sqlite3.Connection) -> None:
        """Take in the decisions made since the last time."""
        with self.lock:
            new = [name for name in added_classes(connection, self.dataset) if name not in self.classes]
            self.classes.extend(new)
            last = head(connection, self.dataset)
            if last == self.head:
                return
            changes = changes_since(connection, self.dataset, self.head)
            rows = self.ids.get_indexer(pd.Index([change[0] for change in changes]))
            numbers = self._numbers()
            for row, (_, verdict, label, action) in zip(rows, changes, strict=True):
                if row >= 0:
                    self.verdict[row] = STATES.index(verdict or "open")
                    self.label[row] = numbers.get(label or "", -1)
                    self.action[row] = action or 0
            self.head = last

    def found_wrong(self, rows: np.ndarray) -> np.ndarray:
        """Which decisions on some rows say that the given label is wrong, bool."""
        label, verdict = self.label[rows], self.verdict[rows]
        return ((label >= 0) & (label != self.given[rows])) | np.isin(verdict, SAY_WRONG)

    def deciles(self) -> list[Decile]:
        """What was found beside what was predicted; skipped images stay open."""
        rows = self._settled()
        return deciles(self.wrong[rows], self.found_wrong(rows))

    def _settled(self) -> np.ndarray:
        """The rows whose label was judged, (n,)."""
        return np.flatnonzero((self.verdict != STATES.index("open")) & (self.verdict != STATES.index("skip")))

    def summary(self, connection: sqlite3.Connection, who: str) -> ReviewSummary:
        """How far the review is, and what is still expected.

        Args:
            connection: the store.
            who: the person whose decisions of today are counted.
        """
        is_open = self.verdict == 0
        decided = self._settled()
        found = self.found_wrong(decided)
        wrong, unsettled = revised(self.wrong, decided, found), np.ones(len(self), dtype=bool)
        unsettled[decided] = False
        if len(decided) > RECENT:
            decided = decided[np.argpartition(-self.action[decided], RECENT)[:RECENT]]
        suspects = self.order[is_open[self.order]][:SUSPECTS_AHEAD]
        changed = (self.label >= 0) & (self.label != self.given)
        before, expected_open = float(self.wrong.sum()), float(wrong[unsettled].sum())
        left = expected_open / before if before > 0 else float(unsettled.mean())
        low, high = (end * left for end in self.result.expected_wrong_interval)
        return ReviewSummary(
            images=len(self),
            decided=int((~is_open).sum()),
            changed=int(changed.sum()),
            expected=float(found.sum()) + expected_open,
            expected_open=expected_open,
            interval_open=(low, high),
            no_sign=no_sign(expected_open, low, len(self)),
            next=len(suspects),
            expected_next=float(wrong[suspects].sum()),
            likely_next=int((wrong[suspects] > 0.5).sum()),
            recent=len(decided),
            hits=int(self.found_wrong(decided).sum()),
            predicted=float(self.wrong[decided].sum()),
            today=count_since(connection, self.dataset, who, midnight()),
        )


def current_user() -> str:
    """The name of this computer's user, under which scripts decide that give no other."""
    return getpass.getuser()


def open_review(workspace: Workspace, run: str) -> Review:
    """A run's scores with the decisions as they stand.

    Raises:
        InputError: it has no scores yet, was deleted, or was computed by an earlier version.
    """
    folder = workspace.run(run)
    if not folder.result.exists():
        raise InputError(f"run {run} has no scores yet")
    with store(workspace) as connection:
        dataset = connection.execute("SELECT dataset FROM runs WHERE id = ?", (run,)).fetchone()
        if dataset is None:
            raise InputError(f"run {run} was deleted")
        with READING:
            # Else everybody who comes at once reads it for themselves.
            review = _read_review(workspace, run, str(dataset[0]), folder.scores.stat().st_mtime_ns)
        review.refresh(connection)
    return review


@lru_cache(maxsize=2)
def _read_review(workspace: Workspace, run: str, dataset: str, written: int) -> Review:
    """Read a run's scores; `written` is when they were, so that later ones are read again."""
    folder = workspace.run(run)
    result = read_result(folder)
    table = read_scores(
        folder.scores,
        [
            "id",
            "given_label",
            "true_label",
            "suggested_label",
            "rank",
            "confidence",
            "wrong_probability",
            "image_row",
            "findings",
            "duplicate_group",
        ],
    )
    classes = list(result.classes_in_order)

    def codes(column: str) -> np.ndarray:
        return np.array(table[column].cat.set_categories(classes).cat.codes, dtype=np.int32)

    ids, given = pd.Index(table["id"]), codes("given_label")
    with store(workspace) as connection:
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
        findings=masks_of(table["findings"]),
        duplicate_group=table["duplicate_group"].to_numpy(np.int64),
        verdict=np.zeros(len(table), dtype=np.int8),
        label=np.full(len(table), -1, dtype=np.int32),
        action=np.zeros(len(table), dtype=np.int64),
        earlier={} if made.empty else _fitting(made, ids, given, classes),
    )


def _fitting(made: pd.DataFrame, ids: pd.Index, given: np.ndarray, classes: list[str]) -> dict[int, Decision]:
    """By row, the decisions on images among `ids` that have the same given label, for labels that are
    still classes."""
    fitting = {}
    rows, columns = ids.get_indexer(pd.Index(made["image"])), ["image", "verdict", "from_label", "to_label"]
    for row, (image, verdict, before, after) in zip(rows, made[columns].to_numpy(), strict=True):
        label = None if pd.isna(after) else str(after)
        if row >= 0 and classes[given[row]] == before and (label is None or label in classes):
            fitting[int(row)] = Decision(image, verdict, before, label)
    return fitting
