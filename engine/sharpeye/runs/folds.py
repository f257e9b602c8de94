"""Cross-fitting on frozen features: every image is judged by a head that did not see its label.

Each fold's validation risk is that of the other folds, under what is believed of their labels, and of the
trusted images. So a clean split is welcome, and not needed: the noise posterior says how far each given label
can be trusted. Influence is taken at the minimum of that risk.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file

from sharpeye.curvature.fit import fit_curvature
from sharpeye.data.dataset import Images, JoinedImages, LabeledImages, SelectedImages
from sharpeye.influence.base import Candidates, Evaluation, MinimumKind, ScoringContext
from sharpeye.influence.class_biases import class_biases
from sharpeye.influence.evaluation import candidate_classes, evaluate, joined_evaluation
from sharpeye.influence.noise_posterior import DOUBTED_RELIANCE, RELIANCE, label_beliefs
from sharpeye.progress import ImageReport, Progress, image_report
from sharpeye.runs.artifacts import cached
from sharpeye.runs.context import Execution, RunContext, with_smaller_batches
from sharpeye.runs.embedding import encoder_key, feature_rows
from sharpeye.runs.minimum import soft_labels
from sharpeye.runs.scoring import load_evaluation, save_evaluation
from sharpeye.runs.stages import HEADS, curvature_stage, minimum_stage, score_stage
from sharpeye.specs import TrustedList
from sharpeye.training.batches import SoftLabels
from sharpeye.training.heads import Head, choose_ridge, fit_head, log_probabilities, zero_head
from sharpeye.training.trainer import TrainingPlan, train

FOLDS = 5
# Flat training from the minimum of the convex risk.
FLAT_EPOCHS = 5
FLAT_LEARNING_RATE = 0.3
FLAT_BATCH = 256


@dataclass(frozen=True)
class HeadInputs:
    """All that decides the heads.

    Attributes:
        training: whose labels are in doubt.
        validation: whose labels are trusted; may be empty.
        sampled: whether those are a sample, which speaks for the others. A list may have been chosen by
            suspicion, as those images are that people confirmed.
        encoder: what identifies their features.
        optimizer: how a minimum is reached: `erm`, `sam` or `lpf-sgd`.
        seed: of the folds and of flat training.
        device: type of the device.
    """

    training: LabeledImages
    validation: LabeledImages
    sampled: bool
    encoder: str
    optimizer: str
    seed: int
    device: str


@dataclass(frozen=True)
class Heads:
    """A head for each fold, and the fold of each training image, (N,)."""

    heads: tuple[Head, ...]
    fold: np.ndarray


@dataclass(frozen=True)
class HeadEvaluationInputs:
    """All that decides the evaluation of images by the heads of their folds."""

    heads: HeadInputs
    curvature: str
    damping: float
    candidates: bool


def evaluate_folds(
    context: RunContext, kind: MinimumKind, training: LabeledImages, validation: LabeledImages
) -> ScoringContext:
    """The training set as methods are given it, each image at the minimum of its own fold.

    Args:
        context: of the run.
        kind: how the minimum is reached.
        training: features in the place of images.
        validation: the same, trusted; may be empty.
    """
    inputs = _evaluation_inputs(context, kind, training, validation)

    def compute(inputs: HeadEvaluationInputs, execution: Execution) -> Evaluation:
        return evaluated_folds(_heads(context, inputs.heads), inputs, kind, execution)

    evaluation = cached(context, "fold-evaluation", inputs, compute, save_evaluation, load_evaluation)
    evaluation = replace(evaluation, features=feature_rows(training))
    return ScoringContext(training.labels, len(training.class_names), evaluation, RELIANCE)


def evaluate_held(
    context: RunContext,
    kind: MinimumKind,
    training: LabeledImages,
    validation: LabeledImages,
    held: LabeledImages,
) -> Evaluation:
    """Other images at the minimum of one fold, for arguments of `evaluate_folds`."""
    inputs, execution = _evaluation_inputs(context, kind, training, validation), context.execution
    heads = _heads(context, inputs.heads)
    others = JoinedImages(training.subset(heads.fold != 0).images, validation.images)
    report = image_report(score_stage(kind), execution.report)
    return evaluated_at(heads.heads[0], others, held, inputs, execution, report)


def _evaluation_inputs(
    context: RunContext, kind: MinimumKind, training: LabeledImages, validation: LabeledImages
) -> HeadEvaluationInputs:
    config = context.config
    optimizer, device = "erm" if kind == "erm" else config.optimizer, context.execution.device.type
    sampled = not isinstance(config.data.validation, TrustedList)
    heads = HeadInputs(training, validation, sampled, encoder_key(config), optimizer, config.seed, device)
    return HeadEvaluationInputs(heads, config.curvature, config.damping, config.candidates)


def _heads(context: RunContext, inputs: HeadInputs) -> Heads:
    """The heads of all folds; read where they were fitted before."""

    def load(path: Path) -> Heads:
        return _load_heads(path, context.execution.device)

    return cached(context, "heads", inputs, fit_heads, _save_heads, load)


def assign_folds(labels: np.ndarray, hashes: np.ndarray, seed: int, count: int = FOLDS) -> np.ndarray:
    """One of `count` folds for each image, balanced within each class, (N,).

    Copies of an image share a fold, so that none is judged by a head that learned its copy's label.
    """
    rng = np.random.default_rng(seed)
    _, first, copy_of = np.unique(hashes, return_index=True, return_inverse=True)
    fold = np.zeros(len(first), dtype=np.int64)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels[first] == label))
        fold[rows] = (np.arange(len(rows)) + rng.integers(count)) % count
    return fold[copy_of]


def fit_heads(inputs: HeadInputs, execution: Execution) -> Heads:
    """Heads on the given labels first, then on the beliefs that these heads lead to.

    Trusted images are held out from the former, too, and correct their beliefs where they contradict them,
    see `sharpeye.influence.class_biases`.
    """
    training, validation, device = inputs.training, inputs.validation, execution.device
    class_count, count = len(training.class_names), len(training)
    features = JoinedImages(training.images, validation.images)
    labels = np.concatenate([training.labels, validation.labels])
    judged = assign_folds(training.labels, training.hashes, inputs.seed)
    trusted = assign_folds(validation.labels, validation.hashes, inputs.seed)
    fold = np.concatenate([judged, trusted])
    total, done = 2 * FOLDS + 1, 0

    def advance(part: str) -> None:
        nonlocal done
        execution.report(Progress(HEADS, done, total, "head", part=part))
        done += 1

    advance("choosing the ridge")
    start = zero_head(features, np.arange(len(features)), class_count, device)
    learned = [
        np.concatenate([np.flatnonzero(judged != number), np.arange(count, len(features))])
        for number in range(FOLDS)
    ]
    ridge, start = choose_ridge(features, labels, learned[0], np.flatnonzero(judged == 0), start, device)
    heads, losses = [], np.empty((len(features), class_count), np.float32)
    for number in range(FOLDS):
        advance("on the given labels")
        heads.append(fit_head(features, np.flatnonzero(fold != number), labels, start, ridge, device))
        held = np.flatnonzero(fold == number)
        losses[held] = -log_probabilities(heads[-1], features, held, device)
    # What people confirmed beside the split has no row of its own there.
    sample = inputs.sampled & (validation.rows >= 0)
    losses[:count] -= class_biases(losses[count:][sample], validation.labels[sample])
    beliefs = beliefs_of_folds(training.labels, losses[:count])
    soft = soft_labels(beliefs, validation.labels, class_count)
    for number, rows in enumerate(learned):
        advance("on beliefs")
        heads[number] = fit_head(features, rows, soft, heads[number], ridge, device)
    if inputs.optimizer != "erm":
        heads = [
            flattened(head, features, rows, soft, ridge, inputs, execution)
            for head, rows in zip(heads, learned, strict=True)
        ]
    return Heads(tuple(heads), judged)


def beliefs_of_folds(labels: np.ndarray, losses: np.ndarray) -> Candidates:
    """−log of the noise posterior of every candidate label, by predictors that did not see the image's own.

    Args:
        labels: given labels, (N,).
        losses: −log p of every class but for a constant, each image's by the predictor of its fold, (N, C).
    """
    minus_log = torch.from_numpy(losses)
    classes = candidate_classes(minus_log, torch.tensor(labels))
    candidates = Candidates(classes.numpy(), minus_log.gather(1, classes).numpy())
    return label_beliefs(candidates, labels, losses.shape[1], None, DOUBTED_RELIANCE)


def flattened(
    head: Head,
    features: JoinedImages,
    rows: np.ndarray,
    labels: SoftLabels,
    ridge: float,
    inputs: HeadInputs,
    execution: Execution,
) -> Head:
    """A head moved from the minimum of its risk to where the surroundings are low too, by `optimizer`."""
    model = head.classifier()
    plan = TrainingPlan(
        epochs=FLAT_EPOCHS,
        optimizer=inputs.optimizer,
        learning_rate=FLAT_LEARNING_RATE,
        batch_size=max(2, min(FLAT_BATCH, len(rows) // 4)),
        weight_decay=ridge,
        snapshots=0,
    )
    train(
        model,
        SelectedImages(features, rows),
        labels.subset(rows),
        plan,
        seed=inputs.seed,
        device=execution.device,
        stage=minimum_stage(inputs.optimizer),
        report=execution.report,
    )
    return replace(head, weight=model.head.weight.detach(), bias=model.head.bias.detach())


def evaluated_folds(
    heads: Heads, inputs: HeadEvaluationInputs, kind: str, execution: Execution
) -> Evaluation:
    """The training set, each image by the head of its fold, in the order of the training set."""
    training, validation = inputs.heads.training, inputs.heads.validation
    parts, order, done = [], [], 0
    report = image_report(score_stage(kind), execution.report)
    for number, head in enumerate(heads.heads):
        held = heads.fold == number
        others = JoinedImages(training.subset(~held).images, validation.images)

        def advance(rows: int, total: int, before: int = done) -> None:
            report(before + rows, len(training))

        execution.start(curvature_stage(kind))
        parts.append(evaluated_at(head, others, training.subset(held), inputs, execution, advance))
        order.append(np.flatnonzero(held))
        done += len(order[-1])
    return joined_evaluation(parts, np.argsort(np.concatenate(order)))


def evaluated_at(
    head: Head,
    learned: Images,
    held: LabeledImages,
    inputs: HeadEvaluationInputs,
    execution: Execution,
    report: ImageReport,
) -> Evaluation:
    """Evaluation of some images at a head, with the curvature of the risk over the features it learned.

    Without features, which whoever asks has.
    """
    model, device = head.classifier(), execution.device

    def attempt(divisor: int) -> Evaluation:
        curvature = fit_curvature(
            model, inputs.curvature, "head", learned, inputs.damping, device, inputs.heads.seed, divisor
        )
        return evaluate(
            model,
            curvature,
            held.images,
            held.labels,
            parameters="head",
            all_candidates=inputs.candidates,
            mirrored=False,
            device=device,
            report=report,
            divisor=divisor,
        )

    evaluation = with_smaller_batches(attempt, execution.note)
    return replace(evaluation, features=np.empty((len(held), 0), np.float16))


def _save_heads(heads: Heads, path: Path) -> None:
    tensors = {
        "weights": torch.stack([head.weight for head in heads.heads]),
        "biases": torch.stack([head.bias for head in heads.heads]),
        "centre": heads.heads[0].centre,
        "scale": torch.tensor(heads.heads[0].scale, dtype=torch.float64),
        "fold": torch.from_numpy(heads.fold),
    }
    save_torch_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path)


def _load_heads(path: Path, device: torch.device) -> Heads:
    tensors = load_torch_file(path)
    centre, scale = tensors["centre"].to(device), float(tensors["scale"])
    heads = tuple(
        Head(weight.to(device), bias.to(device), centre, scale)
        for weight, bias in zip(tensors["weights"], tensors["biases"], strict=True)
    )
    return Heads(heads, tensors["fold"].numpy())
