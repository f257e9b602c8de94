"""The stages that train, on the given labels, then to a minimum of the validation risk, and the evaluation of images there."""

from dataclasses import asdict, dataclass, replace

import numpy as np
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file

from engine.config import VERSION, digest
from engine.curvature.base import Curvature
from engine.curvature.fit import fit_curvature, restore_curvature
from engine.data.dataset import JoinedImages, LabeledImages
from engine.files import replacing
from engine.influence.base import Evaluation, ScoringContext
from engine.influence.evaluation import evaluate, mean_evaluation
from engine.influence.methods import loss_posterior
from engine.influence.noise_posterior import REFINED_RELIANCE, REFINING_RELIANCE, RELIANCE
from engine.progress import Progress
from engine.runs.stage import Stage, image_report, with_smaller_batches
from engine.training.batches import Images, Labels, SoftLabels, read_batches
from engine.training.budgets import images_of_stages, plans
from engine.training.models import Classifier, build_model, whiten
from engine.training.trainer import Snapshot, TrainingPlan, snapshots, train

WHITENING_IMAGES = 2000
# So that the refined network starts from other weights than the first.
REFINED_SEED = 1000
# Of the refined minimum, which errs less, against 1 of the first (chosen on CIFAR-10N random1).
REFINED_WEIGHT = 3.0


@dataclass(frozen=True)
class Trained:
    """A network at a validation minimum.

    Attributes:
        model: in eval mode.
        key: identifies it.
        reliance: how much a given label counts beside its predictions.
        weight: of its evaluation in the mean over minima.
        snapshots: of the way there, by stage, `pretrain` (where there is one) and `minimum`.
        origins: what identifies each of these stages.
    """

    model: Classifier
    key: str
    reliance: float
    weight: float
    snapshots: dict[str, tuple[Snapshot, ...]]
    origins: dict[str, str]


def validation_minima(stage: Stage, optimizer: str, training: LabeledImages, validation: LabeledImages) -> list[Trained]:
    """The networks θ̃ that `optimizer` leads to: the first minimum and, where the budget is long enough, a refined one.

    Refining: what is believed of the given labels at the first flat minimum (see `engine.influence.noise_posterior`) takes their
    place, and a new network is trained on these beliefs and on the validation split together, then on the latter by `optimizer`.
    A network that was told wrong labels keeps some of them in its features; one that is told beliefs hears of far fewer, but
    repeats the mistakes of the network that held them. The two err on different images: a mean is better than either.
    """
    config = stage.config
    first = first_minimum(stage, optimizer, training, validation)
    if not config.refines:
        return [first]
    planned = _plans(stage, training, validation)
    flat = first if optimizer == config.optimizer else first_minimum(stage, config.optimizer, training, validation)
    look = evaluate_minima(stage.within("first look"), "score", [flat], training, validation)
    beliefs = loss_posterior(ScoringContext(training.labels, len(training.class_names), look, REFINING_RELIANCE)).candidates
    soft = SoftLabels(
        np.concatenate(
            [beliefs.classes, np.broadcast_to(validation.labels[:, None], (len(validation), beliefs.classes.shape[1]))]
        ),
        np.concatenate([np.exp(-beliefs.scores), np.eye(1, beliefs.classes.shape[1]).repeat(len(validation), 0)]),
        len(training.class_names),
    )
    both, model = JoinedImages(training.images, validation.images), _new_network(stage, training, config.seed + REFINED_SEED)
    upstream = [flat.key, training.key(), validation.key(), config.parameters, config.mirror, REFINED_SEED, REFINING_RELIANCE]
    upstream, _ = _train_stage(stage, "refine", model, both, soft, planned["refine"], upstream)
    last = replace(planned["final minimum"], optimizer=optimizer)
    upstream, _ = _train_stage(stage, "final minimum", model, validation.images, validation.labels, last, upstream)
    return [first, replace(first, model=model.eval(), key=digest(upstream), reliance=REFINED_RELIANCE, weight=REFINED_WEIGHT)]


def first_minimum(stage: Stage, optimizer: str, training: LabeledImages, validation: LabeledImages) -> Trained:
    """A minimum of the validation risk: pre-trained on the given labels, then trained on the validation split by `optimizer`."""
    config = stage.config
    model = _new_network(stage, training, config.seed)
    planned = _plans(stage, training, validation)
    steps = [("minimum", validation, replace(planned["minimum"], optimizer=optimizer))]
    if config.pretrains:
        steps.insert(0, ("pretrain", training, planned["pretrain"]))
    upstream: list[object] = [VERSION, config.model, config.weights_key, config.seed, stage.device.type, training.key()]
    kept, origins = {}, {}
    for name, images, plan in steps:
        upstream, kept[name] = _train_stage(stage, name, model, images.images, images.labels, plan, [*upstream, images.key()])
        origins[name] = digest(upstream)
    return Trained(model.eval(), digest(upstream), RELIANCE, 1.0, kept, origins)


def _new_network(stage: Stage, training: LabeledImages, seed: int) -> Classifier:
    config, device = stage.config, stage.device
    model = build_model(config.model, len(training.class_names), config.weights, seed).to(device)
    if config.model == "small" and config.weights is None:
        rows = np.arange(min(len(training), WHITENING_IMAGES))
        whiten(model, next(read_batches(training.images, rows, len(rows), device))[1])
    return model


def _plans(stage: Stage, training: LabeledImages, validation: LabeledImages) -> dict[str, TrainingPlan]:
    config = stage.config
    return plans(config.budget, images_of_stages(len(training), len(validation)), config.mirror, config.weights is not None)


def _train_stage(
    stage: Stage, name: str, model: Classifier, images: Images, labels: Labels, plan: TrainingPlan, upstream: list[object]
) -> tuple[list[object], tuple[Snapshot, ...]]:
    """Train in place, or load what an earlier run trained; what identifies the result, and the snapshots.

    `upstream` identifies the model as it comes, the images and the labels.
    """
    start = {key: value.clone() for key, value in model.state_dict().items()}

    def attempt(divisor: int) -> tuple[list[object], tuple[Snapshot, ...]]:
        smaller = replace(plan, batch_size=max(2, plan.batch_size // divisor))
        key = [*upstream, name, asdict(smaller)]
        checkpoint = stage.workspace.artifact(name.replace(" ", "-"), digest(key))
        model.load_state_dict(start)
        train(
            model,
            images,
            labels,
            smaller,
            stage=f"{name} ({plan.optimizer})" if name.endswith("minimum") else name,
            seed=stage.config.seed,
            device=stage.device,
            checkpoint=checkpoint,
            report=stage.report,
        )
        return key, tuple(snapshots(smaller, len(labels), checkpoint))

    return with_smaller_batches(attempt, stage.note)


def evaluate_minima(
    stage: Stage, title: str, minima: list[Trained], training: LabeledImages, validation: LabeledImages
) -> Evaluation:
    """The training set's evaluation, its weighted mean over the minima, on the candidate classes of the first; read where it exists."""
    parts: list[Evaluation] = []
    for number, trained in enumerate(minima):
        before = [one.key for one in minima[:number]]
        parts.append(_evaluate(stage, title, trained, training, validation, before, parts[0].classes if parts else None))
    return mean_evaluation(parts, [one.weight for one in minima])


def _evaluate(
    stage: Stage,
    title: str,
    trained: Trained,
    training: LabeledImages,
    validation: LabeledImages,
    before: list[str],
    classes: np.ndarray | None,
) -> Evaluation:
    """One minimum's curvature, then the scores there; `before` identifies the minima that chose the candidate classes."""
    config, model = stage.config, trained.model
    upstream = [trained.key, config.curvature, config.parameters, config.damping, validation.key()]
    factored = stage.workspace.artifact("curvature", digest(upstream))
    if not factored.exists():
        stage.report(Progress("curvature", 0, 1, "fit", None, 0.0, 0.0))

        def fit(divisor: int) -> Curvature:
            return fit_curvature(
                model, config.curvature, config.parameters, validation.images, config.damping, stage.device, config.seed, divisor
            )

        state = with_smaller_batches(fit, stage.note).state()
        with replacing(factored) as temporary:
            save_torch_file({name: value.cpu().contiguous() for name, value in state.items()}, temporary)
    artifact = stage.workspace.artifact("evaluation", digest(upstream, training.key(), config.candidates, config.mirror, before))
    if not artifact.exists():
        curvature = restore_curvature(config.curvature, load_torch_file(factored, device=str(stage.device)))

        def score(divisor: int) -> Evaluation:
            return evaluate(
                model,
                curvature,
                training.images,
                training.labels,
                classes,
                parameters=config.parameters,
                all_candidates=config.candidates,
                mirrored=config.mirror,
                device=stage.device,
                report=image_report(title, stage.report),
                divisor=divisor,
            )

        evaluation = with_smaller_batches(score, stage.note)
        with replacing(artifact) as temporary:
            save_file({key: np.asarray(value) for key, value in vars(evaluation).items() if value is not None}, temporary)
    tensors = load_file(artifact)
    return Evaluation(**{"leverage": None, **tensors, **{name: float(tensors[name]) for name in ("seconds", "memory_mb")}})  # type: ignore[arg-type]
