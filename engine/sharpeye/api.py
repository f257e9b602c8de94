"""The Python interface, for notebooks and scripts. The command line and the app call the same functions."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from sharpeye.config import RunConfig, RunOptions
from sharpeye.errors import InputError

if TYPE_CHECKING:
    import sqlite3

    import pandas as pd
    from numpy.typing import ArrayLike

    from sharpeye.influence.noise_posterior import NoisePosterior
    from sharpeye.progress import Report
    from sharpeye.runs.result import RunResult
    from sharpeye.runs.store import RunRow
    from sharpeye.runs.text_result import TextResult
    from sharpeye.runs.workspace import Workspace
    from sharpeye.text.config import TextConfig

DEFAULT_WORKSPACE = "~/.sharpeye"
POLL_SECONDS = 0.2
# A supervisor that died is replaced after so many seconds at most.
ENSURE_SECONDS = 3.0
CANCEL_SECONDS = 5.0

PathText = str | os.PathLike[str]


class RunFailed(Exception):
    """A run that ended without a result: it failed or was canceled. The message says why and what to do."""


@dataclass(frozen=True)
class Run:
    """A run of a workspace, in whatever state it is.

    Attributes:
        id: of the run.
        workspace: that it is kept in.
    """

    id: str
    workspace: "Workspace"

    def row(self) -> "RunRow":
        """The run as the store knows it: its state, progress, notes and configuration."""
        from sharpeye.runs.store import get_run

        with self._store() as connection:
            return get_run(connection, self.id)

    @property
    def state(self) -> str:
        """`queued`, `running`, `done`, `failed` or `canceled`."""
        return self.row().state

    def wait(self, progress: bool = True) -> "Run":
        """Wait until the run ends; it is computed by a process of its own, and goes on where this wait is
        interrupted.

        Args:
            progress: whether progress is shown on stderr.

        Raises:
            InputError: the input cannot be used.
            RunFailed: it failed otherwise, or was canceled.
        """
        from sharpeye.progress import ignore, progress_bars

        if progress:
            with progress_bars() as report:
                row = self._wait(report)
        else:
            row = self._wait(ignore)
        if row.state == "done":
            return self
        message = row.message or "it was canceled; `resume` goes on with it"
        raise (InputError if row.exit_code == 2 else RunFailed)(f"run {self.id}: {message}")

    def _wait(self, report: "Report") -> "RunRow":
        from sharpeye.runs.store import FINISHED, get_run
        from sharpeye.runs.supervisor import ensure_supervisor

        reported, ensured = None, float("-inf")
        with self._store() as connection:
            while (row := get_run(connection, self.id)).state not in FINISHED:
                if time.monotonic() - ensured > ENSURE_SECONDS:
                    ensure_supervisor(self.workspace)
                    ensured = time.monotonic()
                step = row.step()
                if step is not None and step != reported:
                    reported = step
                    report(step)
                time.sleep(POLL_SECONDS)
        return row

    @property
    def result(self) -> "RunResult":
        """What was computed, apart from the scores.

        Raises:
            InputError: the run has no scores yet, or an earlier version computed it.
        """
        from sharpeye.runs.result import read_result

        return read_result(self.workspace.run(self.id))

    @property
    def scores(self) -> "pd.DataFrame":
        """One row an image, the most suspicious first; columns as in `sharpeye.runs.scores.ScoreColumns`.

        Raises:
            InputError: the run has no scores yet.
        """
        import pandas as pd

        return pd.read_parquet(self.result.scores).sort_values("rank", ignore_index=True)

    def suspects(self, count: int = 20) -> "pd.DataFrame":
        """The most suspicious images: their id, given and suggested label, confidence and P(wrong)."""
        from sharpeye.runs.scores import read_scores

        table = read_scores(
            Path(self.result.scores),
            ["rank", "id", "given_label", "suggested_label", "confidence", "wrong_probability"],
        )
        return table.nsmallest(count, "rank", keep="first").reset_index(drop=True)

    def decide(
        self,
        image: str,
        verdict: str,
        label: str | None = None,
        *,
        note: str | None = None,
        who: str | None = None,
    ) -> None:
        """Record a decision on one image, as the Review page does.

        Args:
            image: its id.
            verdict: `accept` the suggestion, `keep` the given label, `relabel`, or another of
                `sharpeye.runs.decisions.VERDICTS`.
            label: the class to relabel to.
            note: kept with the decision.
            who: decides; None for this computer's user.

        Raises:
            InputError: no such image, verdict or class.
        """
        import pandas as pd

        from sharpeye.runs.decisions import VERDICTS
        from sharpeye.runs.review import current_user, open_review

        review = open_review(self.workspace, self.id)
        row = int(review.ids.get_indexer(pd.Index([image]))[0])
        if row < 0:
            raise InputError(f"run {self.id} has no image {image!r}")
        if verdict not in VERDICTS:
            raise InputError(f"verdict {verdict!r}: choose from {', '.join(VERDICTS)}")
        if (VERDICTS[verdict].gives == "chosen") != (label is not None):
            raise InputError(f"verdict {verdict!r} {'needs' if label is None else 'takes no'} label")
        if label is not None and label not in review.classes:
            raise InputError(f"{label!r} is not among the classes: {', '.join(review.classes[:20])}")
        chosen = None if label is None else review.classes.index(label)
        with self._store() as connection:
            made = review.decision(row, verdict, chosen, note)
            review.decide(connection, [made], who or current_user())

    def undo(self, who: str | None = None) -> bool:
        """Take back a person's last decision, this computer's user's for None; False where there is none."""
        from sharpeye.runs.decisions import undo
        from sharpeye.runs.review import current_user

        with self._store() as connection:
            return undo(connection, self.row().dataset, who or current_user()) is not None

    @property
    def decisions(self) -> "pd.DataFrame":
        """The decision that holds for each decided image."""
        from sharpeye.runs.decisions import current_decisions

        with self._store() as connection:
            return current_decisions(connection, self.row().dataset)

    def export(self, folder: PathText, images: bool = False, formats: Sequence[str] = ()) -> "pd.DataFrame":
        """Write cleaned labels and the decision log to a folder, with `images` a cleaned copy too.

        Args:
            folder: made where it is not there.
            images: also a cleaned copy of a folder of class folders.
            formats: also files for other tools: `label-studio`, `cvat`, `coco`, `cleanlab`.

        Returns:
            The cleaned labels.

        Raises:
            InputError: there is nothing to export, or something is in the way; nothing is written then.
        """
        from sharpeye.runs.export import export

        target = Path(folder).expanduser()
        try:
            with self._store() as connection:
                return export(connection, self.workspace, self.row(), target, images, formats)
        except OSError as error:
            raise InputError(f"{target}: cannot be written to ({error})") from error

    def import_decisions(self, file: PathText, who: str | None = None) -> int:
        """Add the decision log of an export, or annotations of Label Studio, FiftyOne, CVAT or COCO, to this
        run's data set; the number of actions added.

        Args:
            file: of these.
            who: whose they are, where annotations do not say.

        Raises:
            InputError: the file is no decision log of these classes; nothing is added then.
        """
        from sharpeye.runs.decision_import import import_log

        with self._store() as connection:
            return import_log(connection, self.workspace, self.row(), Path(file).expanduser(), who)

    def report(self) -> str:
        """A report on the review of this run: one HTML page that needs nothing else."""
        from sharpeye.runs.review_report import review_report

        with self._store() as connection:
            return review_report(connection, self.workspace, self.row())

    def cancel(self) -> str:
        """Cancel the run, whose results so far are kept; the state after at most CANCEL_SECONDS."""
        from sharpeye.runs.store import request_cancel
        from sharpeye.runs.supervisor import ensure_supervisor

        with self._store() as connection:
            state = request_cancel(connection, self.id).state
        ensure_supervisor(self.workspace)
        deadline = time.monotonic() + CANCEL_SECONDS
        while state == "running" and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            state = self.state
        return state

    def resume(self) -> "Run":
        """Queue a run again that failed, was canceled or was cut off; `wait` for it."""
        from sharpeye.runs.store import resume
        from sharpeye.runs.supervisor import ensure_supervisor

        with self._store() as connection:
            resume(connection, self.id)
        ensure_supervisor(self.workspace)
        return self

    def delete(self) -> None:
        """Delete a finished run and its files; decisions on its images are kept.

        Raises:
            InputError: it is not finished.
        """
        import shutil

        from sharpeye.runs.store import delete_run

        with self._store() as connection:
            delete_run(connection, self.id)
        shutil.rmtree(self.workspace.run(self.id).root, ignore_errors=True)

    @contextmanager
    def _store(self) -> "Iterator[sqlite3.Connection]":
        from sharpeye.runs.store import store

        with store(self.workspace) as connection:
            yield connection


@dataclass(frozen=True)
class TextRun(Run):
    """A run on text of a workspace, in whatever state it is."""

    @property
    def result(self) -> "TextResult":  # type: ignore[override]
        """What was computed, apart from the tables.

        Raises:
            InputError: the run has no scores yet, or an earlier version computed it.
        """
        from sharpeye.runs.text_result import read_text_result

        return read_text_result(self.workspace.run(self.id))

    @property
    def scores(self) -> "pd.DataFrame":
        """One row a training example, the most suspicious first: id, prompt, completion, class,
        self_influence, loss and rank.

        Raises:
            InputError: the run has no scores yet.
        """
        from sharpeye.runs.text_review import open_text_review

        return open_text_review(self.workspace, self.id).training.sort_values("rank", ignore_index=True)

    def influences(self, validation: str, count: int = 20) -> "pd.DataFrame":
        """The training examples that influence a validation example most, with their influence: above 0 they
        help, below they harm.

        Args:
            validation: id of the validation example.
            count: how many.

        Raises:
            InputError: the run has no scores yet, or no such validation example.
        """
        from sharpeye.runs.text_review import open_text_review

        review = open_text_review(self.workspace, self.id)
        return review.examples(review.influence(review.validation_row(validation)), count)

    def ask(self, prompt: str, completion: str = "", count: int = 20) -> "tuple[str, pd.DataFrame]":
        """A completion of a prompt of one's own, and the training examples that influence it most.

        Args:
            prompt: any text.
            completion: whose loss influence is about; empty for what the trained model says.
            count: how many examples.

        Raises:
            InputError: the run has no scores yet, the prompt is empty, or the tables changed since the run.
        """
        import numpy as np

        from sharpeye.runs.text_question import Question, answer
        from sharpeye.runs.text_review import open_text_review

        review = open_text_review(self.workspace, self.id)
        found = answer(self.workspace, review, Question(prompt, completion), lambda *step: None)
        return found.completion, review.examples(np.array(found.influence), count)

    def decide(  # type: ignore[override]
        self, example: str, verdict: str, completion: str | None = None, *, who: str | None = None
    ) -> None:
        """Record a decision on one training example, as the Text page does.

        Args:
            example: its id.
            verdict: `drop`, `keep`, `edit` or `skip`.
            completion: the new one, to edit.
            who: decides; None for this computer's user.

        Raises:
            InputError: no such example or verdict, or an edit without a completion.
        """
        from sharpeye.runs.review import current_user
        from sharpeye.runs.text_review import open_text_review

        review = open_text_review(self.workspace, self.id)
        review.decide(example, verdict, who or current_user(), completion)

    def export_text(self, folder: PathText) -> int:
        """Write cleaned.jsonl, with decisions applied, and decisions.csv to a folder; how many examples are
        kept.

        Raises:
            InputError: the run has no scores yet, or the folder cannot be written to.
        """
        from sharpeye.runs.text_review import open_text_review

        return open_text_review(self.workspace, self.id).export(Path(folder).expanduser())


def start_text(
    train: str, validation: str, model: str, *, workspace: PathText = DEFAULT_WORKSPACE, **options: Any
) -> TextRun:
    """Queue a run on text, which a process of its own computes.

    Args:
        train: a .jsonl, .csv, .tsv or .parquet table of prompts and completions.
        validation: the same of trusted examples, or `share:0.1` of the training examples.
        model: folder or name of a causal model of Hugging Face, or a .gguf file.
        workspace: folder that keeps runs.
        options: see `sharpeye.text.config.TextConfig`.

    Raises:
        InputError: an option is unknown or does not fit, or a table cannot be read.
    """
    from sharpeye.text.config import TextConfig

    try:
        config = TextConfig(train, validation, model, **options)
    except TypeError as error:
        raise InputError(f"unknown option ({error})") from error
    return submit_text(config, workspace)


def submit_text(config: "TextConfig", workspace: PathText) -> TextRun:
    """Queue a configuration; raises InputError as `start_text` does."""
    from sharpeye.runs import text_submission
    from sharpeye.runs.store import store
    from sharpeye.runs.supervisor import ensure_supervisor
    from sharpeye.runs.workspace import open_workspace

    folder = open_workspace(os.fspath(workspace))
    with store(folder) as connection:
        row = text_submission.submit_text(connection, config)
    ensure_supervisor(folder)
    return TextRun(row.id, folder)


def run(train: str, *, workspace: PathText = DEFAULT_WORKSPACE, **options: Unpack[RunOptions]) -> Run:
    """Rank training images by influence and suggest labels; waits, and shows progress on stderr.

    The same run is not computed twice. See `start` for the arguments, and `Run.wait` for errors.
    """
    return start(train, workspace=workspace, **options).wait()


def start(train: str, *, workspace: PathText = DEFAULT_WORKSPACE, **options: Unpack[RunOptions]) -> Run:
    """Queue a run, which a process of its own computes.

    Args:
        train: `demo`, a folder of class folders, a .csv or .parquet file, or `torchvision:NAME[/SPLIT]`.
        workspace: folder that keeps runs.
        options: as those of `sharpeye run`; see `sharpeye.config.RunConfig`.

    Raises:
        InputError: an option is unknown or does not fit the others, or a source cannot be read.
    """
    return submit(RunConfig.of(train, **options), workspace)


def submit(config: RunConfig, workspace: PathText) -> Run:
    """Queue a configuration; raises InputError as `start` does."""
    from sharpeye.runs.store import store
    from sharpeye.runs.submission import submit_run
    from sharpeye.runs.supervisor import ensure_supervisor
    from sharpeye.runs.workspace import open_workspace

    folder = open_workspace(os.fspath(workspace))
    with store(folder) as connection:
        row = submit_run(connection, config)
    ensure_supervisor(folder)
    return Run(row.id, folder)


def open_run(run: str, workspace: PathText = DEFAULT_WORKSPACE) -> Run:
    """A run by its id, or by the beginning of it; a TextRun where it is one on text.

    Raises:
        InputError: there is none, or there are several.
    """
    from sharpeye.runs.store import get_run, store
    from sharpeye.runs.workspace import open_workspace

    folder = open_workspace(os.fspath(workspace))
    with store(folder) as connection:
        return _opened(get_run(connection, run), folder)


def _opened(row: "RunRow", folder: "Workspace") -> Run:
    return (TextRun if row.is_text else Run)(row.id, folder)


def list_runs(workspace: PathText = DEFAULT_WORKSPACE) -> list[Run]:
    """All runs of a workspace, in the order in which they were submitted."""
    from sharpeye.runs.store import list_runs, store
    from sharpeye.runs.workspace import open_workspace

    folder = open_workspace(os.fspath(workspace))
    with store(folder) as connection:
        return [_opened(row, folder) for row in list_runs(connection)]


def score(
    features: "ArrayLike",
    labels: "ArrayLike",
    validation_features: "ArrayLike",
    validation_labels: "ArrayLike",
    *,
    damping: float = 1.0,
    seed: int = 0,
) -> "pd.DataFrame":
    """Influence of feature vectors at a flat minimum of a linear classifier; needs no workspace.

    Args:
        features: of the training images, (N, d), from any backbone.
        labels: given labels, (N,), numbers or names.
        validation_features: of images with trusted labels, (M, d).
        validation_labels: trusted labels, (M,).
        damping: λ relative to the mean eigenvalue of the Hessian.
        seed: of the training noise.

    Returns:
        One row an image, in order: `fvm` and `val_loss`, higher = more suspicious, `suggested_label`, its
            `confidence`
        and `wrong_probability`.

    Raises:
        InputError: the arrays do not fit together, hold missing numbers, or a class has no validation image.
    """
    from sharpeye.influence.features import score_features

    return score_features(features, labels, validation_features, validation_labels, damping, seed)


def noise_posterior(
    probabilities: "ArrayLike", labels: "ArrayLike", prior: "ArrayLike | None" = None
) -> "NoisePosterior":
    """What is believed of every label, from probabilities that a network gave without having seen that label.

    Args:
        probabilities: p(class | image), (N, C).
        labels: given labels, class numbers, (N,).
        prior: class shares of what the network was trained on, (C,); None: the mean of the probabilities.

    Returns:
        Among others `wrong`, P(given label is wrong), `suggestion`, `confidence` and `expected_wrong`.

    Raises:
        InputError: the arrays do not fit together, or a row is no distribution.
    """
    from sharpeye.influence.features import posterior_of_probabilities

    return posterior_of_probabilities(probabilities, labels, prior)
