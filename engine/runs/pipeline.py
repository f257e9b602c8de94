"""A run from its configuration to scores.parquet, stage by stage; a stage whose artifact exists is not computed again."""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file

from engine.config import RunConfig, digest
from engine.curvature.fit import CURVATURES, fit_curvature
from engine.curvature.gradients import PARAMETER_CHOICES
from engine.data.dataset import LabeledImages
from engine.data.load import load_splits
from engine.diagnostics.metrics import quality
from engine.errors import InputError
from engine.files import replacing
from engine.influence.base import Evaluation, Scores, ScoringContext
from engine.influence.evaluation import evaluate
from engine.influence.methods import loss_posterior, select_methods
from engine.influence.noise_posterior import NoisePosterior
from engine.runs.workspace import RunFolder, Workspace
from engine.training.batches import read_batches
from engine.training.budgets import plans
from engine.training.devices import select_device
from engine.training.models import Classifier, build_model, input_size, whiten
from engine.training.optimizers import OPTIMIZERS
from engine.training.trainer import Progress, TrainingPlan, train

WHITENING_IMAGES = 2000

Report = Callable[[Progress], None]
Result = dict[str, Any]


def execute(config: RunConfig, workspace: Workspace, report: Report = lambda progress: None) -> Result:
    """Compute a run, or finish one that was interrupted.

    Returns:
        The run's result, as in result.json.

    Raises:
        InputError: whatever is wrong with the input.
    """
    started = time.monotonic()
    methods = select_methods(config.methods, config.candidates, config.optimizer)
    _check_choices(config)
    device = select_device(config.device)
    training, validation = load_splits(
        config, workspace.decoded, lambda natural: input_size(config.model, natural), _image_report("decode", report)
    )
    run_id = digest(asdict(config), device.type, training.key(), validation.key())
    folder = workspace.run(run_id)
    if folder.result.exists():
        return dict(json.loads(folder.result.read_text()))
    _write_text(folder.config, config.to_json())
    _write_csv(folder.skipped, pd.concat([training.skipped, validation.skipped], ignore_index=True))

    contexts: dict[str, ScoringContext] = {}
    for name in sorted({method.minimum for method in methods}):
        optimizer = "erm" if name == "erm" else config.optimizer
        model = validation_minimum(config, optimizer, training, validation, workspace, device, report)
        evaluation = evaluate_minimum(
            config, model, training, validation, folder.evaluation(name), f"score ({name})", device, report
        )
        contexts[name] = ScoringContext(training.labels, len(training.class_names), evaluation)

    scores: dict[str, Scores] = {}
    summaries: dict[str, Result] = {}
    for method in methods:
        context = contexts[method.minimum]
        clock = time.monotonic()
        scores[method.name] = method.score(context)
        seconds = time.monotonic() - clock + context.evaluation.seconds
        measured = quality(scores[method.name], training.labels, training.true_labels)
        summaries[method.name] = {**measured, "score_seconds": round(seconds, 3)}
    beliefs = loss_posterior(contexts[methods[0].minimum])
    write_scores(folder, training, scores, beliefs)
    passes = sum(context.evaluation.seconds for context in contexts.values())
    result: Result = {
        "run": run_id,
        "n": len(training),
        "classes": len(training.class_names),
        "seconds": round(time.monotonic() - started, 3),
        "images_per_second": round(len(training) * len(contexts) / passes, 1),
        "device": _device_name(device),
        "peak_memory_mb": _peak_memory_mb(),
        "expected_wrong": round(beliefs.expected_wrong, 1),
        "ranked_by": methods[0].name,
        "skipped": len(training.skipped) + len(validation.skipped),
        "methods": summaries,
        "scores": str(folder.scores),
    }
    _write_text(folder.result, json.dumps(result, indent=1))
    return result


def validation_minimum(
    config: RunConfig,
    optimizer: str,
    training: LabeledImages,
    validation: LabeledImages,
    workspace: Workspace,
    device: torch.device,
    report: Report,
) -> Classifier:
    """θ̃: pre-trained on the given labels, then trained on the validation split by `optimizer`; in eval mode."""
    model = build_model(config.model, len(training.class_names), config.weights, config.seed).to(device)
    pretraining, minimizing = plans(config.budget, len(training), len(validation), config.mirror, config.weights is not None)
    minimizing = replace(minimizing, optimizer=optimizer)
    upstream: list[object] = [config.model, config.weights, config.seed, device.type]
    if config.model == "small" and config.weights is None:
        rows = np.arange(min(len(training), WHITENING_IMAGES))
        whiten(model, next(read_batches(training.images, rows, len(rows), device))[1])
    stages: list[tuple[str, LabeledImages, TrainingPlan]] = [("minimum", validation, minimizing)]
    if config.pretrain or (config.pretrain is None and config.weights is None):
        stages.insert(0, ("pretrain", training, pretraining))
    else:
        upstream.append(training.key())
    for stage, images, plan in stages:
        upstream += [stage, asdict(plan), images.key()]
        checkpoint = workspace.checkpoint(stage, digest(upstream))
        name = stage if stage == "pretrain" else f"{stage} ({optimizer})"
        train(
            model, images.images, images.labels, plan,
            stage=name, seed=config.seed, device=device, checkpoint=checkpoint, report=report,
        )  # fmt: skip
    return model.eval()


def write_scores(folder: RunFolder, training: LabeledImages, scores: dict[str, Scores], beliefs: NoisePosterior) -> None:
    """Write scores.parquet: one row an image in the order of the training set, one column a method.

    `rank` is 1 for the most suspicious image under the first method. `suggested_label` is the class of highest noise
    posterior, which weighs the given label and the noise learnt from all of them; `confidence` is that posterior and
    `wrong_probability` the posterior that the given label is wrong. `candidate_classes` and `candidate_scores` are lists:
    the first method's score of every candidate label.
    """
    names = np.array(training.class_names, dtype=object)
    first = next(iter(scores.values()))
    candidates = first.candidates or beliefs.candidates
    suggested = beliefs.candidates.best()
    table = pd.DataFrame({"id": training.ids, "given_label": _named(training.labels, training)})
    if training.true_labels is not None:
        table["true_label"] = _named(training.true_labels, training)
    for name, score in scores.items():
        table[name] = score.influence
    order = np.lexsort((np.arange(len(training)), -first.influence))
    table.loc[order, "rank"] = np.arange(1, len(training) + 1)
    table["rank"] = table["rank"].astype(np.int64)
    table["suggested_label"] = _named(suggested, training)
    table["confidence"] = np.exp(-beliefs.candidates.of(suggested))
    table["wrong_probability"] = beliefs.wrong
    table["candidate_classes"] = list(names[candidates.classes])
    table["candidate_scores"] = list(candidates.scores)
    with replacing(folder.scores) as temporary:
        table.to_parquet(temporary, index=False)


def _named(labels: np.ndarray, images: LabeledImages) -> "pd.Categorical[str]":
    return pd.Categorical.from_codes(labels.tolist(), pd.Index(images.class_names))


def evaluate_minimum(
    config: RunConfig,
    model: Classifier,
    training: LabeledImages,
    validation: LabeledImages,
    artifact: Path,
    stage: str,
    device: torch.device,
    report: Report,
) -> Evaluation:
    """The training set's evaluation at a minimum; read from its artifact where that exists."""
    if not artifact.exists():
        curvature = fit_curvature(
            model, config.curvature, config.parameters, validation.images, config.damping, device, config.seed
        )
        evaluation = evaluate(
            model,
            curvature,
            training.images,
            training.labels,
            parameters=config.parameters,
            all_candidates=config.candidates,
            mirrored=config.mirror,
            device=device,
            report=_image_report(stage, report),
        )
        with replacing(artifact) as temporary:
            save_file({key: np.asarray(value) for key, value in vars(evaluation).items() if value is not None}, temporary)
    tensors = load_file(artifact)
    return Evaluation(**{"leverage": None, **tensors, "seconds": float(tensors["seconds"])})  # type: ignore[arg-type]


def _check_choices(config: RunConfig) -> None:
    for option, value, choices in (
        ("--optimizer", config.optimizer, OPTIMIZERS),
        ("--curvature", config.curvature, CURVATURES),
        ("--parameters", config.parameters, PARAMETER_CHOICES),
    ):
        if value not in choices:
            raise InputError(f"{option} {value}: choose from {', '.join(choices)}")


def _image_report(stage: str, report: Report) -> Callable[[int, int], None]:
    started = time.monotonic()

    def image_report(done: int, total: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-9)
        report(Progress(stage, done, total, "image", None, rate, (total - done) / max(rate, 1e-9)))

    return image_report


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def _peak_memory_mb() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
