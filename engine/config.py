"""The configuration of a run: frozen, checked, and hashed; the hash is the run's identity."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from engine.errors import InputError
from engine.files import file_stamp

# Changes when the same configuration computes, or keeps, something else: a part of what identifies runs and artifacts.
VERSION = 4
BUDGETS = ("fast", "standard", "thorough")
OPTIMIZERS = ("lpf-sgd", "sam", "erm")
PARAMETERS = ("head", "last-block", "all")
CURVATURES = ("kfac", "ekfac", "diagonal", "dense")
DEFAULT_METHODS = ("fvm", "fvm_normalized", "fvm_posterior", "val_loss", "val_loss_posterior", "margin")
DEMO_METHODS = ("fvm", "vm", *DEFAULT_METHODS[1:])
# What the paper compares with; all take the network as it was trained on the given labels.
CLASSICAL_METHODS = ("lissa", "tracin", "tracin_self", "datainf", "gex")
# What sources and weights are called; no file of that name is meant.
KEYWORDS = {"train": ("demo",), "validation": ("demo", "split"), "weights": ("pretrained",)}
DATA_FIELDS = (
    "train", "validation", "label_column", "true_label_column", "human_labels", "torchvision_root", "limit", "image_size",
)  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's result.

    Attributes:
        train: SPEC of the training set: `demo`, a folder, a .csv/.parquet file, or `torchvision:NAME[/SPLIT]`.
        validation: SPEC of the clean validation split; `split` (the source's own split column or folders);
            `share:0.1` (a stratified share of a training set whose labels are trusted); `ids:FILE` (a CSV with the `id` and
            the trusted `label` of training images); None picks the source's own.
        label_column: column of the given labels; None takes a usual name.
        true_label_column: column of the true labels, for benchmarks; no method reads them.
        human_labels: official CIFAR-10N/100N `.pt` beside a torchvision CIFAR; `label_column` picks its column.
        torchvision_root: where torchvision keeps its files.
        limit: use at most this many training images, evenly spaced; None takes all.
        image_size: pixels per side fed to the model; None picks by model and images.
        methods: what to compute; the first one ranks the images and suggests labels.
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

    train: str
    validation: str | None
    methods: tuple[str, ...]
    label_column: str | None = None
    true_label_column: str | None = None
    human_labels: str | None = None
    torchvision_root: str | None = None
    limit: int | None = None
    image_size: int | None = None
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

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        """Read back what `to_json` wrote.

        Raises:
            InputError: a field that this version does not know.
        """
        values = json.loads(text)
        unknown = values.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise InputError(f"configuration has unknown fields: {', '.join(sorted(unknown))}")
        return cls(**{**values, "methods": tuple(values["methods"])})

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
        """Whether it is trained once more, on what is believed of them; the fast budget is too short for that."""
        return self.pretrains and self.budget != "fast"

    def data(self) -> dict[str, object]:
        """The fields that say which images are read, and how."""
        return {name: getattr(self, name) for name in DATA_FIELDS}


def digest(*parts: object) -> str:
    """A short, stable hash of JSON-able values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
