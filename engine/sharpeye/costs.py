"""What a run costs: plain values, which the app reads too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunEstimate:
    """What a run would take on this machine.

    Attributes:
        seconds: in all.
        memory_mb: at most.
        disk_mb: beside what inspecting the images keeps.
    """

    seconds: float
    memory_mb: float
    disk_mb: float
