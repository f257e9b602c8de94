"""canaries.json: quality of a run's methods and suggestions, estimated without true labels."""

from dataclasses import dataclass

import msgspec

from sharpeye.quality import Estimate, Reliability
from sharpeye.runs.workspace import RunFolder


@dataclass(frozen=True)
class CanaryEstimates:
    """What the canaries tell (see `sharpeye.influence.canaries`).

    Attributes:
        images: number of validation images.
        methods: estimated quality of each method.
        suggestions: confidence of suggestions beside what is right of them.
    """

    images: int
    methods: dict[str, Estimate]
    suggestions: Reliability


def read_estimates(folder: RunFolder) -> CanaryEstimates | None:
    """The estimates of a run; None where there are none."""
    if not folder.canaries.exists():
        return None
    return msgspec.json.decode(folder.canaries.read_bytes(), type=CanaryEstimates)
