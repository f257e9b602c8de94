"""Causal language models of Hugging Face with LoRA parameters, and the tokens that they read."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharpeye.errors import InputError
from sharpeye.text.examples import TextExamples
from sharpeye.text.model_memory import check_memory
from sharpeye.training.devices import autocast, generator

# Examples that pass through the model at once, by the type of its device.
BATCH = {"cpu": 8, "mps": 16, "cuda": 64}
MISSING = "text needs the packages of `pip install 'sharpeye[text]'` ({})"


@dataclass(frozen=True)
class LoraPlan:
    """Which parameters are trained, and influence is taken over.

    Attributes:
        rank: r of the update BA of each projection.
        alpha: its scale is alpha / r.
        projections: names of the projections; empty takes those that are usual for the model, of attention.
    """

    rank: int = 8
    alpha: int = 16
    projections: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodedExample:
    """Tokens of one example: the prompt's, then `completion` ones of the completion and the end."""

    tokens: tuple[int, ...]
    completion: int


class CompletionNetwork(nn.Module):
    """From a TokenBatch to what a causal model expects at every token of the completions, (B, T, V)."""

    def __init__(self, causal: nn.Module):
        super().__init__()
        self.causal: Any = causal

    def forward(self, batch: "TokenBatch") -> Tensor:
        # The token before the first one of the completion expects it.
        keep = batch.targets.shape[1] + 1
        with autocast(batch.tokens.device):
            output = self.causal(**batch.inputs(), logits_to_keep=keep, use_cache=False)
        logits: Tensor = output.logits[:, -keep:-1]
        return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class LanguageModel:
    """A frozen causal model with LoRA parameters on some of its projections.

    Attributes:
        network: on its device, in eval mode; `network.causal` is that of peft.
        tokenizer: of the model.
        layers: the LoRA matrices A and B, as Linear layers, by name.
        context: tokens that the model can read.
    """

    network: CompletionNetwork
    tokenizer: Any
    layers: dict[str, nn.Linear]
    context: int

    @property
    def parameters(self) -> list[Tensor]:
        """The LoRA parameters, in the order of `layers`."""
        return [layer.weight for layer in self.layers.values()]

    @property
    def device(self) -> torch.device:
        return self.parameters[0].device

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of each LoRA matrix, by name, in the order of `layers`."""
        return {name: (layer.out_features, layer.in_features) for name, layer in self.layers.items()}

    @property
    def batch(self) -> int:
        """Examples that pass through it at once."""
        return BATCH[self.device.type]


def load_language_model(path: str, plan: LoraPlan, device: torch.device, seed: int) -> LanguageModel:
    """A causal model with new LoRA parameters: A drawn at random, B zero: it says what it said before.

    Args:
        path: a folder or a name of Hugging Face, or a .gguf file; no code of the model's own is run, and of
            weights only safetensors and GGUF are read.
        plan: which parameters.
        device: where to put it.
        seed: of A.

    Raises:
        InputError: the packages are missing, there is no such model, it does not fit into memory, or it has
            no such projections.
    """
    try:
        import transformers
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise InputError(MISSING.format(error)) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    place = Path(path).expanduser()
    options: dict[str, Any] = {"trust_remote_code": False}
    if place.suffix == ".gguf":
        if not place.is_file():
            raise InputError(f"--model {path}: no such file")
        name, options["gguf_file"] = str(place.parent), place.name
    else:
        name = str(place) if place.exists() else path
    try:
        check_memory(path, device)
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
            if place.suffix != ".gguf":
                options["use_safetensors"] = True
            network = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"--model {path}: is no causal language model that can be read ({reason})"
        ) from error
    try:
        with _quiet():
            adapted = get_peft_model(
                network,
                LoraConfig(
                    r=plan.rank,
                    lora_alpha=plan.alpha,
                    target_modules=list(plan.projections) or None,
                    task_type="CAUSAL_LM",
                ),
            )
    except ValueError as error:
        wanted = ", ".join(plan.projections) or "of attention that are known for it"
        raise InputError(
            f"--model {path}: has no projections {wanted}; name some of its Linear layers with --projections"
        ) from error
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if isinstance(module, nn.Linear) and (".lora_A." in name or ".lora_B." in name)
    }
    context = int(getattr(network.config, "max_position_embeddings", 0) or 1024)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = LanguageModel(CompletionNetwork(adapted).to(device).eval(), tokenizer, layers, context)
    reset_lora(model, seed)
    return model


def reset_lora(model: LanguageModel, seed: int) -> None:
    """New LoRA parameters: A uniform within ±1/√(its inputs), B zero, as of peft."""
    draws = generator(seed, 0)
    with torch.no_grad():
        for name, layer in model.layers.items():
            bound = layer.weight.shape[1] ** -0.5
            drawn = (2 * torch.rand(layer.weight.shape, generator=draws) - 1) * bound
            layer.weight.copy_(drawn if ".lora_A." in name else torch.zeros_like(drawn))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars that a loader writes to stderr, and what one package warns another of."""
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def encode(model: LanguageModel, examples: TextExamples) -> tuple[list[EncodedExample], tuple[str, ...]]:
    """Tokens of the examples, and notes on what had to be cut.

    Prompt and completion are split into tokens apart, so that where one ends is certain, and the end mark
    follows. A prompt too long for the model loses its beginning, a completion its end.
    """
    tokenizer, limit = model.tokenizer, model.context
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    prompts = tokenizer(list(examples.prompts))["input_ids"]
    completions = tokenizer(list(examples.completions), add_special_tokens=False)["input_ids"]
    encoded, cut = [], []
    for prompt, completion, name in zip(prompts, completions, examples.ids, strict=True):
        # At least one token comes before the completion.
        prompt = prompt or end or [0]
        said = [*completion, *end][: limit - 1]
        kept = prompt[-(limit - len(said)) :]
        if len(kept) < len(prompt) or len(said) < len(completion) + len(end):
            cut.append(name)
        encoded.append(EncodedExample((*kept, *said), len(said)))
    if not cut:
        return encoded, ()
    more = f" and {len(cut) - 1:,} more" if len(cut) > 1 else ""
    return encoded, (f"longer than the {limit:,} tokens that the model reads, so cut: {cut[0]}{more}",)


@dataclass(frozen=True)
class TokenBatch:
    """Examples side by side, padded at the beginning, so that all completions end at the last place.

    Attributes:
        rows: of the examples among all, (B,).
        tokens: (B, P).
        mask: 1 where there is a token, (B, P).
        targets: the tokens of the completions, (B, T), T the longest.
        weights: 1 / the length of each completion on its tokens, 0 before them, (B, T).
    """

    rows: list[int]
    tokens: Tensor
    mask: Tensor
    targets: Tensor
    weights: Tensor

    def inputs(self) -> dict[str, Tensor]:
        """What a causal model of Hugging Face is given; positions count from an example's first token."""
        positions = (self.mask.cumsum(1) - 1).clamp_min(0)
        return {"input_ids": self.tokens, "attention_mask": self.mask, "position_ids": positions}


def token_batch(
    encoded: list[EncodedExample], rows: list[int], device: torch.device, pad: int = 0
) -> TokenBatch:
    """A batch of some examples; `pad` is the token before their first ones, which no other one sees."""
    chosen = [encoded[row] for row in rows]
    width, longest = max(len(one.tokens) for one in chosen), max(one.completion for one in chosen)
    tokens = torch.full((len(rows), width), pad)
    mask, weights = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), longest)
    for at, one in enumerate(chosen):
        tokens[at, width - len(one.tokens) :] = torch.tensor(one.tokens)
        mask[at, width - len(one.tokens) :] = 1
        weights[at, longest - one.completion :] = 1 / one.completion
    parts = (tokens, mask, tokens[:, width - longest :], weights)
    return TokenBatch(rows, *(part.to(device) for part in parts))


def completion_losses(logits: Tensor, batch: TokenBatch) -> Tensor:
    """ℓ = −1/T Σ_t log p(y_t | what comes before), the mean over the tokens of each completion, (B,)."""
    log_p = logits.log_softmax(2).gather(2, batch.targets[:, :, None])[:, :, 0]
    return -(log_p * batch.weights).sum(1)


def batches_by_length(encoded: list[EncodedExample], size: int) -> list[list[int]]:
    """Rows in batches of examples of like lengths, which need little padding."""
    order = sorted(range(len(encoded)), key=lambda row: (len(encoded[row].tokens), row))
    return [order[start : start + size] for start in range(0, len(order), size)]
