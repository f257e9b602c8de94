"""The stages that train, on the given labels, then to a minimum of the validation risk."""

import copy
from dataclasses import dataclass, replace

import numpy as np

from sharpeye.config import SMALL
from sharpeye.data.dataset import Images, JoinedImages, LabeledImages, joined, reopening
from sharpeye.influence.base import Candidates
from sharpeye.influence.noise_posterior import REFINING_RELIANCE, label_beliefs
from sharpeye.runs.artifacts import artifact_path, key_of
from sharpeye.runs.context import RunContext, with_smaller_batches
from sharpeye.runs.networks import Minimum, TrainedNetwork, TrainedStage
from sharpeye.runs.scoring import evaluate_minima
from sharpeye.runs.shared_training import Training, train_on_cluster
from sharpeye.runs.stages import (
    BELIEFS,
    PRETRAIN,
    REFINE,
    final_minimum_stage,
    minimum_stage,
)
from sharpeye.training.batches import Labels, SoftLabels, read_batches
from sharpeye.training.budgets import plan_of
from sharpeye.training.models import Classifier, build_model, whiten
from sharpeye.training.trainer import TrainingPlan, snapshots, train

WHITENING_IMAGES = 2000
# So that the refined network starts from other weights than the first.
REFINED_SEED = 1000
# Of the refined minimum, which errs less, against 1 of the first (chosen on CIFAR-10N random1).
REFINED_WEIGHT = 3.0


@dataclass(frozen=True)
class NetworkInputs:
    """All that decides a network before it is trained.

    Attributes:
        model: its name.
        weights: what identifies the weights that it starts from.
        class_count: C.
        seed: of random weights.
        images: those that the first layer of the small model is whitened on.
    """

    model: str
    weights: str
    class_count: int
    seed: int
    images: LabeledImages


@dataclass(frozen=True)
class TrainingInputs:
    """All that decides what a stage of training makes of a network.

    Attributes:
        start: key of the network as it comes.
        images: key of the images.
        labels: key of the labels, or of the beliefs that take their place.
        plan: what to do.
        phase: name of the stage.
        seed: of order, augmentation and noise.
        device: type of the device, since GPUs round otherwise than CPUs.
    """

    start: str
    images: str
    labels: str
    plan: TrainingPlan
    phase: str
    seed: int
    device: str


@dataclass(frozen=True)
class BelievedImages:
    """Images, what is believed of their labels, and a key of the images."""

    images: Images
    labels: SoftLabels
    key: str


def validation_minima(
    context: RunContext, optimizer: str, training: LabeledImages, validation: LabeledImages
) -> list[Minimum]:
    """The networks θ̃ that `optimizer` leads to: a first minimum and, where the budget is long enough, a
    refined one.

    Refining: the noise posterior at the first flat minimum (see `sharpeye.influence.noise_posterior`) takes
    the place of the given labels. A new network is trained on these beliefs and on the validation split
    together, then on the latter by `optimizer`. A network trained on wrong labels keeps some of them in its
    features. One trained on beliefs meets far fewer, but repeats the mistakes of the network that held them.
    The two err on different images, so a mean is better than either.
    """
    config = context.config
    first = first_minimum(context, optimizer, training, validation)
    if not config.refines:
        return [first]
    same = optimizer == config.optimizer
    flat = first if same else first_minimum(context, config.optimizer, training, validation)
    evaluation = evaluate_minima(context.within(BELIEFS), "flat", [flat], training, validation)
    class_count = len(training.class_names)
    losses = Candidates(evaluation.classes, evaluation.losses)
    believed = label_beliefs(
        losses, training.labels, class_count, 1.0, REFINING_RELIANCE, validation.class_shares()
    )
    beliefs = soft_labels(believed, validation.labels, class_count)
    both = JoinedImages(training.images, validation.images)
    second = refined_minimum(
        context,
        optimizer,
        training,
        validation,
        BelievedImages(both, beliefs, key_of((training, validation))),
        first.stages,
    )
    return [first, second]


def refined_minimum(
    context: RunContext,
    optimizer: str,
    training: LabeledImages,
    validation: LabeledImages,
    believed: BelievedImages,
    stages: dict[str, TrainedStage],
) -> Minimum:
    """A new network, trained on beliefs first, and then on the validation split by `optimizer`.

    Args:
        context: of the run.
        optimizer: how the minimum is reached.
        training: the images that the network is whitened on.
        validation: whose risk it is the minimum of.
        believed: what it is trained on first.
        stages: of the way to the beliefs.
    """
    start, model = _new_network(context, training, context.config.seed + REFINED_SEED)
    plan = _plan(context, "refine", len(believed.labels))
    labels = key_of((believed.labels.classes, believed.labels.probabilities))
    refined = _train_stage(
        context, REFINE, start, model, believed.images, believed.labels, plan, believed.key, labels
    )
    last = replace(_plan(context, "final minimum", len(validation)), optimizer=optimizer)
    final = _train_on_split(
        context, final_minimum_stage(optimizer), refined.identity, model, validation, last
    )
    return Minimum(model.eval(), final.identity, REFINED_WEIGHT, stages)


def soft_labels(beliefs: Candidates, trusted: np.ndarray, class_count: int) -> SoftLabels:
    """Beliefs about the training labels (−log probabilities), followed by trusted labels as certain ones."""
    width = beliefs.classes.shape[1]
    certain = np.broadcast_to(trusted[:, None], (len(trusted), width))
    return SoftLabels(
        np.concatenate([beliefs.classes, certain]),
        np.concatenate([np.exp(-beliefs.scores), np.eye(1, width).repeat(len(trusted), 0)]),
        class_count,
    )


def first_minimum(
    context: RunContext, optimizer: str, training: LabeledImages, validation: LabeledImages
) -> Minimum:
    """A minimum of the validation risk: pre-trained on the given labels, then trained on the validation
    split."""
    confirmed = validation.rows < 0
    # What people confirmed is learned from the start, too.
    learned = joined(training, validation.subset(confirmed)) if confirmed.any() else training
    network = given_label_network(context, learned)
    plan = replace(_plan(context, "minimum", len(validation)), optimizer=optimizer)
    stage = _train_on_split(
        context, minimum_stage(optimizer), network.identity, network.model, validation, plan
    )
    return Minimum(network.model.eval(), stage.identity, 1.0, network.stages | {"minimum": stage})


def given_label_network(context: RunContext, training: LabeledImages) -> TrainedNetwork:
    """A network trained on the given labels, unless the configuration leaves that out."""
    start, model = _new_network(context, training, context.config.seed)
    if not context.config.pretrains:
        return TrainedNetwork(model, start, {})
    plan = _plan(context, "pretrain", len(training))
    stage = _train_on_split(context, PRETRAIN, start, model, training, plan)
    return TrainedNetwork(model, stage.identity, {"pretrain": stage})


def _new_network(context: RunContext, training: LabeledImages, seed: int) -> tuple[str, Classifier]:
    """A network before training, and what identifies it."""
    config, device = context.config, context.execution.device
    inputs = NetworkInputs(config.model, str(config.weights_key), len(training.class_names), seed, training)
    model = build_model(config.model, inputs.class_count, str(config.weights), seed).to(device)
    if config.model == SMALL and config.weights == "random":
        rows = np.arange(min(len(training), WHITENING_IMAGES))
        whiten(model, next(read_batches(training.images, rows, len(rows), device))[1])
    return key_of(inputs), model


def _plan(context: RunContext, stage: str, images: int) -> TrainingPlan:
    config = context.config
    return plan_of(config.budget, stage, images, config.mirror, config.weights != "random")


def _train_on_split(
    context: RunContext, phase: str, start: str, model: Classifier, split: LabeledImages, plan: TrainingPlan
) -> TrainedStage:
    """Train in place on labelled images; see `_train_stage`."""
    return _train_stage(
        context, phase, start, model, split.images, split.labels, plan, split.key(), split.key()
    )


def _train_stage(
    context: RunContext,
    phase: str,
    start: str,
    model: Classifier,
    images: Images,
    labels: Labels,
    plan: TrainingPlan,
    images_key: str,
    labels_key: str,
) -> TrainedStage:
    """Train in place, or load what an earlier run trained.

    An interrupted training goes on from its checkpoint.
    """
    execution, seed = context.execution, context.config.seed
    untrained = {name: value.clone() for name, value in model.state_dict().items()}

    def attempt(divisor: int) -> TrainedStage:
        smaller = replace(plan, batch_size=max(2, plan.batch_size // divisor))
        inputs = TrainingInputs(start, images_key, labels_key, smaller, phase, seed, execution.device.type)
        checkpoint = artifact_path(context, phase.partition(" (")[0], inputs)
        model.load_state_dict(untrained)
        if execution.cluster is not None:
            work = Training(
                reopening(images),
                labels,
                copy.deepcopy(model).cpu(),
                smaller,
                phase,
                seed,
                checkpoint,
            )
            train_on_cluster(execution.cluster, work, execution.report)
        train(
            model,
            images,
            labels,
            smaller,
            stage=phase,
            seed=seed,
            device=execution.device,
            checkpoint=checkpoint,
            report=execution.report,
        )
        return TrainedStage(key_of(inputs), tuple(snapshots(smaller, len(labels), checkpoint)))

    return with_smaller_batches(attempt, execution.note)
