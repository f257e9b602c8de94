"""What a run says of itself without true labels, beside the truth, three seeds: AUC on canaries, number of
wrong labels, and how far the confidence of suggestions is off.

    pytest -m benchmark tests/benchmarks/test_canaries.py -s

On the packaged demo; with SHARPEYE_CIFAR10N=DIR (train.parquet and test.parquet) on 10,000 images of
CIFAR-10N worse instead. Prints a table and writes .benchmarks/canaries.json, or canaries-cifar10n.json.
"""

from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from sharpeye.config import RunConfig
from sharpeye.diagnostics.metrics import quality
from sharpeye.influence.canaries import calibration
from sharpeye.influence.methods import MINIMUM_METHODS, loss_posterior
from sharpeye.runs import store
from sharpeye.runs.context import Execution, RunContext
from sharpeye.runs.diagnosis import ESTIMATED, ScoredRun, write_canaries
from sharpeye.runs.estimates import read_estimates
from sharpeye.runs.pipeline import judge, load
from sharpeye.runs.submission import submit_run
from sharpeye.runs.workspace import open_workspace
from sharpeye.training.devices import select_device
from tests.benchmarks.images import chosen_images
from tests.benchmarks.reporting import publish

SEEDS = 3


@pytest.mark.benchmark
def test_canaries(tmp_path: Path) -> None:
    workspace = open_workspace(str(tmp_path / "ws"))
    images = chosen_images("worse_label")
    rows = []
    for seed in range(SEEDS):
        config = RunConfig.of(**images, methods=ESTIMATED, budget="fast", seed=seed)
        with store.store(workspace) as connection:
            row = submit_run(connection, config)
        execution = Execution(select_device("auto"), lambda step: None, print)
        context = RunContext(config, workspace, execution)
        training, validation = load(context, row)
        assert training.true_labels is not None
        scoring = judge(context, "flat", training, validation).scoring
        beliefs = loss_posterior(scoring)
        folder = workspace.run(row.id)
        write_canaries(context, ScoredRun(folder, beliefs, training, validation))
        estimates = read_estimates(folder)
        assert estimates is not None
        for name in ESTIMATED:
            truth = quality(MINIMUM_METHODS[name].score(scoring), training.labels, training.true_labels)
            rows.append(
                {
                    "seed": seed,
                    "what": f"AUC of {name}",
                    "true": truth.auc,
                    "estimated": estimates.methods[name].auc,
                }
            )
        wrong = int((training.labels != training.true_labels).sum())
        rows.append(
            {
                "seed": seed,
                "what": "wrong labels",
                "true": wrong,
                "estimated": beliefs.expected_wrong,
                "interval": beliefs.interval,
            }
        )
        suggested = beliefs.candidates.best()
        error = calibration(
            np.exp(-beliefs.candidates.of(suggested)), suggested == training.true_labels
        ).error
        estimated = estimates.suggestions.error
        rows.append(
            {"seed": seed, "what": "calibration error of suggestions", "true": error, "estimated": estimated}
        )
    table = Table("seed", "what", "true", "estimated", "difference")
    for one in rows:
        if "interval" in one:
            low, high = one["interval"]
            texts = [
                f"{one['true']:,}",
                f"{one['estimated']:,.0f} ({low:,.0f}–{high:,.0f})",
                f"{one['estimated'] / one['true'] - 1:+.1%}",
            ]
        else:
            texts = [
                f"{one['true']:.4f}",
                f"{one['estimated']:.4f}",
                f"{one['estimated'] - one['true']:+.4f}",
            ]
        table.add_row(str(one["seed"]), one["what"], *texts)
    publish("canaries" if images["train"] == "demo" else "canaries-cifar10n", rows, table)
