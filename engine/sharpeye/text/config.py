"""The configuration of a run on text: frozen, checked, and hashed, as `sharpeye.config.RunConfig` is. Never
torch."""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sharpeye.errors import InputError
from sharpeye.specs import absolute

KIND = "text"
# At the (flat) validation minimum; those that need the model as it was trained on the training examples; and
# those that need no gradient.
MINIMUM_METHODS = ("fvm", "fvm_normalized", "fvm_tokens", "vm", "vm_normalized", "vm_tokens")
TRAINED_METHODS = ("datainf", "lissa", "tracin", "cosine")
PLAIN_METHODS = ("bm25", "embedding")
METHODS = (*MINIMUM_METHODS, *TRAINED_METHODS, *PLAIN_METHODS)
# Divided by its own length, an example that the model has not learned does not come first everywhere.
DEFAULT_METHODS = ("fvm_normalized", "fvm", "bm25", "embedding")
CURVATURES = ("ekfac", "kfac")


@dataclass(frozen=True)
class TextConfig:
    """Everything that decides a text run's result.

    Attributes:
        train: table of training examples.
        validation: table of trusted examples, or `share:0.1`, a share of the training examples.
        model: folder or name of a causal model of Hugging Face, or a .gguf file.
        methods: what to compute; the first one ranks.
        rank: of LoRA.
        alpha: of LoRA; the update is scaled by alpha / rank.
        projections: which are adapted; empty takes those of attention that are usual for the model.
        epochs: of training on the training examples, before that on the validation examples.
        validation_epochs: of training to the validation minimum.
        learning_rate: peak, of AdamW, with 16 examples a step; √ of their number as it changes.
        sigma: of LPF-SGD.
        curvature: `ekfac` or `kfac`.
        damping: λ relative to the mean eigenvalue of each matrix.
        samples: of the Hessian of a validation example, for the methods that end in `_tokens`.
        limit: use at most this many training examples, evenly spaced; None takes all.
        corrupt: for benchmarks: this share of the training examples swap completions with another class.
        say: let the model complete the validation prompts before and after training, for people to read.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: of LoRA's parameters, order, noise and sampled tokens.
    """

    train: str
    validation: str
    model: str
    methods: tuple[str, ...] = DEFAULT_METHODS
    rank: int = 8
    alpha: int = 16
    projections: tuple[str, ...] = ()
    epochs: int = 0
    validation_epochs: int = 1
    learning_rate: float = 1e-3
    sigma: float = 0.1
    curvature: str = "ekfac"
    damping: float = 0.01
    samples: int = 4
    limit: int | None = None
    corrupt: float = 0.0
    say: bool = True
    device: str = "auto"
    seed: int = 0

    def checked(self) -> "TextConfig":
        """The same, with paths made absolute.

        Raises:
            InputError: an option that is unknown or out of range.
        """
        for method in self.methods:
            if method not in METHODS:
                raise InputError(f"--method {method}: unknown; choose from {', '.join(METHODS)}")
        if not self.methods:
            raise InputError("--method: name at least one method")
        if self.curvature not in CURVATURES:
            raise InputError(f"--curvature {self.curvature}: choose from {', '.join(CURVATURES)}")
        least = {
            "rank": 1,
            "alpha": 1,
            "epochs": 0,
            "validation_epochs": 1,
            "samples": 1,
            "damping": 1e-6,
            "learning_rate": 1e-9,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least {bound}")
        if not 0 <= self.corrupt < 1:
            raise InputError(f"--corrupt {self.corrupt}: a share from 0 to below 1")
        for name in ("train", "validation", "model"):
            if not getattr(self, name):
                raise InputError(f"--{name}: is missing")
        return replace(
            self,
            train=absolute(self.train),
            validation=self.validation if self.shared else absolute(self.validation),
            model=absolute(self.model),
        )

    @property
    def shared(self) -> bool:
        """Whether the validation examples are a share of the training examples."""
        return self.validation.startswith("share:")

    @property
    def share(self) -> float:
        """That share.

        Raises:
            InputError: it is no number between 0 and 1.
        """
        try:
            share = float(self.validation.removeprefix("share:"))
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise InputError(f"--validation {self.validation}: expected a share, such as share:0.1")
        return share

    @property
    def title(self) -> str:
        """In a few words, for people."""
        return f"{Path(self.train).name} · {self.methods[0]}, {Path(self.model).name}"

    def to_json(self) -> str:
        return json.dumps({"kind": KIND} | asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "TextConfig":
        """Read back what `to_json` wrote.

        Raises:
            InputError: a field that this version does not know.
        """
        values: dict[str, Any] = json.loads(text)
        values.pop("kind", None)
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"configuration has unknown fields: {', '.join(sorted(unknown))}")
        for name in ("methods", "projections"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)
