"""How well canaries tell the detection AUC without true labels: estimate beside truth, three seeds.

    pytest -m benchmark tests/benchmarks/test_canaries.py -s

On the packaged demo; with SHARPEYE_CIFAR10N=DIR (train.parquet and test.parquet) on 10,000 images of CIFAR-10N worse instead.
Prints a table and writes .benchmarks/canaries.json.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

from engine.config import RunConfig
from engine.diagnostics.metrics import quality
from engine.influence.base import ScoringContext
from engine.influence.methods import METHODS, loss_posterior
from engine.runs import store
from engine.runs.diagnosis import ESTIMATED, write_canaries
from engine.runs.minimum import evaluate_minimum, validation_minimum
from engine.runs.pipeline import load
from engine.runs.stage import Stage
from engine.runs.submission import submit_run
from engine.runs.workspace import open_workspace
from engine.training.devices import select_device

SEEDS = 3


def config_of(seed: int) -> RunConfig:
    if folder := os.environ.get("SHARPEYE_CIFAR10N"):
        return RunConfig(
            f"{folder}/train.parquet", f"{folder}/test.parquet", ESTIMATED, label_column="worse_label", true_label_column="label",
            limit=10_000, budget="fast", seed=seed,
        )  # fmt: skip
    return RunConfig("demo", "demo", ESTIMATED, budget="fast", seed=seed)


@pytest.mark.benchmark
def test_canaries(tmp_path: Path) -> None:
    workspace = open_workspace(str(tmp_path / "ws"))
    rows = []
    for seed in range(SEEDS):
        config = config_of(seed)
        with store.store(workspace) as connection:
            row = submit_run(connection, config)
        stage = Stage(config, workspace, torch.device(select_device("auto")), lambda step: None, print)
        training, validation = load(stage, row)
        trained = validation_minimum(stage, config.optimizer, training, validation)
        evaluation = evaluate_minimum(stage, "score", trained, training, validation)
        context = ScoringContext(training.labels, len(training.class_names), evaluation)
        beliefs = loss_posterior(context)
        folder = workspace.run(row.id)
        write_canaries(stage, folder, beliefs, training, validation)
        found = json.loads(folder.canaries.read_text())["methods"]
        for name in ESTIMATED:
            truth = quality(METHODS[name].score(context), training.labels, training.true_labels)
            rows.append({"seed": seed, "method": name, "auc": truth["auc"], "estimated": found[name]["auc"]})
        assert training.true_labels is not None
        wrong = int((training.labels != training.true_labels).sum())
        rows.append({"seed": seed, "method": "wrong labels", "auc": wrong, "estimated": beliefs.expected_wrong})
    table = Table("seed", "method", "true AUC", "estimated", "difference")
    for one in rows:
        count = one["method"] == "wrong labels"
        texts = [f"{one[key]:,.0f}" if count else f"{one[key]:.4f}" for key in ("auc", "estimated")]
        difference = one["estimated"] / one["auc"] - 1 if count else one["estimated"] - one["auc"]
        table.add_row(str(one["seed"]), one["method"], *texts, f"{difference:+.1%}" if count else f"{difference:+.4f}")
    Console().print(table)
    Path(".benchmarks").mkdir(exist_ok=True)
    Path(".benchmarks/canaries.json").write_text(json.dumps(rows, indent=1))
