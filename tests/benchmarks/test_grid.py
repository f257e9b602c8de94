"""Rankings, counts and suggestions over kinds and shares of noise, balances of classes, and sizes of the
clean split, on real images whose true labels are known.

    pytest -m benchmark tests/benchmarks/test_grid.py -s

The packaged demo with heads on EfficientNet-lite0. With SHARPEYE_CIFAR10N=DIR also 4,000 images of CIFAR-10,
among them two columns of human labels on which nothing was chosen; with SHARPEYE_PHOTOS=DIR also a folder of
class folders. SHARPEYE_GRID_NETWORKS=1 adds the demo with whole networks (budget `fast`), which takes a
minute a cell on a fast machine. Prints a table for each and what it comes to, and writes
.benchmarks/grid.json. SHARPEYE_GRID_WORKSPACE=DIR keeps what is computed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.table import Table
from sklearn.metrics import average_precision_score, roc_auc_score

from sharpeye.commands.bench import sources
from sharpeye.config import PHOTOGRAPHS, SMALL, RunConfig, RunOptions
from sharpeye.data.dataset import LabeledImages, natural_size, source_rows
from sharpeye.data.load import fitted, open_sources, open_training
from sharpeye.data.noise import lookalike_noise
from sharpeye.data.torchvision_sets import read_human_labels
from sharpeye.influence.base import MinimumMethod
from sharpeye.influence.canaries import calibration
from sharpeye.influence.methods import loss_posterior, select_methods
from sharpeye.progress import ignore
from sharpeye.runs.context import Execution, RunContext
from sharpeye.runs.embedding import feature_rows
from sharpeye.runs.pipeline import judge, read_splits
from sharpeye.runs.workspace import Workspace, open_workspace
from sharpeye.training.devices import select_device
from tests.benchmarks.reporting import publish

CIFAR_IMAGES = 4000
HUMAN = ("random_label2", "random_label3")
TRUE_COLUMN = "label"
LONG_TAIL = 100.0
RATES = (0, 0.01, 0.03, 0.05, 0.1, 0.2, 0.4, 0.6)
SPLITS = (1, 5, 20, 100)
FEW = ("symmetric 0 %", "symmetric 5 %", "symmetric 40 %", "one class wholly")
PAIR = (0, 1)

Row = dict[str, Any]
Noise = Callable[[LabeledImages, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Cell:
    """A training set with noise, and the clean images beside it."""

    noise: str
    balance: str
    split: int | None
    training: LabeledImages
    validation: LabeledImages


def symmetric(rate: float) -> Noise:
    def noisy(images: LabeledImages, looks: np.ndarray) -> np.ndarray:
        rng, true, classes = np.random.default_rng(0), truth(images), len(images.class_names)
        other = (true + rng.integers(1, classes, len(true))) % classes
        return np.where(rng.random(len(true)) < rate, other, true)

    return noisy


def one_pair(rate: float) -> Noise:
    def noisy(images: LabeledImages, looks: np.ndarray) -> np.ndarray:
        changed = (truth(images) == PAIR[0]) & (np.random.default_rng(0).random(len(images)) < rate)
        return np.where(changed, PAIR[1], truth(images))

    return noisy


def by_looks(rate: float) -> Noise:
    """The images least like their class get the label of the class that they are most like."""

    def noisy(images: LabeledImages, looks: np.ndarray) -> np.ndarray:
        true, classes = truth(images), len(images.class_names)
        means = np.stack([looks[true == label].mean(0) for label in range(classes)])
        distances = ((looks[:, None] - means[None]) ** 2).sum(2)
        own = distances[np.arange(len(true)), true]
        distances[np.arange(len(true)), true] = np.inf
        hardest = np.argsort(distances.min(1) - own)[: round(rate * len(true))]
        labels = true.copy()
        labels[hardest] = distances[hardest].argmin(1)
        return labels

    return noisy


NOISES: dict[str, Noise] = {f"symmetric {100 * rate:g} %": symmetric(rate) for rate in RATES} | {
    "one pair 40 %": one_pair(0.4),
    "one class wholly": one_pair(1.0),
    "look-alikes 10 %": lambda images, looks: lookalike_noise(looks, truth(images), 0.1, 0),
    "look-alikes 40 %": lambda images, looks: lookalike_noise(looks, truth(images), 0.4, 0),
    "by looks 10 %": by_looks(0.1),
}


def truth(images: LabeledImages) -> np.ndarray:
    assert images.true_labels is not None
    return images.true_labels


def long_tailed(images: LabeledImages) -> LabeledImages:
    """A subset whose classes have from a hundredth of the images to all of them."""
    true, classes = truth(images), len(images.class_names)
    most = np.bincount(true).min()
    kept = np.zeros(len(true), dtype=bool)
    for label in range(classes):
        rows = np.flatnonzero(true == label)
        kept[rows[: max(1, round(most * LONG_TAIL ** (-label / (classes - 1))))]] = True
    return images.subset(kept)


def of_each_class(images: LabeledImages, count: int) -> LabeledImages:
    kept = np.zeros(len(images), dtype=bool)
    for label in range(len(images.class_names)):
        kept[np.flatnonzero(images.labels == label)[:count]] = True
    return images.subset(kept)


def read(config: RunConfig, workspace: Workspace) -> tuple[RunContext, LabeledImages, LabeledImages]:
    """The images of a configuration, embedded where it trains heads."""
    training = open_training(config.data)
    config = fitted(config, training, natural_size(training))
    execution = Execution(select_device("cpu"), ignore, lambda note: None)
    context = RunContext(config, workspace, execution)
    return context, *read_splits(context, open_sources(config.data))


def cells_of(training: LabeledImages, validation: LabeledImages, on_features: bool) -> list[Cell]:
    """Every kind of noise as the data come; some with clean images, and with a long tail."""
    looks = (feature_rows(training) if on_features else thumbnails(training)).astype(np.float32)
    nobody = validation.subset(np.zeros(len(validation), dtype=bool))
    # Whole networks are cross-fitted where there is no split, which takes three times as long.
    usual = nobody if on_features else of_each_class(validation, SPLITS[-1])
    cells = [noisy(Cell(name, "even", split_of(on_features), training, usual), looks) for name in NOISES]
    for name in FEW if on_features and len(validation) else ():
        for count in SPLITS:
            split = of_each_class(validation, count)
            cells.append(noisy(Cell(name, "even", count, training, split), looks))
    tail = long_tailed(training)
    tail_looks = looks[np.isin(training.ids, tail.ids)]
    for name in ("symmetric 0 %", "symmetric 5 %", "symmetric 20 %"):
        cells.append(noisy(Cell(name, "100:1", split_of(on_features), tail, usual), tail_looks))
    return cells


def split_of(on_features: bool) -> int | None:
    return None if on_features else SPLITS[-1]


def thumbnails(images: LabeledImages) -> np.ndarray:
    pixels = np.asarray(images.images[np.arange(len(images))], dtype=np.float32)
    return pixels[:, ::4, ::4].reshape(len(images), -1)


def noisy(cell: Cell, looks: np.ndarray) -> Cell:
    labels = NOISES[cell.noise](cell.training, looks)
    return replace(cell, training=replace(cell.training, labels=labels))


def measured(context: RunContext, cell: Cell) -> Row:
    """What is said of one cell, and what is true of it."""
    scoring = judge(context, "flat", cell.training, cell.validation).scoring
    true = truth(cell.training)
    wrong = cell.training.labels != true
    beliefs = loss_posterior(scoring)
    low, high = beliefs.interval
    row: Row = {
        "noise": cell.noise,
        "classes": cell.balance,
        "split": "none" if cell.split is None else str(cell.split),
        "images": len(wrong),
        "wrong": int(wrong.sum()),
        "expected": beliefs.expected_wrong,
        "low": low,
        "high": high,
        "holds": float(low - 0.5 <= wrong.sum() <= high + 0.5),
        "ECE": calibration(beliefs.confidence, beliefs.suggestion == true).error,
    }
    if not wrong.any():
        return row
    methods = [method for method in select_methods(context.config) if isinstance(method, MinimumMethod)]
    for method in methods:
        if method.minimum == "flat":
            row[method.name] = 100 * float(roc_auc_score(wrong, method.score(scoring).influence))
    row["default"] = row[methods[0].name]
    row["behind"] = max(float(row["margin"]), float(row["val_loss"])) - float(row["default"])
    first = methods[0].score(scoring).influence
    row["AP"] = 100 * float(average_precision_score(wrong, first))
    top = np.argsort(-first, kind="stable")[: max(1, round(beliefs.expected_wrong))]
    row["precision"] = 100 * float(wrong[top].mean())
    return row


def configurations() -> dict[str, RunConfig]:
    heads = RunOptions(model=PHOTOGRAPHS, tune="head")
    found = {"demo, heads": RunConfig.of("demo", validation="demo", **heads)}
    if folder := os.environ.get("SHARPEYE_CIFAR10N"):
        train, options = sources(folder, "CIFAR10", TRUE_COLUMN, Path(folder))
        found["CIFAR-10, heads"] = RunConfig.of(train, **(options | heads | RunOptions(limit=CIFAR_IMAGES)))
    if folder := os.environ.get("SHARPEYE_PHOTOS"):
        found["photographs, heads"] = RunConfig.of(folder, validation="none", **heads)
    if os.environ.get("SHARPEYE_GRID_NETWORKS"):
        found["demo, networks"] = RunConfig.of("demo", validation="demo", model=SMALL, budget="fast")
    return found


def human_cells(training: LabeledImages, nobody: LabeledImages) -> list[Cell]:
    """People's labels of CIFAR-10 in columns on which nothing was chosen."""
    file = Path(os.environ["SHARPEYE_CIFAR10N"]) / "CIFAR-10_human.pt"
    rows = source_rows(training)
    return [
        Cell(column, "even", None, replace(training, labels=read_human_labels(file, column)[rows]), nobody)
        for column in HUMAN
    ]


@pytest.mark.benchmark
def test_grid(tmp_path: Path) -> None:
    workspace = open_workspace(os.environ.get("SHARPEYE_GRID_WORKSPACE", str(tmp_path)))
    everything: dict[str, list[Row]] = {}
    for name, config in configurations().items():
        context, training, validation = read(config, workspace)
        if training.true_labels is None:
            # A folder whose labels are right.
            training = replace(training, true_labels=training.labels)
        cells = cells_of(training, validation, context.config.on_features)
        if name.startswith("CIFAR"):
            cells += human_cells(training, validation.subset(np.zeros(len(validation), dtype=bool)))
        everything[name] = [measured(context, cell) for cell in cells]
        publish("grid", everything, table_of(name, everything[name]))
    publish("grid", everything, summary([row for rows in everything.values() for row in rows]))


def table_of(name: str, rows: list[Row]) -> Table:
    titles = ("ECE", "default", "margin", "val_loss", "fvm_newton", "fvm", "precision")
    table = Table("noise", "classes", "split", "wrong", "expected", *titles, title=name)
    for row in rows:
        count = f"{row['expected']:.0f} ({row['low']:.0f}-{row['high']:.0f})"
        figures = (f"{row[title]:.4g}" if title in row else "–" for title in titles)
        table.add_row(row["noise"], row["classes"], row["split"], str(row["wrong"]), count, *figures)
    return table


def summary(rows: list[Row]) -> str:
    """What all cells come to."""
    none = [100 * row["expected"] / row["images"] for row in rows if row["wrong"] == 0]
    from_zero = sum(row["low"] == 0 for row in rows if row["wrong"] == 0)
    holds = np.mean([row["holds"] for row in rows])
    width = np.median([100 * (row["high"] - row["low"]) / row["images"] for row in rows])
    errors = [row["ECE"] for row in rows]
    behind = np.array([row["behind"] for row in rows if "behind" in row])
    return (
        f"{len(rows)} cells; the interval holds the truth in {holds:.0%}, its median width is {width:.1f} %\n"
        f"without noise: expected at most {max(none):.2f} %; 0 in {from_zero} of {len(none)} intervals\n"
        f"ECE of suggestions: median {np.median(errors):.3f}, at most {max(errors):.3f}\n"
        f"default ranking behind the better of margin and loss: at most {behind.max():.2f}, by more than 0.1 "
        f"in {(behind > 0.1).sum()} of {len(behind)}"
    )
