"""The validation split: matched to the training set's classes, disjoint from it, or drawn from it."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from sharpeye.data.dataset import LabeledImages, joined
from sharpeye.data.near_duplicates import near_duplicates_across
from sharpeye.data.records import label_text
from sharpeye.data.tables import read_table
from sharpeye.errors import InputError

log = logging.getLogger(__name__)
NAMED_IN_WARNING = 5


def by_column(images: LabeledImages) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split after the source's own `split` column or folders.

    Raises:
        InputError: no image is marked as validation.
    """
    validation = images.splits == "validation"
    if not validation.any() or validation.all():
        raise InputError(
            f"{images.name}: no image is marked as {'training' if validation.any() else 'validation'}; "
            "give --validation SPEC, or --validation share:0.1 if a tenth of its labels can be trusted"
        )
    return _apart(images, validation)


def by_list(images: LabeledImages, path: Path) -> tuple[LabeledImages, LabeledImages]:
    """The images that a CSV names (columns `id` and `label`, trusted) become the validation split.

    The rest is the training set.

    Raises:
        InputError: the file cannot be read, or a row names no image or no class.
    """
    table, _ = read_table(path)
    if missing := {"id", "label"} - set(table.columns):
        raise InputError(
            f"{path}: no column {', '.join(sorted(missing))}; a list of trusted images has the columns id "
            "and label"
        )
    rows = pd.Index(images.ids).get_indexer(pd.Index(table["id"].astype(str)))
    labels = pd.Index(images.class_names).get_indexer(pd.Index(table["label"].map(label_text)))
    for column, positions, what in (("id", rows, "training image"), ("label", labels, "class")):
        if (positions < 0).any():
            at = int(np.argmax(positions < 0))
            raise InputError(f"{path}, row {at + 1}: no {what} is called {table[column].iloc[at]!r}")
    chosen = np.zeros(len(images), dtype=bool)
    chosen[rows] = True
    trusted = images.labels.copy()
    trusted[rows] = labels
    training, validation = _apart(images, chosen)
    return training, replace(validation, labels=trusted[chosen])


def with_confirmed(
    training: LabeledImages, validation: LabeledImages, path: Path
) -> tuple[LabeledImages, LabeledImages]:
    """Training images whose labels people confirmed join the validation split, see `by_list`."""
    training, confirmed = by_list(training, path)
    return training, joined(validation, confirmed)


def listed_labels(path: Path) -> "pd.Series[str]":
    """The trusted labels in a list as of `by_list`, by id; of an id that comes twice, the last one."""
    listed = read_table(path)[0].astype(str)
    listed["label"] = listed["label"].map(label_text)
    return listed.drop_duplicates("id", keep="last").set_index("id")["label"]


def _apart(images: LabeledImages, validation: np.ndarray) -> tuple[LabeledImages, LabeledImages]:
    """Training set and validation split; what was skipped so far is listed with the training set alone."""
    chosen = images.subset(validation)
    return images.subset(~validation), replace(chosen, skipped=chosen.skipped.iloc[:0])


def by_share(images: LabeledImages, share: float, seed: int) -> tuple[LabeledImages, LabeledImages]:
    """Draw a stratified share of every class, at least one image each, as validation split.

    The rest is the training set.

    Where rows are marked as trusted in a split column, only those are drawn from.

    Args:
        images: the training source.
        share: above 0, at most 1.
        seed: which images.

    Raises:
        InputError: no training image would be left.
    """
    trusted = np.flatnonzero(images.splits == "trusted")
    if len(trusted) == 0:
        trusted = np.arange(len(images))
    chosen = np.zeros(len(images), dtype=bool)
    chosen[trusted[stratified_share(images.labels[trusted], share, seed)]] = True
    if chosen.all():
        raise InputError(f"--validation share:{share}: no training image would be left")
    return _apart(images, chosen)


def stratified_share(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Mask of a random share of each class, at least one image each, shape (N,)."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen[rows[: max(1, round(share * len(rows)))]] = True
    return chosen


def reconcile(
    training: LabeledImages, validation: LabeledImages, every_class: bool = True
) -> tuple[LabeledImages, LabeledImages]:
    """Make the two fit to be compared: same classes, no common image, every class with validation images.

    Training images that also stand in the validation split (equal content hash) under the same label, and
    training images of a class that has no validation image, are left out with a warning and a row in
    `skipped`. Those that stand there under another label are wrong for certain: they stay, with that label as
    `trusted`. So do pictures that are nearly the same as one there, under other labels alone: on CIFAR-10N
    and the demo, the trusted label was the true one of every such pair.

    Args:
        training: the training set.
        validation: its validation split.
        every_class: labels of a class without a validation image cannot be judged; False where the training
            images judge one another.

    Raises:
        InputError: a validation label is not among the training classes, or nothing is left.
    """
    validation = _with_classes_of(training, validation)
    trusted = trusted_labels(training, validation)
    leaked = (trusted >= 0) & (trusted == training.labels)
    alike = near_trusted_labels(training, validation)
    trusted = np.where(trusted < 0, alike, trusted)
    wrong = (trusted >= 0) & (trusted != training.labels)
    if wrong.any():
        names = np.array(training.class_names, dtype=object)
        told = [
            f"{image} is given as {given!r} and trusted as {label!r}"
            for image, given, label in zip(
                training.ids[wrong], names[training.labels[wrong]], names[trusted[wrong]], strict=True
            )
        ]
        log.warning(
            "%s: %d of its images stand in the validation split, or nearly so, under another label; they "
            "rank first: %s",
            training.name,
            wrong.sum(),
            _some(np.array(told)),
        )
    training = replace(training, trusted=np.where(wrong, trusted, -1))
    if leaked.any():
        log.warning(
            "%s: %d of its images also stand in the validation split; dropped from training: %s",
            training.name,
            leaked.sum(),
            _some(training.ids[leaked]),
        )
        training = training.subset(~leaked, "also in the validation split")
    if every_class and len(np.unique(validation.labels)) < 2:
        raise InputError(f"{validation.name}: the validation split needs images of at least two classes")
    missing = (validation.class_counts() == 0) & every_class
    for index in np.flatnonzero(missing & (training.class_counts() > 0)):
        name = training.class_names[index]
        log.warning(
            "class %r has no validation image, so its labels cannot be judged: its %d training images are "
            "left out; "
            "add some to the validation split",
            name,
            training.class_counts()[index],
        )
        training = training.subset(training.labels != index, f"class {name!r} has no validation image")
    if len(training) == 0:
        raise InputError(f"{training.name}: no training image is left to score")
    return training, validation


def trusted_labels(training: LabeledImages, validation: LabeledImages) -> np.ndarray:
    """The label of the same picture in the validation split, (N,), −1 where it does not stand there.

    The given one where the picture stands there under several labels, and that is one of them.
    """
    labels: dict[str, set[int]] = {}
    for content, label in zip(validation.hashes.tolist(), validation.labels.tolist(), strict=True):
        labels.setdefault(content, set()).add(label)
    found = np.full(len(training), -1, dtype=np.int64)
    for at in np.flatnonzero(np.isin(training.hashes, validation.hashes)):
        known, given = labels[training.hashes[at]], int(training.labels[at])
        found[at] = given if given in known else min(known)
    return found


def near_trusted_labels(training: LabeledImages, validation: LabeledImages) -> np.ndarray:
    """The label of nearly the same picture in the validation split, (N,); −1 where there is none, and where
    one there has the given label."""
    found = np.full(len(training), -1, dtype=np.int64)
    pairs = near_duplicates_across(training, validation)
    found[pairs[:, 0]] = validation.labels[pairs[:, 1]]
    agreeing = pairs[training.labels[pairs[:, 0]] == validation.labels[pairs[:, 1]], 0]
    found[agreeing] = -1
    return found


def _with_classes_of(training: LabeledImages, validation: LabeledImages) -> LabeledImages:
    names = training.class_names
    if validation.class_names == names:
        return validation
    # A number is a position only where the source says so itself.
    numbered = training.numbered and all(name.isdecimal() for name in validation.class_names)
    positions = np.full(len(validation.class_names), -1)
    for index in np.unique(validation.labels):
        name = validation.class_names[index]
        if name in names:
            positions[index] = names.index(name)
        elif numbered and int(name) < len(names):
            positions[index] = int(name)
        else:
            first = validation.ids[validation.labels == index][0]
            raise InputError(
                f"{validation.name}, {first}: label {name!r} is not among the training classes "
                f"({_listed(names)}); the classes there are {_listed(validation.class_names)}: give both the "
                "same names, or remove what does not belong"
            )
    return replace(validation, labels=positions[validation.labels], class_names=names, true_labels=None)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


def _some(ids: np.ndarray) -> str:
    more = len(ids) - NAMED_IN_WARNING
    return ", ".join(map(str, ids[:NAMED_IN_WARNING])) + (
        f" and {more} more (see skipped.csv)" if more > 0 else ""
    )
