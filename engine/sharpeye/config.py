"""The configuration of a run: frozen, checked, and hashed; the hash is the run's identity."""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict, Unpack

from sharpeye.errors import InputError
from sharpeye.files import file_stamp
from sharpeye.specs import SourceSpec, ValidationSpec, absolute, parse_source, parse_validation

# Changes when the same configuration computes, or keeps, something else. It is a part of what identifies runs
# and artifacts.
VERSION = 5
BUDGETS = ("fast", "standard", "thorough")
OPTIMIZERS = ("lpf-sgd", "sam", "erm")
PARAMETERS = ("head", "last-block", "all")
CURVATURES = ("kfac", "ekfac", "diagonal", "dense")
DEFAULT_METHODS = ("fvm", "fvm_normalized", "fvm_posterior", "val_loss", "val_loss_posterior", "margin")
DEMO_METHODS = ("fvm", "vm", *DEFAULT_METHODS[1:])
# What the paper compares with. All take the network as it was trained on the given labels.
CLASSICAL_METHODS = ("lissa", "tracin", "tracin_self", "datainf", "gex")


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source.

    Attributes:
        label_column: column of the given labels; None takes a usual name.
        true_label_column: column of the true labels, for benchmarks; no method reads them.
        human_labels: official CIFAR-10N/100N `.pt` beside a torchvision CIFAR; `label_column` picks its
            column.
        torchvision_root: where torchvision keeps its files.
    """

    label_column: str | None = None
    true_label_column: str | None = None
    human_labels: str | None = None
    torchvision_root: str | None = None


@dataclass(frozen=True)
class DataConfig:
    """Which images are read, and how.

    Attributes:
        train: the training set.
        validation: the clean validation split; None takes the source's own.
        options: how the training source is read.
        limit: use at most this many training images, evenly spaced; None takes all.
        image_size: pixels per side fed to the model; None picks by model and images.
    """

    train: SourceSpec
    validation: ValidationSpec | None = None
    options: SourceOptions = SourceOptions()
    limit: int | None = None
    image_size: int | None = None


class RunOptions(TypedDict, total=False):
    """The options of a run but `train`, as users give them.

    See `RunConfig`, `DataConfig` and `SourceOptions`.
    """

    validation: str | None
    methods: tuple[str, ...]
    label_column: str | None
    true_label_column: str | None
    human_labels: str | None
    torchvision_root: str | None
    limit: int | None
    image_size: int | None
    model: str
    weights: str | None
    pretrain: bool | None
    optimizer: str
    parameters: str
    curvature: str
    damping: float
    budget: str
    candidates: bool
    mirror: bool
    figures: bool
    device: str
    seed: int


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's result.

    Attributes:
        data: which images are read, and how.
        methods: what to compute; the first one ranks the images.
        model: `small`, a torchvision backbone, or `timm:NAME`.
        weights: None (random), `pretrained`, or a state dict file.
        pretrain: pre-train on the given labels first; None: where there are no weights.
        optimizer: how the validation minimum is reached: `erm`, `sam` or `lpf-sgd`.
        parameters: what the influence is taken over: `head`, `last-block` or `all`.
        curvature: `dense`, `diagonal`, `kfac` or `ekfac`.
        damping: λ relative to the mean eigenvalue of each block.
        budget: `fast`, `standard` or `thorough`: how long to train.
        candidates: score every candidate label, not only the given one.
        mirror: a mirrored image keeps its label (false for digits and text).
        figures: also compute the figures of the Diagnostics page, which takes minutes.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        seed: seed of weights, order, augmentation and noise.
    """

    data: DataConfig
    methods: tuple[str, ...] = DEFAULT_METHODS
    model: str = "small"
    weights: str | None = None
    pretrain: bool | None = None
    optimizer: str = "lpf-sgd"
    parameters: str = "head"
    curvature: str = "kfac"
    damping: float = 1.0
    budget: str = "standard"
    candidates: bool = True
    mirror: bool = True
    figures: bool = False
    device: str = "auto"
    seed: int = 0

    @classmethod
    def of(cls, train: str, **options: Unpack[RunOptions]) -> "RunConfig":
        """A configuration from what users type: specs of sources are parsed, and paths become absolute.

        Raises:
            InputError: an option that is not known, or a spec that cannot be parsed.
        """
        values: dict[str, Any] = dict(options)
        unknown = values.keys() - RunOptions.__annotations__.keys()
        if unknown:
            raise InputError(f"configuration has unknown fields: {', '.join(sorted(unknown))}")
        for name in ("human_labels", "torchvision_root"):
            values[name] = values[name] and absolute(values[name]) if name in values else None
        if values.get("weights") not in (None, "pretrained"):
            values["weights"] = absolute(values["weights"])
        if "methods" in values:
            values["methods"] = tuple(values["methods"])
        reading = SourceOptions(**_taken(values, SourceOptions))
        validation = values.pop("validation", None)
        data = DataConfig(
            parse_source(train),
            None if validation is None else parse_validation(validation),
            reading,
            **_taken(values, DataConfig),
        )
        return cls(data, **values)

    def options(self) -> dict[str, Any]:
        """The options that `of` takes, all in one dictionary of JSON values; `train` too."""
        values: dict[str, Any] = {}
        for part in (self.data, self.data.options, self):
            values |= {field.name: getattr(part, field.name) for field in fields(part)}
        for nested in ("data", "options"):
            del values[nested]
        values["train"] = str(self.data.train)
        values["validation"] = None if self.data.validation is None else str(self.data.validation)
        return values

    def to_json(self) -> str:
        return json.dumps(self.options(), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Read back what `to_json` wrote.

        Raises:
            InputError: a field that this version does not know.
        """
        return cls.of(**json.loads(text))

    @property
    def pretrains(self) -> bool:
        """Whether the network is first trained on the given labels."""
        return self.weights is None if self.pretrain is None else self.pretrain

    @property
    def weights_key(self) -> object:
        """What identifies the weights that training starts from; of a file, also its state."""
        own = self.weights not in (None, "pretrained")
        return [self.weights, *file_stamp(Path(str(self.weights)).expanduser())] if own else self.weights

    @property
    def refines(self) -> bool:
        """Whether a second network is trained on the posterior of the labels.

        The fast budget is too short for that.
        """
        return self.pretrains and self.budget != "fast"


def _taken(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """Take out of `values` what are fields of a dataclass."""
    return {field.name: values.pop(field.name) for field in fields(kind) if field.name in values}


def digest(*parts: object) -> str:
    """A short, stable hash of JSON-able values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
