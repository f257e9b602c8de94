"""Why influence detects wrong labels no better than the loss of the same minimum: from one to the other, step
by step.

    pytest -m benchmark tests/benchmarks/test_influence_and_loss.py -s

The loss −log p_y; the residual |p − e_y|², which saturates where the network is sure; the residual weighed by
the inverse curvature between classes (fvm_normalized); and that times the leverage, which is the same for all
labels of an image (fvm). Beside them the family that joins the two ends: (p − e_y)ᵀ(M⁻¹ + wF)⁻¹(p − e_y), F =
diag p − ppᵀ, is fvm for w = 0, fvm_newton for w = 0.1, and ranks as the loss does for w → ∞.

On the packaged demo; with SHARPEYE_CIFAR10N=DIR (train.parquet and test.parquet) on 10,000 images of
CIFAR-10N random1 instead. Prints a table of detection AUC, also among the images that the network is sure to
be mislabelled (p_y below DOUBT), and writes .benchmarks/influence_and_loss.json.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.table import Table
from sklearn.metrics import roc_auc_score

from tests.benchmarks.images import chosen_images
from tests.benchmarks.reporting import publish
from tests.engine.commands.test_cli import result_of, sharpeye

DOUBT = 0.1
METHODS = "val_loss,fvm_newton,fvm_normalized,fvm,fvm_posterior,val_loss_posterior"


@pytest.mark.benchmark
def test_influence_and_loss(tmp_path: Path) -> None:
    images = chosen_images("random_label1")
    options = [part for name, value in images.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = result_of(
        sharpeye("run", *options, "--budget", "fast", "--method", METHODS, "--workspace", tmp_path, "--json")
    )
    scores = pd.read_parquet(result["scores"])
    losses, classes = np.stack(scores["candidate_scores"]), np.stack(scores["candidate_classes"])
    p = np.exp(-losses)
    given = (classes == scores["given_label"].astype(str).to_numpy()[:, None]).argmax(1)
    p_given = np.take_along_axis(p, given[:, None], 1)[:, 0]
    steps = {
        "loss, −log p_y (val_loss)": scores["val_loss"].to_numpy(),
        "residual, |p − e_y|²": (p**2).sum(1) + 1 - 2 * p_given,
        "… by curvature between classes (fvm_normalized)": scores["fvm_normalized"].to_numpy(),
        "… times leverage (fvm)": scores["fvm"].to_numpy(),
        "with the image's own curvature (fvm_newton)": scores["fvm_newton"].to_numpy(),
        "noise posterior on influence (fvm_posterior)": scores["fvm_posterior"].to_numpy(),
        "noise posterior on the loss (val_loss_posterior)": scores["val_loss_posterior"].to_numpy(),
    }
    wrong = (scores["given_label"].astype(str) != scores["true_label"].astype(str)).to_numpy()
    sure = p_given < DOUBT
    rows = [
        {
            "score": name,
            "auc": float(roc_auc_score(wrong, s)),
            "auc_of_sure": float(roc_auc_score(wrong[sure], s[sure])),
        }
        for name, s in steps.items()
    ]
    table = Table("score", "detection AUC", f"among the {sure.sum():,} images of p_y < {DOUBT}")
    for row in rows:
        table.add_row(str(row["score"]), f"{row['auc']:.4f}", f"{row['auc_of_sure']:.4f}")
    publish("influence_and_loss", {"images": images, "rows": rows}, table)
