from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sharpeye.data.dataset import LabeledImages
from sharpeye.diagnostics.checkpoints import (
    checkpoint_rows,
    evenly,
    labels_known_by_truth,
    labels_of_canaries,
    landscape_rows,
)
from sharpeye.influence import lissa
from sharpeye.influence.tracin import tracin_at
from sharpeye.influence.trajectory import TrajectoryContext
from sharpeye.training.models import small_network
from sharpeye.training.trainer import TrainingPlan, snapshots, train
from tests.conftest import blob

CPU = torch.device("cpu")
CLASSES = 3


def dataset(count: int, wrong: int = 0, known: bool = True) -> LabeledImages:
    true = np.arange(count) % CLASSES
    labels = np.where(np.arange(count) < wrong, (true + 1) % CLASSES, true)
    names = np.array([f"{i}.png" for i in range(count)], dtype=object)
    return LabeledImages(
        "made",
        names,
        np.stack([blob(int(t), np.random.default_rng(i)) for i, t in enumerate(true)]),
        labels,
        true if known else None,
        ("a", "b", "c"),
        np.full(count, "", object),
        names,
        pd.DataFrame(columns=["id", "reason"]),
        Path(),
        np.arange(count),
        np.full(count, -1),
    )


def test_canaries_are_held_out_and_flipped_as_told() -> None:
    validation = dataset(900)
    transition = np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    rest, known = labels_of_canaries(validation, transition, seed=0)
    assert len(rest) + len(known.labels) == 900
    assert len(known.labels) == 300
    assert np.bincount(rest.labels).tolist() == [200, 200, 200]
    assert (known.labels[known.wrong] == 1).all()
    assert known.wrong.sum() == pytest.approx(30, abs=14)


def test_judging_needs_right_and_wrong_labels() -> None:
    assert labels_known_by_truth(dataset(30, wrong=4, known=False)) is None
    assert labels_known_by_truth(dataset(30)) is None
    known = labels_known_by_truth(dataset(30, wrong=4))
    assert known is not None
    assert known.wrong.sum() == 4
    assert evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly(3, 10).tolist() == [0, 1, 2]


def test_a_checkpoint_tells_all_that_the_figures_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lissa, "STEPS", {True: 50})
    training, validation = dataset(90, wrong=12), dataset(60)
    torch.manual_seed(0)
    model = small_network(CLASSES, (8, 8, 8)).to(memory_format=torch.channels_last)
    plan = TrainingPlan(epochs=25, batch_size=16, snapshots=1)
    train(model, training.images, training.labels, plan, seed=0, device=CPU, checkpoint=tmp_path / "c")
    [snapshot] = snapshots(plan, len(training), tmp_path / "c")
    context = TrajectoryContext.of(model, (), (training, validation), "head", 1.0, False, CPU, 0)
    known = labels_known_by_truth(training)
    assert known is not None
    along = tracin_at(replace(context, images=known.images), snapshot)[np.arange(90), known.labels]
    table = checkpoint_rows(context, known, "flat", snapshot, "kfac", along)
    values = table[table["figure"] == "trajectory"].set_index("name")["value"]
    assert {
        "accuracy",
        "loss",
        "sharpness",
        "noisy sharpness",
        "top eigenvalue",
        "top eigenvalue error",
        "trace",
        "trace error",
        "gradient",
    } <= set(values.index)
    assert {name for name in values.index if name.startswith("auc ")} == {
        f"auc {n}" for n in ("influence", "val_loss", "lissa", "tracin", "datainf")
    }
    assert values["sharpness"] > 0
    assert values["accuracy"] > 0.9
    assert values["auc influence"] > 0.9
    shares = table[table["figure"] == "distribution"].groupby("name")["value"].sum()
    np.testing.assert_allclose(shares, 1.0)
    assert set(shares.index) == {"influence right", "influence wrong", "lissa right", "lissa wrong"}
    slice_ = landscape_rows(context, "flat", snapshot)
    middle = slice_[(slice_["x"] == 0) & (slice_["y"] == 0)]["value"].item()
    assert len(slice_) == 169
    assert middle < slice_["value"].max()
