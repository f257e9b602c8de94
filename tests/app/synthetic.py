"""A workspace with a finished run of any size, made in seconds: random scores, written by the engine's own
writers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from PIL import Image

from sharpeye.config import RunConfig
from sharpeye.data.dataset import LabeledImages, ingest, measures_of
from sharpeye.data.findings import DARK, duplicate_findings, names_of
from sharpeye.data.records import Record, Source
from sharpeye.influence.base import Candidates, Scores
from sharpeye.influence.noise_posterior import NoisePosterior
from sharpeye.quality import Estimate, Reliability
from sharpeye.runs import store
from sharpeye.runs.estimates import CanaryEstimates
from sharpeye.runs.findings import ImageFindings
from sharpeye.runs.pipeline import score_columns, write_transition
from sharpeye.runs.result import DecodedImages, MethodResult
from sharpeye.runs.scores import ROW_GROUP, write_scores
from sharpeye.runs.workspace import Workspace, open_workspace
from sharpeye_app import diagnostic_plots
from tests.conftest import blob
from tests.engine.runs.results import write_result

WRONG = 0.2
DECODED = 500
SIDE = 16


def synthetic_workspace(
    folder: Path, images: int, seed: int = 0, class_count: int = 10
) -> tuple[Workspace, str]:
    """A workspace whose one run has scored `images` images, a fifth of them wrongly labelled; the run's id.

    Only DECODED pictures are kept, which the images share.
    """
    workspace = open_workspace(str(folder))
    with store.store(workspace):
        pass
    rng = np.random.default_rng(seed)
    classes = tuple(f"class {number}" for number in range(class_count))
    pictures = _decoded(workspace, rng, classes)
    true = rng.integers(0, class_count, images)
    wrong = rng.random(images) < WRONG
    given = np.where(wrong, (true + 1 + rng.integers(0, 3, images)) % class_count, true)
    training = replace(
        pictures,
        ids=np.array([f"image-{number:07d}.png" for number in range(images)], dtype=object),
        labels=given,
        true_labels=true,
        hashes=np.full(images, "", dtype=object),
        rows=np.arange(images) % len(pictures),
        trusted=np.full(images, -1),
    )
    beliefs = _beliefs(true, given, rng, class_count)
    run = "5e6e7a11c0de"
    result = workspace.run(run)
    result.root.mkdir(parents=True)
    influence = Scores(beliefs.wrong + rng.random(images) * 0.1, beliefs.candidates)
    write_transition(result, training, beliefs)
    scores = {"fvm": influence, "val_loss": Scores(beliefs.wrong, beliefs.candidates)}
    write_scores(result.scores, score_columns(training, scores, beliefs, _findings(training)))
    _write_map(workspace, run, true, rng, classes)
    _finish(workspace, run, training, beliefs)
    return workspace, run


def _decoded(workspace: Workspace, rng: np.random.Generator, classes: tuple[str, ...]) -> LabeledImages:
    """Small pictures, decoded as those of any source are."""

    def read(rows: np.ndarray) -> Iterator[Record]:
        for row in rows:
            yield Record(f"{row}.png", Image.fromarray(blob(int(row), rng, SIDE)), int(row) % len(classes))

    return ingest(
        Source("synthetic", DECODED, classes, read, "synthetic", numbered=True), workspace.decoded, SIDE
    )


def _findings(training: LabeledImages) -> ImageFindings:
    """The first two of every ten images show the same; the eleventh is dark."""
    number = np.arange(len(training))
    groups = np.where(number % 10 < 2, number // 10, -1)
    found = duplicate_findings(groups, training.labels) | {DARK: number == 10}
    return ImageFindings(names_of(found), groups, np.zeros(len(training), np.float32), measures_of(training))


def _beliefs(
    true: np.ndarray, given: np.ndarray, rng: np.random.Generator, class_count: int
) -> NoisePosterior:
    """A posterior that finds most wrong labels, and is unsure of the rest."""
    energies = rng.exponential(6.0, (len(true), class_count)) + 2 + np.log(class_count / 10)
    energies[np.arange(len(true)), true] = rng.exponential(0.7, len(true))
    classes = np.broadcast_to(np.arange(class_count), energies.shape)
    p = np.exp(-energies)
    p /= p.sum(1, keepdims=True)
    wrong = 1 - p[np.arange(len(true)), given]
    return NoisePosterior(
        Candidates(classes, -np.log(p)),
        wrong,
        _noise(class_count),
        1.0,
        np.ones(class_count),
        1.0,
        float(wrong.sum()),
        (0.9 * float(wrong.sum()), 1.1 * float(wrong.sum())),
    )


def _noise(class_count: int) -> np.ndarray:
    """Each class is taken for the three that follow it."""
    identity = np.eye(class_count)
    taken = sum(identity[(np.arange(class_count) + step) % class_count] for step in (1, 2, 3))
    return (1 - WRONG) * identity + WRONG / 3 * taken


def _write_map(
    workspace: Workspace, run: str, true: np.ndarray, rng: np.random.Generator, classes: tuple[str, ...]
) -> None:
    """One round cloud a class, on a circle; the first pictures stand for trusted ones."""
    angle = 2 * np.pi * true / len(classes)
    places = 10 * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(size=(len(true), 2))
    table = pd.DataFrame(places.astype(np.float32), columns=["x", "y"])
    for column in ("near_given", "near_suggested"):
        table[column] = [[0, 1, 2, 3]] * len(table)
    table["near_labels"] = [[classes[label]] * 17 + [classes[label - 1]] * 3 for label in true]
    table.to_parquet(workspace.run(run).embedding, index=False, row_group_size=ROW_GROUP)


def write_figures(workspace: Workspace, run: str) -> None:
    """The data of the Diagnostics page, as the engine lays it out, with made-up values."""
    rows = []
    for phase, epochs in (("pretrain", (1, 2)), ("erm", (1, 2)), ("flat", (1, 2))):
        for epoch in epochs:
            at = {"phase": phase, "epoch": epoch}
            for number, name in enumerate(
                (
                    *diagnostic_plots.MEASURES,
                    *(f"auc {m}" for m in diagnostic_plots.METHOD_NAMES),
                )
            ):
                if name != "auc gex" or phase == "pretrain":
                    rows.append(
                        {
                            **at,
                            "figure": "trajectory",
                            "name": name,
                            "value": 0.5 + 0.01 * number + 0.1 * epoch,
                        }
                    )
            for name in ("influence right", "influence wrong", "lissa right", "lissa wrong"):
                rows += [
                    {**at, "figure": "distribution", "name": name, "x": float(x), "value": 0.1}
                    for x in range(-3, 3)
                ]
        if phase != "pretrain":
            rows += [
                {
                    "phase": phase,
                    "epoch": 2,
                    "figure": "landscape",
                    "name": "risk",
                    "x": float(x),
                    "y": float(y),
                    "value": 1.0 + x * x + y * y,
                }
                for x in range(-2, 3)
                for y in range(-2, 3)
            ]
    pd.DataFrame(rows).to_parquet(workspace.run(run).diagnostics, index=False)
    curve = {"recall": [0.0, 1.0], "precision": [1.0, 0.2]}
    estimates = CanaryEstimates(
        100,
        {"fvm": Estimate(0.95, 0.8, **curve), "val_loss": Estimate(0.97, 0.9, **curve)},
        Reliability([0.5, 0.9], [0.4, 0.9], [0.2, 0.8], 0.02),
    )
    workspace.run(run).canaries.write_bytes(msgspec.json.encode(estimates))


def _finish(workspace: Workspace, run: str, training: LabeledImages, beliefs: NoisePosterior) -> None:
    """The result, in its file and in the store."""
    measured = MethodResult(
        auc=0.97, ap=0.9, suggestion_accuracy=0.9, relabel_accuracy=0.8, score_seconds=1.0, memory_mb=500.0
    )
    result = write_result(
        workspace.run(run),
        n=len(training),
        classes=len(training.class_names),
        expected_wrong=beliefs.expected_wrong,
        expected_wrong_interval=beliefs.interval,
        methods={"fvm": measured, "val_loss": measured},
        scores=str(workspace.run(run).scores),
        classes_in_order=training.class_names,
        images=DecodedImages(training.folder.name, training.folder.name),
    )
    config = RunConfig.of("synthetic", validation="synthetic", methods=("fvm", "val_loss"))
    workspace.run(run).config.write_text(config.to_json())
    with store.store(workspace) as connection:
        store.register_dataset(connection, "dataset", str(config.data.train), {})
        store.describe_dataset(connection, "dataset", training.class_names, training.class_counts().tolist())
        store.submit(connection, run, config, "dataset")
        store.claim(connection, run, "cpu")
        store.finish(connection, run, "done", result=result)
