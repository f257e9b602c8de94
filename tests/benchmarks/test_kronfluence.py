"""EK-FAC influence of a whole network beside kronfluence's, configured alike: the same network, images,
labels and damping.

    pip install kronfluence
    pytest -m benchmark tests/benchmarks/test_kronfluence.py -s

Factors of every Conv2d and Linear layer from FACTOR_IMAGES of the demo's validation images, then the
influence of SCORED of its training images under their given labels; ours also under all ten. Prints a table
and writes .benchmarks/kronfluence.json.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.table import Table
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from sharpeye.config import RunConfig
from sharpeye.curvature.fit import fit_curvature
from sharpeye.data.dataset import LabeledImages, ingest
from sharpeye.data.load import load_splits, open_sources
from sharpeye.data.records import Source
from sharpeye.influence.evaluation import evaluate
from sharpeye.training.batches import normalize
from sharpeye.training.devices import select_device
from sharpeye.training.models import small_network
from sharpeye.training.trainer import TrainingPlan, train
from tests.benchmarks.reporting import publish

DEMO_SIDE = 28
FACTOR_IMAGES = 1500
SCORED = 512
DAMPING = 0.1
BATCH = 128


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def kronfluence_scores(
    model: nn.Module, factors: Any, scored: Any, folder: Path
) -> tuple[np.ndarray, float, float]:
    """Self-influence by kronfluence, with the seconds of the factors and of the scores."""
    analyzer_module = pytest.importorskip("kronfluence.analyzer")
    arguments = pytest.importorskip("kronfluence.arguments")
    task_class: Any = pytest.importorskip("kronfluence.task").Task

    class Classification(task_class):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> torch.Tensor:
            logits = model(batch[0]).float()
            labels = torch.multinomial(logits.detach().softmax(1), 1)[:, 0] if sample else batch[1]
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
            return self.compute_train_loss(batch, model)

    task = Classification()
    analyzer = analyzer_module.Analyzer(
        "benchmark",
        analyzer_module.prepare_model(model, task),
        task,
        output_dir=str(folder),
        disable_tqdm=True,
    )
    amp = torch.bfloat16
    _, fitting = timed(
        lambda: analyzer.fit_all_factors(
            "ekfac", factors, BATCH, factor_args=arguments.FactorArguments(strategy="ekfac", amp_dtype=amp)
        )
    )
    _, scoring = timed(
        lambda: analyzer.compute_self_scores(
            "scores",
            "ekfac",
            scored,
            BATCH,
            score_args=arguments.ScoreArguments(damping_factor=None, amp_dtype=amp),
        )
    )
    return analyzer.load_self_scores("scores")["all_modules"].float().numpy(), fitting, scoring


@pytest.mark.benchmark
# kronfluence calls what torch calls deprecated.
@pytest.mark.filterwarnings("ignore:.*:FutureWarning:", "ignore:.*:UserWarning:")
def test_kronfluence(tmp_path: Path) -> None:
    pytest.importorskip("kronfluence")
    device = select_device("auto")
    config = RunConfig.of("demo", validation="demo", methods=("fvm",), tune="all")

    def read(source: Source, limit: int | None) -> LabeledImages:
        return ingest(source, tmp_path / "decoded", DEMO_SIDE, limit)

    training, validation = load_splits(config, open_sources(config.data), read)
    torch.manual_seed(0)
    model = small_network(len(training.class_names)).to(device, memory_format=torch.channels_last)
    plan = TrainingPlan(1, batch_size=128)
    train(
        model,
        validation.images,
        validation.labels,
        plan,
        seed=0,
        device=device,
        checkpoint=tmp_path / "network",
    )
    trusted, rows = np.asarray(validation.images[np.arange(FACTOR_IMAGES)]), np.arange(SCORED)
    images, labels = np.asarray(training.images[rows]), training.labels[rows]
    curvature, fitting = timed(lambda: fit_curvature(model, "ekfac", "all", trusted, DAMPING, device, seed=0))
    given = evaluate(
        model,
        curvature,
        images,
        labels,
        parameters="all",
        all_candidates=False,
        mirrored=False,
        device=device,
    )
    every = evaluate(
        model, curvature, images, labels, parameters="all", all_candidates=True, mirrored=False, device=device
    )

    def dataset(pixels: np.ndarray, of: np.ndarray) -> torch.utils.data.TensorDataset:
        return torch.utils.data.TensorDataset(
            normalize(torch.from_numpy(pixels)).contiguous(), torch.tensor(of)
        )

    theirs, their_fitting, their_scoring = kronfluence_scores(
        model,
        dataset(trusted, validation.labels[:FACTOR_IMAGES]),
        dataset(images, labels),
        tmp_path / "kronfluence",
    )
    correlation = float(spearmanr(theirs, given.influence[:, 0]).statistic)
    rows = [
        {"what": f"factors from {FACTOR_IMAGES} images", "ours": fitting, "kronfluence": their_fitting},
        {
            "what": f"influence of {SCORED} images, given labels",
            "ours": given.seconds,
            "kronfluence": their_scoring,
        },
        {
            "what": f"influence of {SCORED} images, all 10 labels",
            "ours": every.seconds,
            "kronfluence": their_scoring,
        },
    ]
    table = Table("what", "Sharpeye, s", "kronfluence, s", "faster")
    for row in rows:
        table.add_row(
            row["what"],
            f"{row['ours']:.2f}",
            f"{row['kronfluence']:.2f}",
            f"{row['kronfluence'] / row['ours']:.1f}×",
        )
    publish(
        "kronfluence",
        {"rows": rows, "correlation": correlation},
        table,
        f"rank correlation {correlation:.4f}",
    )
