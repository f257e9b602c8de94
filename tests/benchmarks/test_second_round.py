"""What a second round gains: the demo, its 300 most suspicious images decided by somebody who knows, and a
run that trusts them; both runs judged on the images that are left.

    pytest -m benchmark tests/benchmarks/test_second_round.py -s

Prints a table and writes .benchmarks/second_round.json. SHARPEYE_SEEDS sets how many seeds (3).
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.table import Table
from sklearn.metrics import roc_auc_score

import sharpeye
from sharpeye.runs.decisions import Decision, decide
from sharpeye.runs.second_round import second_round
from sharpeye.runs.store import store
from tests.benchmarks.reporting import publish

SEEDS = int(os.environ.get("SHARPEYE_SEEDS", "3"))
DECIDED = 300
METHODS = ("fvm", "fvm_newton", "val_loss_posterior", "margin")


def judged(scores: pd.DataFrame, left: list[str]) -> dict[str, float]:
    """AUC of each method, and the share of suggestions that are right, on some images."""
    table = scores.set_index("id").loc[left].astype(dict.fromkeys(("given_label", "true_label"), str))
    wrong = (table["given_label"] != table["true_label"]).to_numpy()
    figures = {f"AUC {name}": float(roc_auc_score(wrong, table[name])) for name in METHODS}
    right = table["suggested_label"].astype(str) == table["true_label"]
    return figures | {"suggestions right": float(right.mean())}


def rounds(workspace: Path, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """The first run's figures and the second's, on the images that nobody decided."""
    options = {"validation": "demo", "budget": "fast", "seed": seed, "methods": METHODS}
    first = sharpeye.run("demo", workspace=workspace, **options)
    scores = first.scores
    known = scores.head(DECIDED).astype(dict.fromkeys(("given_label", "true_label"), str))
    made = [
        Decision(image, "keep" if given == true else "relabel", given, true)
        for image, given, true in known[["id", "given_label", "true_label"]].to_numpy()
    ]
    with store(first.workspace) as connection:
        decide(connection, first.row().dataset, first.id, "who knows", made)
        config = second_round(connection, first.workspace, first.row())
    second = sharpeye.run(**config.options(), workspace=workspace)
    left = second.scores["id"].tolist()
    assert set(left) == set(scores["id"][DECIDED:])
    return judged(scores, left), judged(second.scores, left)


@pytest.mark.benchmark
def test_second_round(tmp_path: Path) -> None:
    table = Table(
        title=f"The demo, {DECIDED} images decided; on the others, in percent (first → second round)"
    )
    figures = []
    for seed in range(SEEDS):
        first, second = rounds(tmp_path / str(seed), seed)
        figures.append({"seed": seed, "first": first, "second": second})
        if seed == 0:
            table.add_column("seed")
            for name in first:
                table.add_column(name, justify="right")
        table.add_row(str(seed), *(f"{100 * first[name]:.2f} → {100 * second[name]:.2f}" for name in first))
    gains = {
        name: float(np.mean([one["second"][name] - one["first"][name] for one in figures])) for name in first
    }
    table.add_row("mean gain", *(f"{100 * gain:+.2f}" for gain in gains.values()))
    publish("second_round", {"figures": figures, "gains": gains}, table)
