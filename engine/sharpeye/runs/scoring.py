"""The stages at a minimum of the validation risk: its curvature, and the evaluation of images there."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file

from sharpeye.curvature.base import Curvature
from sharpeye.curvature.fit import fit_curvature, restore_curvature
from sharpeye.curvature.linearization import HEAD_BATCH, predict
from sharpeye.data.dataset import Images, LabeledImages, SelectedImages, reopening
from sharpeye.influence.base import Evaluation, MinimumKind
from sharpeye.influence.evaluation import evaluate, joined_evaluation, mean_evaluation
from sharpeye.progress import ImageReport, image_report
from sharpeye.runs.artifacts import artifact_path, cached, load_array, save_array
from sharpeye.runs.cluster import Cluster, remove_shards, shard_folder, sharded
from sharpeye.runs.context import Execution, RunContext, with_smaller_batches
from sharpeye.runs.networks import Minimum
from sharpeye.runs.stages import (
    curvature_stage,
    score_stage,
)
from sharpeye.training.batches import read_batches
from sharpeye.training.models import Classifier


@dataclass(frozen=True)
class CurvatureInputs:
    """All that decides the curvature at a minimum."""

    minimum: Minimum
    curvature: str
    parameters: str
    damping: float
    seed: int
    validation: LabeledImages


@dataclass(frozen=True)
class EvaluationInputs:
    """All that decides the evaluation of images at a minimum.

    Attributes:
        curvature: at the minimum.
        images: to evaluate.
        candidates: whether every candidate label is scored.
        mirror: whether the mean over mirrored views is taken.
        classes: candidate classes, (N, k); None chooses them here.
    """

    curvature: CurvatureInputs
    images: LabeledImages
    candidates: bool
    mirror: bool
    classes: np.ndarray | None


@dataclass(frozen=True)
class FeatureInputs:
    """All that decides features of images."""

    minimum: Minimum
    images: LabeledImages


def evaluate_minima(
    context: RunContext,
    kind: MinimumKind,
    minima: list[Minimum],
    training: LabeledImages,
    validation: LabeledImages,
    classes: np.ndarray | None = None,
) -> Evaluation:
    """The weighted mean over minima of the training set's evaluation, on these candidate classes, (N, k), or
    on those of the first one."""
    config = context.config
    inputs = [
        CurvatureInputs(minimum, config.curvature, config.parameters, config.damping, config.seed, validation)
        for minimum in minima
    ]
    fitted = [_curvature_at(context, kind, one) for one in inputs]
    parts: list[Evaluation] = []
    for one, curvature in zip(inputs, fitted, strict=True):
        chosen = parts[0].classes if parts else classes
        parts.append(
            _evaluation_at(
                context,
                kind,
                EvaluationInputs(one, training, config.candidates, config.mirror, chosen),
                curvature,
            )
        )
    return mean_evaluation(parts, [minimum.weight for minimum in minima])


def _curvature_at(context: RunContext, kind: str, inputs: CurvatureInputs) -> Curvature:
    """The curvature at one minimum."""

    def fit(inputs: CurvatureInputs, execution: Execution) -> Curvature:
        execution.start(curvature_stage(kind))

        def attempt(divisor: int) -> Curvature:
            return fit_curvature(
                inputs.minimum.model,
                inputs.curvature,
                inputs.parameters,
                inputs.validation.images,
                inputs.damping,
                execution.device,
                inputs.seed,
                divisor,
            )

        return with_smaller_batches(attempt, execution.note)

    def save(curvature: Curvature, path: Path) -> None:
        state = {name: value.cpu().contiguous() for name, value in curvature.state().items()}
        save_torch_file(state, path)

    def load(path: Path) -> Curvature:
        tensors = load_torch_file(path, device=str(context.execution.device))
        return restore_curvature(inputs.curvature, tensors)

    return cached(context, "curvature", inputs, fit, save, load)


def _evaluation_at(
    context: RunContext, kind: str, inputs: EvaluationInputs, curvature: Curvature
) -> Evaluation:
    """Scores of the images at one minimum."""

    def score(inputs: EvaluationInputs, execution: Execution) -> Evaluation:
        at = inputs.curvature
        report = image_report(score_stage(kind), execution.report)

        def attempt(divisor: int) -> Evaluation:
            return evaluate(
                at.minimum.model,
                curvature,
                inputs.images.images,
                inputs.images.labels,
                inputs.classes,
                parameters=at.parameters,
                all_candidates=inputs.candidates,
                mirrored=inputs.mirror,
                device=execution.device,
                report=report,
                divisor=divisor,
            )

        return with_smaller_batches(attempt, execution.note)

    cluster = context.execution.cluster
    if cluster is None:
        return cached(context, "evaluation", inputs, score, save_evaluation, load_evaluation)
    path = artifact_path(context, "evaluation", inputs)

    def score_there(inputs: EvaluationInputs, execution: Execution) -> Evaluation:
        report = image_report(score_stage(kind), execution.report)
        with shard_folder(path) as folder:
            return score_on_cluster(cluster, inputs, curvature, folder, report)

    evaluation = cached(context, "evaluation", inputs, score_there, save_evaluation, load_evaluation)
    remove_shards(path)
    return evaluation


@dataclass(frozen=True)
class Scoring:
    """What a node of a cluster does: evaluate images at a minimum, see `evaluate`.

    Attributes:
        images: opens them there.
        paths: of their files.
        labels: given labels, (N,).
        classes: candidate classes, (N, k); None chooses them there.
        model: at the minimum.
        curvature: its kind, and its state by name.
        parameters: what the influence is taken over.
        all_candidates: whether every candidate label is scored.
        mirrored: whether the mean over mirrored views is taken.
    """

    images: Callable[[], Images]
    paths: tuple[Path, ...]
    labels: np.ndarray
    classes: np.ndarray | None
    model: Classifier
    curvature: tuple[str, dict[str, torch.Tensor]]
    parameters: str
    all_candidates: bool
    mirrored: bool

    def begin(self, device: torch.device) -> Callable[[np.ndarray], Evaluation]:
        images, model = self.images(), self.model.to(device).eval()
        kind, state = self.curvature
        curvature = restore_curvature(kind, {name: value.to(device) for name, value in state.items()})

        def score(rows: np.ndarray) -> Evaluation:
            def attempt(divisor: int) -> Evaluation:
                return evaluate(
                    model,
                    curvature,
                    SelectedImages(images, rows),
                    self.labels[rows],
                    None if self.classes is None else self.classes[rows],
                    parameters=self.parameters,
                    all_candidates=self.all_candidates,
                    mirrored=self.mirrored,
                    device=device,
                    divisor=divisor,
                )

            return with_smaller_batches(attempt, lambda note: None)

        return score


def score_on_cluster(
    cluster: Cluster,
    inputs: EvaluationInputs,
    curvature: Curvature,
    folder: Path,
    report: ImageReport,
) -> Evaluation:
    """The evaluation of images at a minimum, from shards that the nodes of a cluster compute."""
    started = time.monotonic()
    at, images = inputs.curvature, inputs.images
    work = Scoring(
        reopening(images.images),
        (images.folder,),
        images.labels,
        inputs.classes,
        copy.deepcopy(at.minimum.model).cpu(),
        (at.curvature, {name: value.cpu() for name, value in curvature.state().items()}),
        at.parameters,
        inputs.candidates,
        inputs.mirror,
    )
    rows = np.arange(len(images))
    parts = list(sharded(cluster, work, rows, folder, save_evaluation, load_evaluation, report))
    return replace(joined_evaluation(parts, rows), seconds=time.monotonic() - started)


def network_features(context: RunContext, minimum: Minimum, images: LabeledImages) -> np.ndarray:
    """Features of images at a minimum, float16, (N, d)."""
    inputs = FeatureInputs(minimum, images)
    return cached(context, "references", inputs, _features, save_array, load_array)


def _features(inputs: FeatureInputs, execution: Execution) -> np.ndarray:
    images = inputs.images.images

    def attempt(divisor: int) -> np.ndarray:
        batches = read_batches(images, np.arange(len(images)), HEAD_BATCH // divisor, execution.device)
        parts = [predict(inputs.minimum.model, batch)[0].half().cpu() for _, batch in batches]
        return torch.cat(parts).numpy()

    return with_smaller_batches(attempt, execution.note)


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    values = {name: np.asarray(value) for name, value in vars(evaluation).items() if value is not None}
    classes = evaluation.classes
    values["classes"] = classes.astype(np.min_scalar_type(int(classes.max(initial=0))))
    save_file(values, path)


def load_evaluation(path: Path) -> Evaluation:
    tensors = load_file(path)
    return Evaluation(
        classes=tensors["classes"].astype(np.int64),
        losses=tensors["losses"],
        influence=tensors["influence"],
        leverage=tensors.get("leverage"),
        newton=tensors.get("newton"),
        features=tensors["features"],
        seconds=float(tensors["seconds"]),
        memory_mb=float(tensors["memory_mb"]),
    )
