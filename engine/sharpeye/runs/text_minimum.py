"""The stages of a run on text that need the model: training its LoRA parameters, curvature and gradients."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save_file as save_torch_file

from sharpeye.curvature.kronecker import KroneckerCurvature
from sharpeye.progress import ImageReport, image_report
from sharpeye.runs.artifacts import artifact_path, cached, save_npy
from sharpeye.runs.context import Execution, with_smaller_batches
from sharpeye.runs.stages import curvature_stage, minimum_stage
from sharpeye.runs.text_stages import PAIRS, SAY, TRAIN, optimizer_of
from sharpeye.runs.text_submission import TextSplits, model_key
from sharpeye.runs.workspace import Workspace
from sharpeye.text.config import TextConfig
from sharpeye.text.gradients import (
    SAMPLED_TOKENS,
    Vectors,
    fisher_batches,
    gradient_batches,
    residuals,
    sampled_fisher,
)
from sharpeye.text.influence import squared_lengths
from sharpeye.text.language_models import (
    EncodedExample,
    LanguageModel,
    LoraPlan,
    encode,
    load_language_model,
    reset_lora,
)
from sharpeye.text.saying import say
from sharpeye.text.stored_gradients import StoredGradients, gradient_table
from sharpeye.text.training import LoraTraining, load_lora, train_lora
from sharpeye.training.checkpoints import load_parameters
from sharpeye.training.devices import generator, return_free_memory

# Examples a step: of few, there must be some steps.
TRAINING_BATCH, VALIDATION_BATCH = 16, 4
# Examples whose gradients are kept in one file: what a killed process computes again at most.
SHARD = 64


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
    """All that decides the gradients of a shard: the parameters, which vectors, and the first of its
    examples."""

    identity: str
    parameters: str
    examples: str
    vectors: str
    seed: int
    first: int


@dataclass(frozen=True)
class SayingInputs:
    """All that decides what a model says to the validation prompts."""

    identity: str
    parameters: str


@dataclass(frozen=True)
class CurvatureInputs:
    """All that decides the curvature at a minimum."""

    identity: str
    parameters: str
    kind: str
    damping: float
    seed: int


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


def trained_parameters(context: TextContext) -> str:
    """Train on the training examples, unless the configuration leaves that out; the checkpoint."""
    return training_of(context, "start", TRAIN, context.training, "training", context.config.epochs)


def set_parameters(context: TextContext, checkpoint: str) -> None:
    """Put the LoRA parameters of a checkpoint into the model; `start` for new ones, B = 0."""
    if checkpoint == "start":
        reset_lora(context.model, context.config.seed)
    else:
        load_lora(context.model, load_parameters(Path(checkpoint), context.model.device))


def said(context: TextContext, checkpoint: str) -> list[str]:
    """What the model says to the validation prompts with some LoRA parameters; kept."""
    inputs = SayingInputs(context.identity, Path(checkpoint).name)

    def compute(inputs: SayingInputs, execution: Execution) -> list[str]:
        execution.start(SAY)
        set_parameters(context, checkpoint)
        longest = max(one.completion for one in context.validation)
        return say(context.model, context.validation, longest, trained=checkpoint != "start")

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
    inputs = curvature_inputs(context, minimum)

    def compute(inputs: CurvatureInputs, execution: Execution) -> KroneckerCurvature:
        execution.start(curvature_stage(kind))
        set_parameters(context, minimum)

        def fit(divisor: int) -> KroneckerCurvature:
            size = max(1, context.model.batch // divisor)
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


def curvature_inputs(context: TextContext, minimum: str) -> CurvatureInputs:
    """What decides the curvature at a minimum."""
    config = context.config
    return CurvatureInputs(
        context.identity, Path(minimum).name, config.curvature, config.damping, config.seed
    )


def training_lengths(
    context: TextContext, minimum: str, curvature: KroneckerCurvature, training: StoredGradients
) -> np.ndarray:
    """See `squared_lengths`; computed once and kept, since questions need them again."""

    def compute(inputs: CurvatureInputs, execution: Execution) -> np.ndarray:
        execution.start(PAIRS)
        return squared_lengths(curvature, training, execution.device)

    return cached(
        context, "lora lengths", curvature_inputs(context, minimum), compute, save_npy, np.load, ".npy"
    )


def stored_gradients(
    context: TextContext, checkpoint: str, stage: str, examples: str, sample: int = 0
) -> StoredGradients:
    """Gradients of the training or validation examples, computed once and kept, SHARD examples a file.

    Args:
        context: of the run.
        checkpoint: of the LoRA parameters.
        stage: that reports.
        examples: `training` or `validation`.
        sample: 0 for the gradient of the loss, else a draw of vectors whose outer products add up to the
            Hessian.
    """
    encoded = context.training if examples == "training" else context.validation
    model, seed = context.model, context.config.seed
    kind = f"sampled {sample}" if sample else "loss"

    def shard(first: int, divisor: int) -> Path:
        inputs = GradientInputs(context.identity, Path(checkpoint).name, examples, kind, seed, first)

        def compute(inputs: GradientInputs, execution: Execution) -> np.ndarray:
            set_parameters(context, checkpoint)
            report = image_report(stage, execution.report, "example", before=first)
            return_free_memory()
            draws = generator(seed, SAMPLED_TOKENS, sample, first)
            return gradients_of(
                model,
                encoded[first : first + SHARD],
                sampled_fisher(draws) if sample else residuals,
                max(1, model.batch // divisor),
                lambda done, _: report(first + done, len(encoded)),
            )

        cached(context, "lora gradients", inputs, compute, save_npy, map_table, ".npy")
        return artifact_path(context, "lora gradients", inputs, ".npy")

    def shards(divisor: int) -> tuple[Path, ...]:
        return tuple(shard(first, divisor) for first in range(0, len(encoded), SHARD))

    return StoredGradients(with_smaller_batches(shards, context.execution.note), model.shapes)


def gradients_of(
    model: LanguageModel,
    encoded: list[EncodedExample],
    vectors: Vectors = residuals,
    size: int | None = None,
    report: ImageReport | None = None,
) -> np.ndarray:
    """A table of the gradients of few examples with the parameters that the model has."""
    order, tables = [], []
    for rows, gradients, losses in gradient_batches(model, encoded, vectors, size, report):
        order += rows
        tables.append(gradient_table(gradients, losses))
    return np.concatenate(tables)[np.argsort(order)]


def map_table(path: Path) -> np.ndarray:
    """A table of gradients on disk."""
    return np.load(path, mmap_mode="r")
