import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sharpeye.data import previews
from sharpeye.runs import review as engine_review
from sharpeye.runs.workspace import Workspace, open_workspace
from sharpeye_app import readers
from tests.app.synthetic import synthetic_workspace

IMAGES = 300


def forget() -> None:
    for cached in (readers.workspace, engine_review._read_review, previews.open_previews):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def own_main() -> Iterator[None]:
    """Streamlit's AppTest leaves the app as `__main__`, which processes that start later would run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture
def on_workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Point the app's readers at a workspace."""

    def point(root: Path) -> None:
        monkeypatch.setenv(readers.WORKSPACE_VARIABLE, str(root))
        forget()

    yield point
    forget()


@pytest.fixture
def empty(tmp_path: Path, on_workspace: Callable[[Path], None]) -> Workspace:
    """A workspace without runs."""
    made = open_workspace(str(tmp_path / "empty"))
    on_workspace(made.root)
    return made


@pytest.fixture
def review(tmp_path: Path, on_workspace: Callable[[Path], None]) -> engine_review.Review:
    """The review of a synthetic run of IMAGES images."""
    made, run = synthetic_workspace(tmp_path / "synthetic", IMAGES)
    on_workspace(made.root)
    return readers.review(run)
