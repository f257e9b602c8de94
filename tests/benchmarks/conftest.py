"""What benchmarks of durability begin with."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from sharpeye.config import RunConfig
from sharpeye.runs.workspace import Workspace, open_workspace
from tests.engine.runs.watching import finished, kill_all, submit


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed: its workspace, its scores, and how many seconds it took."""

    workspace: Workspace
    scores: pd.DataFrame
    seconds: float


@pytest.fixture
def config(make_folder: Callable[..., Path]) -> RunConfig:
    train, check = make_folder("train", 20, wrong=3, seed=1), make_folder("check", 8, seed=2)
    return RunConfig.of(str(train), validation=str(check), methods=("fvm", "vm", "val_loss"), budget="fast")


@pytest.fixture
def undisturbed(config: RunConfig, tmp_path: Path) -> Undisturbed:
    workspace = open_workspace(str(tmp_path / "whole" / "ws"))
    started = time.monotonic()
    scores = finished(workspace, submit(workspace, config))
    seconds = time.monotonic() - started
    kill_all(workspace)
    return Undisturbed(workspace, scores, seconds)
