"""Reviewing a run on text: its examples beside what is decided of each. Never torch."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from sharpeye.errors import InputError
from sharpeye.files import replacing
from sharpeye.runs.decisions import Decision, Verdict, current_decisions, decide, read_log, redo, undo
from sharpeye.runs.store import get_run, store
from sharpeye.runs.text_result import TextResult, read_text_result
from sharpeye.runs.workspace import Workspace
from sharpeye.text.config import TextConfig
from sharpeye.text.quality import importance

TEXT_VERDICTS = {
    "drop": Verdict("none", "Dropped", "Drop the example", "d", excludes=True),
    "keep": Verdict("given", "Kept", "Keep it", "k"),
    "edit": Verdict("chosen", "Edited", "Edit the completion", "e"),
    "skip": Verdict("none", "Skipped", "Skip it", "s"),
}


@dataclass(frozen=True)
class TextReview:
    """One run's examples and their influence.

    Attributes:
        run: its id.
        dataset: whose decisions these are.
        workspace: that it is kept in.
        config: of the run.
        result: of the run.
        training: id, prompt, completion, class, self_influence, loss and rank, one row an example.
        validation: id, prompt, completion, class, and what the model said before and after.
        pairs: influence, one row a validation example, (V, N).
    """

    run: str
    dataset: str
    workspace: Workspace
    config: TextConfig
    result: TextResult
    training: pd.DataFrame
    validation: pd.DataFrame
    pairs: np.ndarray

    def validation_row(self, name: str) -> int:
        """The row of a validation example.

        Raises:
            InputError: there is none of this id.
        """
        rows = np.flatnonzero(self.validation["id"] == name)
        if not len(rows):
            raise InputError(f"run {self.run} has no validation example {name!r}")
        return int(rows[0])

    def influence(self, row: int) -> np.ndarray:
        """Influence of each training example on a validation example, (N,); above 0 it helps."""
        return np.asarray(self.pairs[row])

    def most_influential(self, influence: np.ndarray) -> np.ndarray:
        """Rows of the training examples, those of most influence on one completion first, (N,)."""
        return np.argsort(-importance(self.result.ranked_by, influence), kind="stable")

    def examples(self, influence: np.ndarray, count: int) -> pd.DataFrame:
        """The training examples of most influence on one completion, with that influence."""
        order = self.most_influential(influence)[:count]
        return self.training.iloc[order].assign(influence=influence[order])

    def decisions(self) -> pd.DataFrame:
        """The decision that holds for each decided example, by its id."""
        with store(self.workspace) as connection:
            return current_decisions(connection, self.dataset).set_index("image")

    def decide(self, name: str, verdict: str, who: str, completion: str | None = None) -> None:
        """Record a decision on a training example.

        Args:
            name: its id.
            verdict: one of TEXT_VERDICTS.
            who: decides.
            completion: the new one, to edit.

        Raises:
            InputError: no such example or verdict, or an edit without a completion.
        """
        rows = np.flatnonzero(self.training["id"] == name)
        if not len(rows):
            raise InputError(f"run {self.run} has no training example {name!r}")
        if verdict not in TEXT_VERDICTS:
            raise InputError(f"verdict {verdict!r}: choose from {', '.join(TEXT_VERDICTS)}")
        gives = TEXT_VERDICTS[verdict].gives
        if gives == "chosen" and not (completion or "").strip():
            raise InputError("an edited completion must say something; to leave the example out, drop it")
        given = str(self.training["completion"].iloc[rows[0]])
        becomes = {"none": None, "given": given, "chosen": completion}[gives]
        if gives == "chosen" and becomes == given:
            verdict = "keep"
        with store(self.workspace) as connection:
            decide(connection, self.dataset, self.run, who, [Decision(name, verdict, given, becomes)])

    def undo(self, who: str) -> bool:
        """Take back a person's last decision; False where there is none."""
        with store(self.workspace) as connection:
            return undo(connection, self.dataset, who) is not None

    def redo(self, who: str) -> bool:
        """Bring back the decision that a person undid last; False where there is none."""
        with store(self.workspace) as connection:
            return redo(connection, self.dataset, who) is not None

    def cleaned(self) -> pd.DataFrame:
        """The training examples with decisions applied: id, prompt, completion and, where known, class."""
        made = self.decisions()
        table = self.training[["id", "prompt", "completion", "class"]].set_index("id")
        dropped = made.index[made["verdict"] == "drop"]
        edited = made[made["verdict"] == "edit"]
        table.loc[edited.index, "completion"] = edited["to_label"]
        table = table.drop(index=dropped).reset_index()
        return table if (table["class"] != "").any() else table.drop(columns="class")

    def export(self, folder: Path) -> int:
        """Write cleaned.jsonl and decisions.csv; the number of examples kept.

        Raises:
            InputError: the folder cannot be written to.
        """
        table = self.cleaned()
        try:
            with replacing(folder / "cleaned.jsonl") as temporary:
                temporary.write_text(json_lines(table), encoding="utf-8")
            with store(self.workspace) as connection, replacing(folder / "decisions.csv") as temporary:
                read_log(connection, self.dataset).to_csv(temporary, index=False)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to ({error})") from error
        return len(table)


def json_lines(table: pd.DataFrame) -> str:
    """A table as JSON lines."""
    return table.to_json(orient="records", lines=True, force_ascii=False)


def open_text_review(workspace: Workspace, run: str) -> TextReview:
    """A run's examples and their influence.

    Raises:
        InputError: it has no scores yet, was deleted, is one on images, or is of an earlier version.
    """
    folder = workspace.run(run)
    if not folder.result.exists():
        raise InputError(f"run {run} has no scores yet")
    with store(workspace) as connection:
        row = get_run(connection, run)
    if not row.is_text:
        raise InputError(f"run {run} is one on images")
    return _read_review(workspace, run, row.dataset, row.config, folder.result.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_review(workspace: Workspace, run: str, dataset: str, config: str, written: int) -> TextReview:
    """Read a run's tables; `written` is when they were, so that later ones are read again."""
    folder = workspace.run(run)
    return TextReview(
        run,
        dataset,
        workspace,
        TextConfig.from_json(config),
        read_text_result(folder),
        pd.read_parquet(folder.scores),
        pd.read_parquet(folder.validation_examples),
        np.load(folder.pairs, mmap_mode="r"),
    )
