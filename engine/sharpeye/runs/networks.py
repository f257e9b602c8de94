"""What the stages of training leave behind."""

from dataclasses import dataclass

from sharpeye.training.models import Classifier
from sharpeye.training.trainer import Snapshot


@dataclass(frozen=True)
class TrainedStage:
    """What one stage of training left: what identifies it, and the models on the way."""

    identity: str
    snapshots: tuple[Snapshot, ...]

    def key(self) -> str:
        return self.identity


@dataclass(frozen=True)
class TrainedNetwork:
    """A network trained on the given labels.

    Attributes:
        model: on its device.
        identity: what identifies it.
        stages: `pretrain`; none where the configuration leaves that out.
    """

    model: Classifier
    identity: str
    stages: dict[str, TrainedStage]

    def key(self) -> str:
        return self.identity


@dataclass(frozen=True)
class Minimum:
    """A network at a minimum of the validation risk.

    Attributes:
        model: in eval mode.
        identity: what identifies it.
        weight: of its evaluation in the mean over minima.
        stages: of the way there, `pretrain` (where there is one) and `minimum`.
    """

    model: Classifier
    identity: str
    weight: float
    stages: dict[str, TrainedStage]

    def key(self) -> str:
        return self.identity
