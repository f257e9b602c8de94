"""The configuration of a run: frozen, checked, and hashed; the hash is the run's identity."""

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from sharpeye.errors import InputError
from sharpeye.files import file_stamp
from sharpeye.specs import (
    FileSource,
    RemoteSource,
    SourceSpec,
    TrustedList,
    ValidationSpec,
    absolute,
    parse_source,
    parse_validation,
)

# Changes when the same configuration computes, or keeps, something else. It is a part of what identifies runs
# and artifacts.
VERSION = 13
BUDGETS = ("fast", "standard", "thorough")
OPTIMIZERS = ("lpf-sgd", "sam", "erm")
PARAMETERS = ("head", "last-block", "all")
NAMED_WEIGHTS = ("random", "pretrained")
# Of other tools, see `sharpeye.runs.peers`.
EXPORT_FORMATS = ("label-studio", "fiftyone", "cvat", "coco", "cleanlab", "hugging-face")
CURVATURES = ("kfac", "ekfac", "diagonal", "dense")
TUNES = ("head", "all")
# Images up to so many pixels a side are icons to the pre-trained backbones.
SMALL_LIMIT = 64
PACKAGED_BACKBONES = ("efficientnet_lite0", "efficientnet_lite2")
TORCHVISION_BACKBONES = ("resnet18", "resnet34", "resnet50", "convnext_tiny", "vit_b_16")
AUTO, SMALL, PHOTOGRAPHS = "auto", "small", "efficientnet_lite0"
# The noise posterior ranks better than any influence: see the benchmarks.
DEFAULT_METHODS = (
    "val_loss_posterior",
    "fvm",
    "fvm_newton",
    "fvm_normalized",
    "fvm_posterior",
    "val_loss",
    "margin",
    "cleanlab",
)
DEMO_METHODS = (*DEFAULT_METHODS, "vm")
# What the paper compares with. All take the network as it was trained on the given labels.
CLASSICAL_METHODS = ("lissa", "tracin", "tracin_self", "datainf", "gex")

# Of the figures: the ball in which sharpness looks for the worst risk, and the relative length of its noise.
SHARPNESS_RADIUS, SHARPNESS_NOISE = 0.05, 0.2


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source.

    Attributes:
        path_column: column of the image paths; None takes a usual name.
        image_root: folder that image paths are relative to; None takes that of the table.
        label_column: column of the given labels; None takes a usual name.
        validation_label_column: column of the trusted labels, in a validation source of its own.
        true_label_column: column of the true labels, for benchmarks; no method reads them.
        human_labels: official CIFAR-10N/100N `.pt` beside a torchvision CIFAR; `label_column` picks its
            column.
        torchvision_root: where torchvision keeps its files.
        follow_links: read what symbolic links lead to outside the folder, too.
    """

    path_column: str | None = None
    image_root: str | None = None
    label_column: str | None = None
    validation_label_column: str | None = None
    true_label_column: str | None = None
    human_labels: str | None = None
    torchvision_root: str | None = None
    follow_links: bool = False


@dataclass(frozen=True)
class DataConfig:
    """Which images are read, and how.

    Attributes:
        train: the training set.
        validation: the clean validation split; None takes the source's own, or goes without where it has none
            and only heads are trained.
        confirmed: a CSV of training images' id and label that people confirmed: they join the validation
            split.
        options: how the training source is read.
        limit: use at most this many training images, evenly spaced; None takes all.
        image_size: pixels per side fed to the model; None picks by model and images.
    """

    train: SourceSpec
    validation: ValidationSpec | None = None
    confirmed: str | None = None
    options: SourceOptions = SourceOptions()
    limit: int | None = None
    image_size: int | None = None


class RunOptions(TypedDict, total=False):
    """The options of a run but `train`, as users give them.

    See `RunConfig`, `DataConfig` and `SourceOptions`.
    """

    validation: str | None
    confirmed: str | None
    path_column: str | None
    image_root: str | None
    validation_label_column: str | None
    follow_links: bool
    methods: tuple[str, ...]
    label_column: str | None
    true_label_column: str | None
    human_labels: str | None
    torchvision_root: str | None
    limit: int | None
    image_size: int | None
    model: str
    weights: str | None
    tune: str | None
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
    cluster: str | None
    seed: int


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's result.

    Attributes:
        data: which images are read, and how.
        methods: what to compute; the first one ranks the images. Empty: see `resolved`.
        model: `auto`, `small`, a packaged backbone, one of torchvision, or `timm:NAME`.
        weights: `random`, `pretrained`, or a state dict file; None: see `resolved`.
        tune: `head`: a linear head on frozen features, cross-fitted; `all`: the whole network. None: see
            `resolved`.
        pretrain: where there is a clean split, pre-train the whole network on the given labels first; None:
            unless it has weights of the user's own.
        optimizer: how the validation minimum is reached: `erm`, `sam` or `lpf-sgd`.
        parameters: what the influence is taken over: `head`, `last-block` or `all`.
        curvature: `dense`, `diagonal`, `kfac` or `ekfac`.
        damping: λ relative to the mean eigenvalue of each block.
        budget: `fast`, `standard` or `thorough`: how long to train.
        candidates: score every candidate label, not only the given one.
        mirror: a mirrored image keeps its label (false for digits and text).
        figures: also compute the figures of the Diagnostics page, which takes minutes.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        cluster: None computes on this machine; `local`, `auto` or HOST:PORT names a Ray cluster that embeds,
            trains and scores, see `sharpeye.runs.cluster`.
        seed: seed of weights, order, augmentation and noise.
    """

    data: DataConfig
    methods: tuple[str, ...] = ()
    model: str = AUTO
    weights: str | None = None
    tune: str | None = None
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
    cluster: str | None = None
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
        for name in ("human_labels", "torchvision_root", "image_root"):
            values[name] = values[name] and absolute(values[name]) if name in values else None
        if values.get("weights") not in (None, *NAMED_WEIGHTS):
            values["weights"] = absolute(values["weights"])
        if "methods" in values:
            values["methods"] = tuple(values["methods"])
        if values.get("confirmed"):
            values["confirmed"] = absolute(values["confirmed"])
        reading = SourceOptions(**_taken(values, SourceOptions))
        validation = values.pop("validation", None)
        data = DataConfig(
            parse_source(train),
            None if validation is None else parse_validation(validation),
            options=reading,
            **_taken(values, DataConfig),
        )
        return cls(data, **values)

    @property
    def places(self) -> tuple[str, ...]:
        """All paths and addresses that are named."""
        options = self.data.options
        weights = None if self.weights in NAMED_WEIGHTS else self.weights
        named = [options.image_root, options.human_labels, options.torchvision_root, weights]
        named.append(self.data.confirmed)
        for spec in (self.data.train, self.data.validation):
            if isinstance(spec, FileSource | TrustedList):
                named.append(spec.path)
            elif isinstance(spec, RemoteSource):
                named.append(spec.address)
        return tuple(filter(None, named))

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

    def resolved(self, natural_size: int, clean_split: bool) -> "RunConfig":
        """The same with what was left open decided by the images.

        A model: `small` up to SMALL_LIMIT pixels a side where there is a clean split, else PHOTOGRAPHS.
        Weights: published ones, where the model has any. Tuning: heads on frozen features where the weights
        are published ones. Methods: DEFAULT_METHODS.

        Args:
            natural_size: the images' own largest side.
            clean_split: whether there are images of trusted labels.

        Raises:
            InputError: no such model.
        """
        if self.model not in (AUTO, SMALL) and not is_pretrained_backbone(self.model):
            known = ", ".join((AUTO, SMALL, *PACKAGED_BACKBONES, *TORCHVISION_BACKBONES, "timm:NAME"))
            raise InputError(f"--model {self.model}: unknown; choose one of {known}")
        fitting = SMALL if natural_size <= SMALL_LIMIT and clean_split else PHOTOGRAPHS
        model = fitting if self.model == AUTO else self.model
        weights = self.weights or ("random" if model == SMALL else "pretrained")
        tune = self.tune or ("head" if weights == "pretrained" else "all")
        methods = self.methods or DEFAULT_METHODS
        return replace(self, model=model, weights=weights, tune=tune, methods=methods)

    def on_frozen_features(self) -> "RunConfig":
        """A resolved configuration with heads on the features of a frozen network in the place of a whole
        network: of the same kind where its weights are published, else of PHOTOGRAPHS, at its own size."""
        model = self.model if self.weights == "pretrained" else PHOTOGRAPHS
        data = replace(self.data, image_size=None)
        return replace(self, model=model, weights="pretrained", tune="head", data=data)

    @property
    def on_features(self) -> bool:
        """Whether only heads are trained, on the features of a frozen network."""
        return self.tune == "head"

    @property
    def pretrains(self) -> bool:
        """Whether the whole network is first trained on the given labels."""
        return self.weights in (None, *NAMED_WEIGHTS) if self.pretrain is None else self.pretrain

    @property
    def weights_key(self) -> object:
        """What identifies the weights that training starts from; of a file, also its state."""
        if self.weights in (None, *NAMED_WEIGHTS):
            return self.weights
        return [self.weights, *file_stamp(Path(str(self.weights)).expanduser())]

    @property
    def refines(self) -> bool:
        """Whether a second network is trained on the posterior of the labels.

        The fast budget is too short for that.
        """
        return self.pretrains and self.budget != "fast"


def is_pretrained_backbone(name: str) -> bool:
    """Whether a model of this name has published weights."""
    return name in PACKAGED_BACKBONES or name in TORCHVISION_BACKBONES or name.startswith("timm:")


def _taken(values: dict[str, Any], kind: type) -> dict[str, Any]:
    """Take out of `values` what are fields of a dataclass."""
    return {field.name: values.pop(field.name) for field in fields(kind) if field.name in values}


def digest(*parts: object) -> str:
    """A short, stable hash of JSON-able values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
