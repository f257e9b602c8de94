"""Cross-fitting of whole networks where there is no clean split: every image is judged by a network that did
not learn its label, and learned what heads on frozen features believe of the others."""

from dataclasses import replace

import numpy as np

from sharpeye.data.dataset import LabeledImages
from sharpeye.influence.base import Candidates, Evaluation, MinimumKind, ScoringContext
from sharpeye.influence.evaluation import joined_evaluation
from sharpeye.influence.noise_posterior import DOUBTED_RELIANCE, RELIANCE, label_beliefs, surest
from sharpeye.progress import Progress
from sharpeye.runs.context import RunContext
from sharpeye.runs.folds import assign_folds, evaluate_folds
from sharpeye.runs.minimum import BelievedImages, refined_minimum, soft_labels
from sharpeye.runs.networks import Minimum
from sharpeye.runs.scoring import evaluate_minima, network_features
from sharpeye.runs.stages import BELIEFS
from sharpeye.training.budgets import NETWORK_FOLDS


def evaluate_network_folds(
    context: RunContext, kind: MinimumKind, training: LabeledImages, embedded: LabeledImages
) -> tuple[ScoringContext, Minimum]:
    """The training set as methods are given it, each image at the minimum of its own fold; and one of the
    minima, whose features tell the images apart.

    (1) Heads on frozen features are cross-fitted, and the noise posterior weighs their predictions against
    the given labels. (2) In each fold, a network is trained on these beliefs about the other folds. (3) It is
    trained to a minimum of the risk of their surest images, class by class, in the place of a clean split.
    Influence is taken there. A loss is the mean of head and network: the two err on different images.

    Args:
        context: of the run.
        kind: how the minimum is reached.
        training: the images.
        embedded: the same, with features under the frozen network of `RunConfig.on_frozen_features` in the
            place of pixels.
    """
    config = context.config
    optimizer = "erm" if kind == "erm" else config.optimizer
    heads = _evaluated_by_heads(context, embedded)
    class_count = len(training.class_names)
    losses = Candidates(heads.classes, heads.losses)
    beliefs = label_beliefs(losses, training.labels, class_count, None, DOUBTED_RELIANCE)
    soft = soft_labels(beliefs, training.labels[:0], class_count)
    trusted = surest(training.labels, 1 - np.exp(-beliefs.of(training.labels)))
    fold = assign_folds(training.labels, training.hashes, config.seed, NETWORK_FOLDS)
    minima, parts = [], []
    for number in range(NETWORK_FOLDS):
        inside, others = of_fold(context, number), fold != number
        learned, split = training.subset(others), training.subset(others & trusted)
        believed = BelievedImages(learned.images, soft.subset(np.flatnonzero(others)), learned.key())
        minima.append(refined_minimum(inside, optimizer, learned, split, believed, {}))
        held, classes = training.subset(~others), heads.classes[~others]
        parts.append(evaluate_minima(inside, kind, [minima[-1]], held, split, classes))
    order = np.concatenate([np.flatnonzero(fold == number) for number in range(NETWORK_FOLDS)])
    networks = joined_evaluation(parts, np.argsort(order))
    evaluation = replace(
        networks,
        losses=(heads.losses + networks.losses) / 2,
        # Features of different networks cannot be compared.
        features=network_features(context, minima[0], training),
        seconds=heads.seconds + networks.seconds,
    )
    return ScoringContext(training.labels, class_count, evaluation, RELIANCE), minima[0]


def _evaluated_by_heads(context: RunContext, training: LabeledImages) -> Evaluation:
    """The training set by cross-fitted heads on its features."""
    inside = replace(context.within(BELIEFS), config=context.config.on_frozen_features())
    kind: MinimumKind = "erm" if context.config.optimizer == "erm" else "flat"
    trusted = training.subset(np.zeros(len(training), dtype=bool))
    return evaluate_folds(inside, kind, training, trusted).evaluation


def of_fold(context: RunContext, number: int) -> RunContext:
    """The context for the work of one fold, which its progress names."""

    def report(step: Progress) -> None:
        context.execution.report(replace(step, part=f"fold {number + 1} of {NETWORK_FOLDS}"))

    return replace(context, execution=replace(context.execution, report=report))
