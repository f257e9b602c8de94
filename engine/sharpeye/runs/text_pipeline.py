"""A run on text from its configuration to its tables, stage by stage; a stage whose artifact exists is not
computed again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from sharpeye.config import VERSION
from sharpeye.curvature.kronecker import KroneckerCurvature
from sharpeye.files import replacing
from sharpeye.progress import Report, timed
from sharpeye.runs.artifacts import save_npy
from sharpeye.runs.context import Execution, Note
from sharpeye.runs.scores import ranks_of
from sharpeye.runs.store import RunRow, describe_dataset, store
from sharpeye.runs.text_minimum import (
    TextContext,
    prepared,
    said,
    stored_gradients,
    trained_parameters,
    training_lengths,
    validation_minimum,
)
from sharpeye.runs.text_result import PairQuality, TextResult
from sharpeye.runs.text_stages import LOAD, PAIRS, PLAIN, gradient_stage, minima_of
from sharpeye.runs.text_submission import TextSplits, splits_of_run
from sharpeye.runs.workspace import Workspace
from sharpeye.text import influence
from sharpeye.text.baselines import bm25, embedding_similarity
from sharpeye.text.config import PLAIN_METHODS, TRAINED_METHODS, TextConfig
from sharpeye.text.examples import TextExamples
from sharpeye.text.quality import class_auc, class_recall, importance
from sharpeye.training.devices import peak_memory_mb, return_free_memory, select_device

# Of the Newton step that finds wrong completions: draws of an example's own Hessian, and its weight, relative
# to the curvature of the validation risk.
NEWTON_SAMPLES, NEWTON_WEIGHT = 2, 0.1


@dataclass(frozen=True)
class ExampleScores:
    """What is known of each training example by itself, (N,) each.

    Attributes:
        self_influence: g_iᵀ(H_val + λ)⁻¹g_i, higher = more suspicious.
        loss: of its completion.
        newton: the same as self-influence with the example's own Hessian in the sum; empty unless asked for.
    """

    self_influence: np.ndarray
    loss: np.ndarray
    newton: np.ndarray


def execute_text(
    config: TextConfig, row: RunRow, workspace: Workspace, device_name: str, report: Report, note: Note
) -> TextResult:
    """Compute a run on text, or finish one that was interrupted.

    Raises:
        InputError: whatever is wrong with the input.
    """
    started = time.monotonic()
    seconds: dict[str, float] = {}
    execution = Execution(select_device(device_name), timed(named(report), seconds), note)
    splits = load(config, row, workspace, execution)
    context = prepared(config, workspace, execution, splits)
    before = said(context, "start") if config.say else None
    trained = trained_parameters(context)
    matrices: dict[str, np.ndarray] = {}
    spent: dict[str, float] = {}

    def compute(method: str, action: Callable[[], np.ndarray], shared: float) -> None:
        execution.start(PLAIN if method in PLAIN_METHODS else PAIRS)
        return_free_memory()
        begun = time.monotonic()
        matrices[method] = action()
        spent[method] = time.monotonic() - begun + shared

    compute_trained(context, trained, compute, seconds)
    scores, after = None, None
    for kind in minima_of(config):
        minimum, curvature = validation_minimum(context, trained, kind)
        compute_minimum(context, kind, minimum, curvature, compute, seconds)
        if scores is None:
            scores = example_scores(context, kind, minimum, curvature)
            after = said(context, minimum) if config.say else None
    if "bm25" in config.methods:
        compute("bm25", lambda: bm25(splits.training, splits.validation), 0.0)
    if "embedding" in config.methods:
        model = context.model
        compute("embedding", lambda: embedding_similarity(model, context.training, context.validation), 0.0)
    assert scores is not None
    write_tables(workspace, row.id, splits, scores, matrices[config.methods[0]], before, after)
    result = TextResult(
        run=row.id,
        version=VERSION,
        n=len(splits.training),
        validation=len(splits.validation),
        ranked_by=config.methods[0],
        seconds=round(time.monotonic() - started, 1),
        stage_seconds={name: round(value, 1) for name, value in seconds.items()},
        device=str(execution.device),
        peak_memory_mb=peak_memory_mb(),
        methods={name: quality_of(name, matrices[name], splits, spent[name]) for name in config.methods},
        detection=detection_of(scores, splits),
    )
    with replacing(workspace.run(row.id).result) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    return result


def named(report: Report) -> Report:
    """A report whose speed counts examples."""
    return lambda step: report(replace(step, item="example"))


def load(config: TextConfig, row: RunRow, workspace: Workspace, execution: Execution) -> TextSplits:
    """The examples; records what they hold.

    Raises:
        InputError: they are not what they were when the run was submitted, or cannot be used.
    """
    execution.start(LOAD)
    splits = splits_of_run(config, row.id)
    for note in splits.notes:
        execution.note(note)
    folder = workspace.run(row.id)
    with replacing(folder.config) as temporary:
        temporary.write_text(config.to_json())
    kinds = sorted(set(splits.training.classes or ()))
    counts = [splits.training.classes.count(kind) for kind in kinds] if splits.training.classes else []
    with store(workspace) as connection:
        describe_dataset(connection, row.dataset, kinds, counts or [len(splits.training)])
    return splits


def compute_trained(
    context: TextContext,
    trained: str,
    compute: Callable[[str, Callable[[], np.ndarray], float], None],
    seconds: dict[str, float],
) -> None:
    """The methods that take the model as it was trained on the training examples."""
    wanted = [method for method in context.config.methods if method in TRAINED_METHODS]
    if not wanted:
        return
    stage = gradient_stage("trained")
    training = stored_gradients(context, trained, stage, "training")
    validation = stored_gradients(context, trained, stage, "validation")
    for method in wanted:
        action = partial(getattr(influence, method), training, validation, context.execution.device)
        compute(method, action, seconds.get(stage, 0.0))


def compute_minimum(
    context: TextContext,
    kind: str,
    minimum: str,
    curvature: KroneckerCurvature,
    compute: Callable[[str, Callable[[], np.ndarray], float], None],
    seconds: dict[str, float],
) -> None:
    """The methods at a validation minimum."""
    config, device, stage = context.config, context.execution.device, gradient_stage(kind)
    training = stored_gradients(context, minimum, stage, "training")
    validation = stored_gradients(context, minimum, stage, "validation")
    plain = "fvm" if kind == "flat" else "vm"
    shared = seconds.get(stage, 0.0)
    inputs = curvature, training, validation, device
    if plain in config.methods:
        compute(plain, partial(influence.signed_influence, *inputs), shared)
    if f"{plain}_normalized" in config.methods:
        compute(
            f"{plain}_normalized",
            lambda: influence.normalized_influence(
                curvature,
                training,
                validation,
                training_lengths(context, minimum, curvature, training),
                device,
            ),
            shared,
        )
    if f"{plain}_tokens" in config.methods:
        samples = [
            stored_gradients(context, minimum, stage, "validation", sample)
            for sample in range(1, config.samples + 1)
        ]
        compute(
            f"{plain}_tokens",
            lambda: influence.token_influence(curvature, training, samples, device),
            shared,
        )


def example_scores(
    context: TextContext, kind: str, minimum: str, curvature: KroneckerCurvature
) -> ExampleScores:
    """What is known of each training example by itself, at a validation minimum."""
    stage, device = gradient_stage(kind), context.execution.device
    training = stored_gradients(context, minimum, stage, "training")
    drawn = [
        stored_gradients(context, minimum, stage, "training", sample)
        for sample in range(1, NEWTON_SAMPLES + 1)
        if context.config.corrupt
    ]
    context.execution.start(PAIRS)
    own = training_lengths(context, minimum, curvature, training).sum(1)
    newton = (
        influence.newton_influence(curvature, training, drawn, NEWTON_WEIGHT, device) if drawn else own[:0]
    )
    return ExampleScores(own, training.column("loss"), newton)


def quality_of(method: str, matrix: np.ndarray, splits: TextSplits, seconds: float) -> PairQuality:
    """Quality of a method where classes are known."""
    ranking = importance(method, matrix)
    first, second = splits.training.classes, splits.validation.classes
    if first is None or second is None:
        return PairQuality(None, None, round(seconds, 1))
    return PairQuality(
        class_auc(ranking, first, second), class_recall(ranking, first, second), round(seconds, 1)
    )


def detection_of(scores: ExampleScores, splits: TextSplits) -> dict[str, float]:
    """AUC with which each score finds the completions that were swapped."""
    swapped = splits.swapped
    if not swapped.any():
        return {}
    known = {"self-influence": scores.self_influence, "newton": scores.newton, "loss": scores.loss}
    return {name: float(roc_auc_score(swapped, score)) for name, score in known.items()}


def write_tables(
    workspace: Workspace,
    run: str,
    splits: TextSplits,
    scores: ExampleScores,
    pairs: np.ndarray,
    before: list[str] | None,
    after: list[str] | None,
) -> None:
    """The examples with their scores, and influence of all pairs."""
    folder = workspace.run(run)
    training = table_of(splits.training)
    training["self_influence"], training["loss"] = scores.self_influence, scores.loss
    training["rank"] = ranks_of(scores.self_influence, np.zeros(len(training), dtype=bool))
    validation = table_of(splits.validation)
    validation["before"] = before or [""] * len(validation)
    validation["after"] = after or [""] * len(validation)
    for table, path in ((training, folder.scores), (validation, folder.validation_examples)):
        with replacing(path) as temporary:
            table.to_parquet(temporary, index=False)
    with replacing(folder.pairs) as temporary:
        save_npy(np.ascontiguousarray(pairs.T, dtype=np.float32), temporary)


def table_of(examples: TextExamples) -> pd.DataFrame:
    """Examples as a table."""
    columns: dict[str, Sequence[str]] = {
        "id": examples.ids,
        "prompt": examples.prompts,
        "completion": examples.completions,
        "class": examples.classes or [""] * len(examples),
    }
    return pd.DataFrame(columns)
