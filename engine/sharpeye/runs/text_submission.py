"""From a configuration to a queued run on text, without torch: what can be checked at once is checked."""

import sqlite3
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from sharpeye.config import VERSION, digest
from sharpeye.errors import InputError
from sharpeye.files import file_stamp
from sharpeye.runs.store import RunRow, register_dataset, submit
from sharpeye.text.config import TextConfig
from sharpeye.text.examples import TextExamples, read_examples

SHARE, SWAP = 41, 42


@dataclass(frozen=True)
class TextSplits:
    """Training and validation examples.

    Attributes:
        training: whose influence is taken.
        validation: trusted ones.
        swapped: whether a training example has the completion of another one, for benchmarks, (N,).
        notes: what the user should know of how they were read.
    """

    training: TextExamples
    validation: TextExamples
    swapped: np.ndarray
    notes: tuple[str, ...]


def read_splits(config: TextConfig) -> TextSplits:
    """The examples of a configuration.

    Raises:
        InputError: a table cannot be read, or one is too small.
    """
    training = read_examples(Path(config.train).expanduser())
    notes = training.notes
    if config.shared:
        order = np.random.default_rng([config.seed, SHARE]).permutation(len(training))
        taken = np.sort(order[: max(1, round(config.share * len(training)))])
        validation = training.take(taken)
        training = training.take(np.setdiff1d(np.arange(len(training)), taken))
    else:
        validation = read_examples(Path(config.validation).expanduser())
        notes = (*notes, *validation.notes)
    if config.limit is not None and config.limit < len(training):
        training = training.take(np.linspace(0, len(training) - 1, config.limit).round().astype(int))
    if len(training) < 2:
        raise InputError(f"{config.train}: at least two training examples are needed")
    swapped = np.zeros(len(training), dtype=bool)
    if config.corrupt:
        training, swapped = swap_completions(training, config.corrupt, config.seed)
    return TextSplits(training, validation, swapped, tuple(dict.fromkeys(notes)))


def swap_completions(examples: TextExamples, share: float, seed: int) -> tuple[TextExamples, np.ndarray]:
    """A share of the examples, with completions passed around among them, each to one of another class.

    Raises:
        InputError: there are no classes, or too few examples of other classes.
    """
    if examples.classes is None:
        raise InputError("--corrupt needs a column of classes, across which completions are swapped")
    rng = np.random.default_rng([seed, SWAP])
    chosen = rng.permutation(len(examples))[: round(share * len(examples))]
    kinds = np.unique(np.array(examples.classes, dtype=str)[chosen], return_inverse=True)[1]
    # At most half are of one class, the others would not have enough completions to give.
    sizes = np.bincount(kinds, minlength=1)
    surplus = max(0, int(2 * sizes.max() - len(chosen)))
    kept = np.delete(np.arange(len(chosen)), np.flatnonzero(kinds == sizes.argmax())[:surplus])
    order = chosen[kept[np.argsort(kinds[kept], kind="stable")]]
    if not len(order):
        raise InputError(f"--corrupt {share}: too few examples of other classes to swap completions with")
    # In order of class, a shift by the size of the largest one gives everybody another class's completion.
    givers = np.roll(order, int(np.bincount(kinds[kept]).max()))
    completions = list(examples.completions)
    for row, giver in zip(order, givers, strict=True):
        completions[row] = examples.completions[giver]
    swapped = np.zeros(len(examples), dtype=bool)
    swapped[order] = True
    return replace(examples, completions=tuple(completions)), swapped


def model_key(path: str) -> str:
    """What identifies a model: its name, or the state of its file or of the files of its folder."""
    place = Path(path).expanduser()
    if place.is_file():
        return repr(file_stamp(place))
    if place.is_dir():
        return repr([file_stamp(one) for one in sorted(place.iterdir()) if one.is_file()])
    return path


def identify_text(config: TextConfig, splits: TextSplits) -> tuple[str, str]:
    """Ids of a run and of its training data; both change with what the examples say, the first also with the
    model's files."""
    dataset = digest("text", Path(config.train).name, splits.training.key())
    return digest(VERSION, asdict(config), model_key(config.model), dataset, splits.validation.key()), dataset


def splits_of_run(config: TextConfig, run: str) -> TextSplits:
    """The examples of a run that was submitted.

    Raises:
        InputError: they or the model are not what they were then, or cannot be used.
    """
    splits = read_splits(config)
    if identify_text(config, splits)[0] != run:
        raise InputError(
            f"{config.train}, its validation examples or the model changed since this run was submitted"
        )
    return splits


def submit_text(connection: sqlite3.Connection, config: TextConfig) -> RunRow:
    """Check a configuration, register its data and queue the run.

    Raises:
        InputError: an option that does not fit, or a table that cannot be read.
    """
    config = config.checked()
    splits = read_splits(config)
    run, dataset = identify_text(config, splits)
    register_dataset(connection, dataset, config.train, {})
    return submit(connection, run, config, dataset)
