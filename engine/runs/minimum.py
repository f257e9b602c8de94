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
from engine.influence.evaluation import evaluate
from engine.influence.methods import loss_posterior
from engine.influence.noise_posterior import REFINED_RELIANCE, RELIANCE
from engine.progress import Progress
from engine.runs.stage import Stage, image_report, with_smaller_batches
from engine.training.batches import Images, Labels, SoftLabels, read_batches
from engine.training.budgets import images_of_stages, plans
from engine.training.models import Classifier, build_model, whiten
from engine.training.trainer import Snapshot, TrainingPlan, snapshots, train

WHITENING_IMAGES = 2000


@dataclass(frozen=True)
class Trained:
    """A network at a validation minimum.

    Attributes:
        model: in eval mode.
        key: identifies it.
        reliance: how much a given label counts beside its predictions.
        snapshots: of the way there, by stage, `pretrain` (where there is one) and `minimum`.
        origins: what identifies each of these stages.
    """

    model: Classifier
    key: str
    reliance: float
    snapshots: dict[str, tuple[Snapshot, ...]]
    origins: dict[str, str]


def validation_minimum(stage: Stage, optimizer: str, training: LabeledImages, validation: LabeledImages) -> Trained:
    """θ̃: the first minimum or, where the budget is long enough to refine it, one from better features.

    Refining: what is believed of the given labels at the first flat minimum (see `engine.influence.noise_posterior`) takes their
    place, and the network is trained on these beliefs and on the validation split together, then on the latter by `optimizer`.
    A network that was told wrong labels keeps some of them in its features; beliefs tell it far fewer.
    """
    config = stage.config
    if not config.refines:
        return first_minimum(stage, optimizer, training, validation)
    planned = _plans(stage, training, validation)
    first = first_minimum(stage, config.optimizer, training, validation)
    quick = replace(config, parameters="head", curvature="diagonal", candidates=False)
    look = evaluate_minimum(replace(stage.within("first look"), config=quick), "score", first, training, validation)
    beliefs = loss_posterior(ScoringContext(training.labels, len(training.class_names), look, first.reliance)).candidates
    soft = SoftLabels(
        np.concatenate(
            [beliefs.classes, np.broadcast_to(validation.labels[:, None], (len(validation), beliefs.classes.shape[1]))]
        ),
        np.concatenate([np.exp(-beliefs.scores), np.eye(1, beliefs.classes.shape[1]).repeat(len(validation), 0)]),
        len(training.class_names),
    )
    both = JoinedImages(training.images, validation.images)
    upstream = [first.key, training.key(), validation.key(), config.mirror, RELIANCE]
    upstream, _ = _train_stage(stage, "refine", first.model, both, soft, planned["refine"], upstream)
    flat = replace(planned["final minimum"], optimizer=optimizer)
    upstream, _ = _train_stage(stage, "final minimum", first.model, validation.images, validation.labels, flat, upstream)
    return replace(first, model=first.model.eval(), key=digest(upstream), reliance=REFINED_RELIANCE)


def first_minimum(stage: Stage, optimizer: str, training: LabeledImages, validation: LabeledImages) -> Trained:
    """A minimum of the validation risk: pre-trained on the given labels, then trained on the validation split by `optimizer`."""
    config, device = stage.config, stage.device
    model = build_model(config.model, len(training.class_names), config.weights, config.seed).to(device)
    if config.model == "small" and config.weights is None:
        rows = np.arange(min(len(training), WHITENING_IMAGES))
        whiten(model, next(read_batches(training.images, rows, len(rows), device))[1])
    planned = _plans(stage, training, validation)
    steps = [("minimum", validation, replace(planned["minimum"], optimizer=optimizer))]
    if config.pretrains:
        steps.insert(0, ("pretrain", training, planned["pretrain"]))
    upstream: list[object] = [config.model, config.weights, config.seed, device.type, training.key()]
    kept, origins = {}, {}
    for name, images, plan in steps:
        upstream, kept[name] = _train_stage(stage, name, model, images.images, images.labels, plan, [*upstream, images.key()])
        origins[name] = digest(upstream)
    return Trained(model.eval(), digest(upstream), RELIANCE, kept, origins)


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


def evaluate_minimum(
    stage: Stage, title: str, trained: Trained, training: LabeledImages, validation: LabeledImages
) -> Evaluation:
    """The training set's evaluation at a minimum: its curvature, then the scores; read where they exist."""
    config, model = stage.config, trained.model
    upstream = [VERSION, trained.key, config.curvature, config.parameters, config.damping, validation.key()]
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
    artifact = stage.workspace.artifact("evaluation", digest(upstream, training.key(), config.candidates, config.mirror))
    if not artifact.exists():
        curvature = restore_curvature(config.curvature, load_torch_file(factored, device=str(stage.device)))

        def score(divisor: int) -> Evaluation:
            return evaluate(
                model,
                curvature,
                training.images,
                training.labels,
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
