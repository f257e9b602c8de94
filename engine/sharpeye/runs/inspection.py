"""Inspection of a data set before anything is computed on it: what it holds, what is left out, how long a run
would take.

    python -P -m sharpeye.runs.inspection WORKSPACE KEY

It is a process of its own, whose report is a file, so it outlives the page that asked for it.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sharpeye.config import PACKAGED_BACKBONES, SMALL, RunConfig, digest
from sharpeye.costs import RunEstimate
from sharpeye.files import replacing
from sharpeye.runs.reports import Advance, Report, read_report, start_report, write_report
from sharpeye.runs.workspace import InspectionFolder, Workspace

if TYPE_CHECKING:
    from sharpeye.data.dataset import LabeledImages
    from sharpeye.data.records import Source

SAMPLE_PER_CLASS = 12
SHOWN_CONFLICTS = 24


@dataclass(frozen=True)
class InspectedSplit:
    """What a training set or validation split holds.

    Attributes:
        name: how messages call it.
        images: number of usable images.
        counts: images of each class.
        decoded: name of the decoded data set.
        sample: by class number, rows of some of its images in the decoded data set.
    """

    name: str
    images: int
    counts: tuple[int, ...]
    decoded: str
    sample: dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class ModelEstimates:
    """What runs with one model would take on this machine.

    Attributes:
        model: its name.
        tune: what is trained, `head` or `all`.
        budgets: by name of the budget.
    """

    model: str
    tune: str
    budgets: dict[str, RunEstimate]


@dataclass(frozen=True)
class Inspection:
    """What a data set holds.

    Attributes:
        class_names: C names.
        image_size: the images' own largest side in pixels, of the first few.
        model: that fits the images, or that was asked for.
        has_true_labels: whether it brings true labels.
        skipped: number of rows left out, by reason.
        findings: number of training images by name of FINDINGS, but for what takes features.
        conflicts: rows of the decoded data set of some images whose picture has more than one label, side by
            side.
        warnings: what the user should know.
        training: the training set.
        validation: the validation split; None where there is none yet.
        estimates: of the model that fits and of others.
    """

    class_names: tuple[str, ...]
    image_size: int
    model: str
    has_true_labels: bool
    skipped: dict[str, int]
    findings: dict[str, int]
    conflicts: tuple[int, ...]
    warnings: tuple[str, ...]
    training: InspectedSplit
    validation: InspectedSplit | None = None
    estimates: tuple[ModelEstimates, ...] = ()


@dataclass(frozen=True)
class InspectedData:
    """A data set that was inspected: its key, its configuration and the report."""

    key: str
    config: RunConfig
    report: Report[Inspection]


def start_inspection(workspace: Workspace, config: RunConfig) -> str:
    """Start to inspect a configuration's data; the key under which the report will be found."""
    key = digest(repr(config.data), config.model)
    folder = workspace.inspection(key)
    with replacing(folder.config) as temporary:
        temporary.write_text(config.to_json())
    start_report(folder, "sharpeye.runs.inspection", str(workspace.root), key)
    return key


def read_inspection(workspace: Workspace, key: str) -> Report[Inspection] | None:
    """The report on a data set as it stands; None where there is none."""
    return read_report(workspace.inspection(key), Inspection)


def inspections(workspace: Workspace) -> list[InspectedData]:
    """All data sets that were inspected, the latest first."""
    inspected = []
    for path in workspace.inspections.glob("*/config.json"):
        report = read_inspection(workspace, path.parent.name)
        if report is not None:
            inspected.append(InspectedData(path.parent.name, RunConfig.from_json(path.read_text()), report))
    return sorted(inspected, key=lambda one: -one.report.started)


def inspect(
    workspace: Workspace, folder: InspectionFolder, config: RunConfig, advance: Advance
) -> Inspection:
    """Decode a data set and say what it holds.

    Raises:
        InputError: whatever is wrong with it.
    """
    import numpy as np
    import pandas as pd

    from sharpeye.data.dataset import ingest, measures_of, natural_size
    from sharpeye.data.findings import CONFLICT, duplicate_findings, picture_findings
    from sharpeye.data.load import (
        fitted,
        load_splits,
        open_training,
        open_validation,
    )
    from sharpeye.data.near_duplicates import groups_of, near_duplicate_pairs
    from sharpeye.specs import NoValidation
    from sharpeye.training.models import input_size

    def report(done: int, total: int) -> None:
        advance("decode", done, total)

    def read(source: "Source", limit: int | None) -> "LabeledImages":
        return ingest(source, workspace.decoded, size, limit, report)

    data = config.data
    source = open_training(data)
    natural = natural_size(source)
    chosen = fitted(config, source, natural)
    size = None if chosen.on_features else input_size(chosen, natural)
    warnings: list[str] = []
    if isinstance(chosen.data.validation, NoValidation):
        training, validation = read(source, data.limit), None
    else:
        sources = source, open_validation(data, source)
        with _collected_warnings() as warnings:
            training, validation = load_splits(chosen, sources, read)
    parts = [training] if validation is None else [training, validation]
    skipped = pd.concat([part.skipped for part in parts], ignore_index=True)
    with replacing(folder.skipped) as temporary:
        skipped.to_csv(temporary, index=False)
    reasons = skipped["reason"].str.replace(r"\(.*\)", "", regex=True).str.strip()
    advance("compare pictures", 0, 0)
    groups = groups_of(near_duplicate_pairs(training), len(training))
    found = duplicate_findings(groups, training.labels) | picture_findings(measures_of(training))
    found[CONFLICT] |= training.trusted >= 0
    conflicts = np.flatnonzero(found[CONFLICT])
    conflicts = conflicts[np.argsort(groups[conflicts], kind="stable")][:SHOWN_CONFLICTS]
    advance("measure speed", 0, 0)
    counts = len(training), 0 if validation is None else len(validation)
    estimates = _estimates(chosen, len(training.class_names), counts, natural)
    return Inspection(
        class_names=training.class_names,
        image_size=natural,
        model=chosen.model,
        has_true_labels=training.true_labels is not None,
        skipped={str(reason): int(count) for reason, count in reasons.value_counts().items()},
        findings={name: int(images.sum()) for name, images in found.items()},
        conflicts=tuple(training.rows[conflicts].tolist()),
        warnings=tuple(dict.fromkeys([*warnings, *(note for part in parts for note in part.notes)])),
        training=_inspected(training),
        validation=None if validation is None else _inspected(validation),
        estimates=estimates,
    )


def _inspected(images: "LabeledImages") -> InspectedSplit:
    import numpy as np

    sample = {}
    for label in np.unique(images.labels):
        rows = images.rows[images.labels == label]
        spaced = np.unique(np.linspace(0, len(rows) - 1, SAMPLE_PER_CLASS).astype(int))
        sample[int(label)] = tuple(rows[spaced].tolist())
    counts = tuple(images.class_counts().tolist())
    return InspectedSplit(images.name, len(images), counts, images.folder.name, sample)


def _estimates(
    config: RunConfig, classes: int, counts: tuple[int, int], natural: int
) -> tuple[ModelEstimates, ...]:
    """What runs would take with the model of a configuration, and with those that need no download."""
    from sharpeye.training.devices import select_device
    from sharpeye.training.speed import estimate_runs

    device = select_device(config.device)
    estimates = []
    for model in dict.fromkeys((config.model, *PACKAGED_BACKBONES, SMALL)):
        one = config
        if model != config.model:
            usual = replace(config, model=model, weights=None, tune=None, methods=())
            one = usual.resolved(natural, counts[1] > 0)
        budgets = estimate_runs(one, classes, *counts, natural, device)
        estimates.append(ModelEstimates(model, str(one.tune), budgets))
    return tuple(estimates)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """What the data code warns of, to show it to the user."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("sharpeye.data").addHandler(listener)
    try:
        yield lines
    finally:
        logging.getLogger("sharpeye.data").removeHandler(listener)


def main(workspace: Workspace, key: str) -> None:
    """Inspect a data set and write the report."""
    folder = workspace.inspection(key)
    config = RunConfig.from_json(folder.config.read_text())
    write_report(folder, lambda advance: inspect(workspace, folder, config, advance))


if __name__ == "__main__":
    main(Workspace(Path(sys.argv[1])), sys.argv[2])
