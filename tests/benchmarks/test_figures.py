"""The paper's Figures 2 and 3 over seeds: 2,000 images of the demo, budget fast.

    pytest -m benchmark tests/benchmarks/test_figures.py -s

Prints a row a checkpoint, mean ± standard deviation over seeds, and the rank correlation of each method's AUC
with accuracy and sharpness; writes .benchmarks/figures.json. SHARPEYE_SEEDS sets how many seeds (3),
SHARPEYE_KEPT a workspace that keeps the runs, whose Diagnostics page draws the same.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.table import Table
from scipy.stats import spearmanr

import sharpeye
from sharpeye.diagnostics.trajectories import PHASES, mean_trajectory, trajectory
from tests.benchmarks.reporting import publish

SEEDS = int(os.environ.get("SHARPEYE_SEEDS", "3"))
IMAGES = 2000
METHODS = ("influence", "val_loss", "lissa", "datainf", "tracin", "gex")
MEASURES = ("accuracy", "sharpness", "gradient")


def measured(workspace: Path, seed: int) -> pd.DataFrame:
    """The checkpoints of one seed."""
    run = sharpeye.run(
        "demo",
        validation="demo",
        budget="fast",
        limit=IMAGES,
        figures=True,
        seed=seed,
        methods=("fvm", "val_loss"),
        candidates=False,
        workspace=workspace,
    )
    return trajectory(pd.read_parquet(run.workspace.run(run.id).diagnostics))


def correlations(several: list[pd.DataFrame]) -> Table:
    """Spearman's ρ between AUC and a measure over the checkpoints of training on the given labels and of flat
    training, mean ± standard deviation over seeds."""
    table = Table(title="Rank correlation of a method's AUC with")
    table.add_column("method")
    for phase in ("pretrain", "flat"):
        for measure in ("accuracy", "sharpness"):
            table.add_column(f"{measure}, {phase}", justify="right")
    for method in METHODS:
        cells = []
        for phase in ("pretrain", "flat"):
            for measure in ("accuracy", "sharpness"):
                found = []
                for one in several:
                    rows = one[(one["phase"] == phase) & one[f"auc {method}"].notna()]
                    if len(rows) > 2:
                        found.append(spearmanr(rows[f"auc {method}"], rows[measure]).statistic)
                cells.append(f"{np.mean(found):+.2f} ± {np.std(found, ddof=1):.2f}" if found else "–")
        table.add_row(method, *cells)
    return table


@pytest.mark.benchmark
def test_figures(tmp_path: Path) -> None:
    workspace = Path(os.environ.get("SHARPEYE_KEPT", tmp_path))
    several = [measured(workspace, seed) for seed in range(SEEDS)]
    mean = mean_trajectory(several)
    table = Table(title=f"Checkpoints, {SEEDS} seeds; AUC in percent")
    table.add_column("phase, epoch")
    for name in (*MEASURES, *METHODS):
        table.add_column(name, justify="right")
    for _, row in mean.sort_values(
        "phase", key=lambda column: column.map(PHASES.index), kind="stable"
    ).iterrows():
        cells = [f"{row[name]:.2f}±{row[f'{name} error']:.2f}" for name in MEASURES]
        for method in METHODS:
            auc, error = (100 * row[f"auc {method}{end}"] for end in ("", " error"))
            cells.append("–" if np.isnan(auc) else f"{auc:.1f}±{error:.1f}")
        table.add_row(f"{row['phase']} {row['epoch']}", *cells)
    publish("figures", mean.to_dict("records"), table, correlations(several))
