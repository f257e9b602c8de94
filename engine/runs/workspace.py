"""The workspace on disk: every path of it is decided here."""

from dataclasses import dataclass
from pathlib import Path

DEFAULT = "~/.sharpeye"


@dataclass(frozen=True)
class Workspace:
    """The folder that holds decoded datasets, checkpoints shared between runs, and the runs."""

    root: Path

    @property
    def decoded(self) -> Path:
        return self.root / "decoded"

    def checkpoint(self, stage: str, key: str) -> Path:
        """Checkpoint of a training stage; runs with the same configuration up to it share it."""
        return self.root / "checkpoints" / f"{stage}-{key}.safetensors"

    def run(self, run: str) -> "RunFolder":
        return RunFolder(self.root / "runs" / run)


@dataclass(frozen=True)
class RunFolder:
    """What one run leaves behind."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def scores(self) -> Path:
        return self.root / "scores.parquet"

    @property
    def skipped(self) -> Path:
        return self.root / "skipped.csv"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    def evaluation(self, minimum: str) -> Path:
        return self.root / f"evaluation-{minimum}.safetensors"
