"""A run on text from its configuration to its tables, stage by stage; a stage whose artifact exists is not
computed again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file
from sklearn.metrics import roc_auc_score

from sharpeye.config import VERSION
from sharpeye.curvature.gradients import Gradients
from sharpeye.curvature.kronecker import KroneckerCurvature
from sharpeye.errors import InputError
from sharpeye.files import replacing
from sharpeye.progress import Report, image_report, timed
from sharpeye.runs.artifacts import artifact_path, cached
from sharpeye.runs.context import Execution, Note, with_smaller_batches
from sharpeye.runs.scores import ranks_of
from sharpeye.runs.stages import curvature_stage, minimum_stage
from sharpeye.runs.store import RunRow, describe_dataset, store
from sharpeye.runs.text_result import PairQuality, TextResult
from sharpeye.runs.text_stages import LOAD, PAIRS, PLAIN, SAY, TRAIN, gradient_stage, minima_of, optimizer_of
from sharpeye.runs.text_submission import TextSplits, identify_text, model_key, read_splits
from sharpeye.runs.workspace import Workspace
from sharpeye.text import influence
from sharpeye.text.baselines import bm25, embedding_similarity
from sharpeye.text.config import PLAIN_METHODS, TRAINED_METHODS, TextConfig
from sharpeye.text.examples import TextExamples
from sharpeye.text.gradients import (
    SAMPLED_TOKENS,
    Vectors,
    fisher_batches,
    gradient_batches,
    residuals,
    sampled_fisher,
)
from sharpeye.text.influence import StoredGradients
from sharpeye.text.language_models import (
    BATCH,
    EncodedExample,
    LanguageModel,
    LoraPlan,
    encode,
    load_language_model,
    reset_lora,
)
from sharpeye.text.quality import class_auc, class_recall, importance
from sharpeye.text.saying import say
from sharpeye.text.training import LoraTraining, load_lora, train_lora
from sharpeye.training.devices import generator, peak_memory_mb, select_device

# Of the Newton step that finds wrong completions: draws of an example's own Hessian, and its weight, relative
# to the curvature of the validation risk.
NEWTON_SAMPLES, NEWTON_WEIGHT = 2, 0.1
# Examples a step: of few, there must be some steps.
TRAINING_BATCH, VALIDATION_BATCH = 16, 4


@dataclass(frozen=True)
class TextContext:
    """What every stage is given.

    Attributes:
        config: of the run.
        workspace: where artifacts are kept.
        execution: how they are computed.
        model: whose LoRA parameters the stages set.
        training: tokens of the training examples.
        validation: tokens of the validation examples.
        identity: of model, LoRA plan and examples.
    """

    config: TextConfig
    workspace: Workspace
    execution: Execution
    model: LanguageModel
    training: list[EncodedExample]
    validation: list[EncodedExample]
    identity: str


@dataclass(frozen=True)
class TrainingInputs:
    """All that decides what LoRA parameters training ends with."""

    identity: str
    examples: str
    plan: LoraTraining
    seed: int
    start: str


@dataclass(frozen=True)
class GradientInputs:
    """All that decides gradients: the parameters, at which examples, and which vectors."""

    identity: str
    parameters: str
    examples: str
    vectors: str
    seed: int


@dataclass(frozen=True)
class CurvatureInputs:
    """All that decides the curvature at a minimum."""

    identity: str
    parameters: str
    kind: str
    damping: float
    seed: int


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
    before = said(context, splits.validation, "start") if config.say else None
    trained = training_of(context, "start", TRAIN, context.training, "training", config.epochs)
    matrices: dict[str, np.ndarray] = {}
    spent: dict[str, float] = {}

    def compute(method: str, action: Callable[[], np.ndarray], shared: float) -> None:
        execution.start(PLAIN if method in PLAIN_METHODS else PAIRS)
        begun = time.monotonic()
        matrices[method] = action()
        spent[method] = time.monotonic() - begun + shared

    compute_trained(context, trained, compute, seconds)
    scores, after = None, None
    for kind in minima_of(config):
        minimum, curvature = validation_minimum(context, trained, kind)
        own = own_influence(context, kind, minimum, curvature)
        compute_minimum(context, kind, minimum, curvature, own, compute, seconds)
        if scores is None:
            scores = example_scores(context, kind, minimum, curvature, own())
            after = said(context, splits.validation, minimum) if config.say else None
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
    splits = read_splits(config)
    if identify_text(config, splits)[0] != row.id:
        raise InputError(f"{config.train} or its validation examples changed since this run was submitted")
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


def prepared(
    config: TextConfig, workspace: Workspace, execution: Execution, splits: TextSplits
) -> TextContext:
    """The model with new LoRA parameters, and the tokens of the examples."""
    plan = LoraPlan(config.rank, config.alpha, config.projections)
    model = load_language_model(config.model, plan, execution.device, config.seed)
    training, notes = encode(model, splits.training)
    validation, more = encode(model, splits.validation)
    for note in dict.fromkeys((*notes, *more)):
        execution.note(note)
    parts = (model_key(config.model), splits.training.key(), splits.validation.key(), repr(plan), config.seed)
    return TextContext(config, workspace, execution, model, training, validation, repr(parts))


def training_of(
    context: TextContext,
    start: str,
    stage: str,
    encoded: list[EncodedExample],
    examples: str,
    epochs: int,
    optimizer: str = "erm",
    batch_size: int = TRAINING_BATCH,
) -> str:
    """Train from a checkpoint to another one; its path.

    Args:
        context: of the run.
        start: path of the checkpoint to begin with, or `start` for new parameters.
        stage: that reports.
        encoded: the examples.
        examples: their name.
        epochs: 0 leaves the parameters as they are.
        optimizer: `erm` or `lpf-sgd`.
        batch_size: examples a step.
    """
    if not epochs:
        return start
    config = context.config
    plan = LoraTraining(epochs, optimizer, config.learning_rate, batch_size, sigma=config.sigma)
    inputs = TrainingInputs(context.identity, examples, plan, config.seed, Path(start).name)
    path = artifact_path(context, f"lora {stage}", inputs)
    set_parameters(context, start)
    train_lora(
        context.model,
        encoded,
        plan,
        seed=config.seed,
        checkpoint=path,
        stage=stage,
        report=context.execution.report,
    )
    return str(path)


def set_parameters(context: TextContext, checkpoint: str) -> None:
    """Put the LoRA parameters of a checkpoint into the model; `start` for new ones, B = 0."""
    if checkpoint == "start":
        reset_lora(context.model, context.config.seed)
    else:
        load_lora(context.model, load_torch_file(checkpoint))


def said(context: TextContext, examples: TextExamples, checkpoint: str) -> list[str]:
    """What the model says to the validation prompts with some LoRA parameters; kept."""
    inputs = GradientInputs(context.identity, Path(checkpoint).name, "validation", "say", 0)

    def compute(inputs: GradientInputs, execution: Execution) -> list[str]:
        execution.start(SAY)
        set_parameters(context, checkpoint)
        return say(context.model, examples, context.validation, trained=checkpoint != "start")

    def save(answers: list[str], path: Path) -> None:
        path.write_bytes(msgspec.json.encode(answers))

    def read(path: Path) -> list[str]:
        return msgspec.json.decode(path.read_bytes(), type=list[str])

    return cached(context, "said", inputs, compute, save, read, ".json")


def validation_minimum(context: TextContext, trained: str, kind: str) -> tuple[str, KroneckerCurvature]:
    """Train to a minimum of the validation risk, and fit the curvature there."""
    config = context.config
    minimum = training_of(
        context,
        trained,
        minimum_stage(optimizer_of(kind)),
        context.validation,
        "validation",
        config.validation_epochs,
        optimizer_of(kind),
        VALIDATION_BATCH,
    )
    inputs = CurvatureInputs(
        context.identity, Path(minimum).name, config.curvature, config.damping, config.seed
    )

    def compute(inputs: CurvatureInputs, execution: Execution) -> KroneckerCurvature:
        execution.start(curvature_stage(kind))
        set_parameters(context, minimum)

        def fit(divisor: int) -> KroneckerCurvature:
            size = max(1, BATCH // divisor)
            return KroneckerCurvature.fit(
                lambda: fisher_batches(context.model, context.validation, config.seed, size),
                config.damping,
                corrected=config.curvature == "ekfac",
            )

        return with_smaller_batches(fit, execution.note)

    def save(curvature: KroneckerCurvature, path: Path) -> None:
        save_torch_file({name: part.cpu().contiguous() for name, part in curvature.state().items()}, path)

    def read(path: Path) -> KroneckerCurvature:
        return KroneckerCurvature.from_state(load_torch_file(path, device=str(context.execution.device)))

    return minimum, cached(context, "lora curvature", inputs, compute, save, read)


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


def own_influence(
    context: TextContext, kind: str, minimum: str, curvature: KroneckerCurvature
) -> Callable[[], np.ndarray]:
    """What gives self-influence of the training examples at a minimum: computed once, by who asks first."""

    def compute() -> np.ndarray:
        training = stored_gradients(context, minimum, gradient_stage(kind), "training")
        return influence.self_influence(curvature, training, context.execution.device)

    return cache(compute)


def compute_minimum(
    context: TextContext,
    kind: str,
    minimum: str,
    curvature: KroneckerCurvature,
    own: Callable[[], np.ndarray],
    compute: Callable[[str, Callable[[], np.ndarray], float], None],
    seconds: dict[str, float],
) -> None:
    """The methods at a validation minimum."""
    config, device, stage = context.config, context.execution.device, gradient_stage(kind)
    training = stored_gradients(context, minimum, stage, "training")
    validation = stored_gradients(context, minimum, stage, "validation")
    plain = "fvm" if kind == "flat" else "vm"
    shared = seconds.get(stage, 0.0)
    signed = partial(influence.signed_influence, curvature, training, validation, device)
    if plain in config.methods:
        compute(plain, signed, shared)
    if f"{plain}_normalized" in config.methods:
        compute(f"{plain}_normalized", lambda: influence.normalized(signed(), own()), shared)
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


def stored_gradients(
    context: TextContext, checkpoint: str, stage: str, examples: str, sample: int = 0
) -> StoredGradients:
    """Gradients of the training or validation examples, computed once and kept in half precision.

    Args:
        context: of the run.
        checkpoint: of the LoRA parameters.
        stage: that reports.
        examples: `training` or `validation`.
        sample: 0 for the gradient of the loss, else a draw of vectors whose outer products add up to the
            Hessian.
    """
    encoded = context.training if examples == "training" else context.validation
    kind = f"sampled {sample}" if sample else "loss"
    inputs = GradientInputs(context.identity, Path(checkpoint).name, examples, kind, context.config.seed)
    rows = artifact_path(context, "lora gradients", inputs, ".npy")
    scale = artifact_path(context, "lora gradients", inputs)
    model = context.model
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in model.layers.items()}
    if not (rows.exists() and scale.exists()):
        width = sum(out * inside for out, inside in shapes.values())
        set_parameters(context, checkpoint)

        def compute(divisor: int) -> None:
            vectors: Vectors = residuals
            if sample:
                vectors = sampled_fisher(generator(context.config.seed, SAMPLED_TOKENS, sample))
            known = {name: np.zeros(len(encoded), np.float32) for name in ("scale", "loss")}
            with replacing(rows) as temporary:
                kept = np.lib.format.open_memmap(
                    temporary, "w+", dtype=np.float16, shape=(len(encoded), width)
                )
                for part, gradients, losses in gradient_batches(
                    model,
                    encoded,
                    vectors,
                    max(1, BATCH // divisor),
                    image_report(stage, context.execution.report, "example"),
                ):
                    known["scale"][part], kept[part] = halved(gradients)
                    known["loss"][part] = losses.cpu().numpy()
                kept.flush()
            with replacing(scale) as temporary:
                save_file(known, temporary)

        with_smaller_batches(compute, context.execution.note)
    known = load_file(scale)
    return StoredGradients(np.load(rows, mmap_mode="r"), known["scale"], known["loss"], shapes)


def halved(gradients: Gradients) -> tuple[np.ndarray, np.ndarray]:
    """Root mean squares of a batch's gradients, (B,), and the gradients over these in float16, (B, D)."""
    flat = torch.cat([layer.dense()[0].flatten(1) for layer in gradients.values()], 1)
    scale = flat.square().mean(1).sqrt().clamp_min(1e-30)
    return scale.cpu().numpy(), (flat / scale[:, None]).half().cpu().numpy()


def example_scores(
    context: TextContext, kind: str, minimum: str, curvature: KroneckerCurvature, own: np.ndarray
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
    newton = (
        influence.newton_influence(curvature, training, drawn, NEWTON_WEIGHT, device) if drawn else own[:0]
    )
    return ExampleScores(own, training.loss, newton)


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
    with replacing(folder.pairs) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(pairs.T, dtype=np.float32), allow_pickle=False)


def table_of(examples: TextExamples) -> pd.DataFrame:
    """Examples as a table."""
    columns: dict[str, Sequence[str]] = {
        "id": examples.ids,
        "prompt": examples.prompts,
        "completion": examples.completions,
        "class": examples.classes or [""] * len(examples),
    }
    return pd.DataFrame(columns)
