"""Cross-fitting of whole networks: every image is judged by a network that did not learn its label.

Where there is no clean split, the surest images of the other folds stand in for it, class by class, as the
noise posterior sees them.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from sharpeye.curvature.linearization import HEAD_BATCH, predict
from sharpeye.data.dataset import LabeledImages
from sharpeye.influence.base import Candidates, MinimumKind, ScoringContext
from sharpeye.influence.evaluation import joined_evaluation
from sharpeye.influence.noise_posterior import RELIANCE, surest
from sharpeye.progress import Progress, image_report
from sharpeye.runs.artifacts import cached, load_array, save_array
from sharpeye.runs.context import Execution, RunContext, with_smaller_batches
from sharpeye.runs.folds import assign_folds, beliefs_of_folds
from sharpeye.runs.minimum import (
    BelievedImages,
    first_minimum,
    given_label_network,
    refined_minimum,
    soft_labels,
)
from sharpeye.runs.networks import Minimum, TrainedNetwork, TrainedStage
from sharpeye.runs.scoring import evaluate_minima, network_features
from sharpeye.runs.stages import BELIEFS
from sharpeye.training.batches import mirror, read_batches
from sharpeye.training.budgets import NETWORK_FOLDS


@dataclass(frozen=True)
class LossInputs:
    """All that decides the losses of images under a network."""

    network: TrainedNetwork
    images: LabeledImages
    mirror: bool


def evaluate_network_folds(
    context: RunContext, kind: MinimumKind, training: LabeledImages
) -> tuple[ScoringContext, Minimum]:
    """The training set as methods are given it, each image at the minimum of its own fold; and one of the
    minima, whose features tell the images apart.

    In each fold: (1) a network is trained on the given labels of the other folds. (2) The noise posterior
    weighs its predictions against the given labels. (3) Where the budget is long enough, a new network is
    trained on these beliefs about the other folds. (4) It is trained to a minimum of the risk of their surest
    images, in the place of a clean split. Influence is taken there.
    """
    config = context.config
    optimizer = "erm" if kind == "erm" else config.optimizer
    fold = assign_folds(training.labels, training.hashes, config.seed, NETWORK_FOLDS)
    beliefs, stages = _cross_fitted_beliefs(context, training, fold)
    wrong = 1 - np.exp(-beliefs.of(training.labels))
    trusted = surest(training.labels, wrong)
    minima, parts = [], []
    for number in range(NETWORK_FOLDS):
        inside, others = of_fold(context, number), fold != number
        learned, split = training.subset(others), training.subset(others & trusted)
        if config.refines:
            rows = np.flatnonzero(others)
            soft = soft_labels(beliefs, training.labels[:0], len(training.class_names)).subset(rows)
            believed = BelievedImages(learned.images, soft, learned.key())
            minima.append(refined_minimum(inside, optimizer, learned, split, believed, stages[number]))
        else:
            minima.append(first_minimum(inside, optimizer, learned, split))
        held = training.subset(~others)
        parts.append(evaluate_minima(inside, kind, [minima[-1]], held, split))
    order = np.concatenate([np.flatnonzero(fold == number) for number in range(NETWORK_FOLDS)])
    evaluation = joined_evaluation(parts, np.argsort(order))
    # Features of different networks cannot be compared.
    features = network_features(context, minima[0], training)
    evaluation = replace(evaluation, features=features)
    return ScoringContext(training.labels, len(training.class_names), evaluation, RELIANCE), minima[0]


def _cross_fitted_beliefs(
    context: RunContext, training: LabeledImages, fold: np.ndarray
) -> tuple[Candidates, list[dict[str, TrainedStage]]]:
    """−log of the noise posterior of every candidate label, by networks that did not see the image's own; and
    the stages of these networks."""
    losses = np.empty((len(training), len(training.class_names)), np.float32)
    stages = []
    for number in range(NETWORK_FOLDS):
        inside = of_fold(context, number)
        network = given_label_network(inside, training.subset(fold != number))
        network.model.eval()
        inputs = LossInputs(network, training.subset(fold == number), context.config.mirror)
        losses[fold == number] = cached(inside, "fold-losses", inputs, _losses, save_array, load_array)
        stages.append(network.stages)
    return beliefs_of_folds(training.labels, losses), stages


def of_fold(context: RunContext, number: int) -> RunContext:
    """The context for the work of one fold, which its progress names."""

    def report(step: Progress) -> None:
        context.execution.report(replace(step, part=f"fold {number + 1} of {NETWORK_FOLDS}"))

    return replace(context, execution=replace(context.execution, report=report))


def _losses(inputs: LossInputs, execution: Execution) -> np.ndarray:
    """−log p of every class, mean over mirrored views, (N, C)."""
    images, report = inputs.images.images, image_report(BELIEFS, execution.report)

    def attempt(divisor: int) -> np.ndarray:
        parts = []
        for rows, batch in read_batches(
            images, np.arange(len(images)), HEAD_BATCH // divisor, execution.device
        ):
            views = [batch, mirror(batch)] if inputs.mirror else [batch]
            logs = torch.stack([predict(inputs.network.model, view)[1] for view in views])
            parts.append(-logs.mean(0).cpu())
            report(int(rows[-1]) + 1, len(images))
        return torch.cat(parts).numpy()

    return with_smaller_batches(attempt, execution.note)
