import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import sharpeye
import sharpeye_app
from sharpeye.processes import module_command, start_detached
from sharpeye.runs import store
from sharpeye.runs.workspace import Workspace, open_workspace
from tests.browser.driving import answers, free_port
from tests.engine.runs.watching import kill_all

COMMAND = Path(sys.executable).with_name("sharpeye")
NAMES = (
    "app.py",
    "sharpeye.py",
    "sharpeye_app.py",
    "torch.py",
    "streamlit.py",
    "pandas.py",
    "engine/__init__.py",
)
DEADLINE = 60


@pytest.fixture
def hostile(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """A folder of images that also holds Python files of the user, each of which leaves a mark when it is
    run."""
    folder = tmp_path / "hostile"
    for name in NAMES:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(
            f"open({str(folder / 'mark')!r}, 'a').write({name!r})\nraise SystemExit('hostile')\n"
        )
    make_folder("hostile/train", 12, wrong=2, seed=1)
    make_folder("hostile/check", 6, seed=2)
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = open_workspace(str(tmp_path / "ws"))
    yield made
    kill_all(made)


def test_a_run_takes_no_code_from_the_current_folder(hostile: Path, workspace: Workspace) -> None:
    options = ["--train", "train", "--validation", "check", "--budget", "fast", "--method", "val_loss"]
    command = [str(COMMAND), "run", *options, "--workspace", str(workspace.root)]
    outcome = subprocess.run(command, cwd=hostile, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    assert not (hostile / "mark").exists(), (hostile / "mark").read_text()


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_the_app_takes_no_code_from_the_current_folder(
    hostile: Path, workspace: Workspace, command: str
) -> None:
    port = free_port()
    options = ["--workspace", str(workspace.root), "--port", str(port), "--no-browser", "--no-token"]
    app = subprocess.Popen([str(COMMAND), command, *options], cwd=hostile, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            assert page.status == 200
        if command == "demo":
            with store.store(workspace) as connection:
                wait_until(lambda: any(row.progress for row in store.list_runs(connection)))
    finally:
        app.kill()
        app.wait(10)
    assert not (hostile / "mark").exists(), (hostile / "mark").read_text()


def test_a_child_that_ended_leaves_no_zombie(tmp_path: Path) -> None:
    child = start_detached([sys.executable, "-c", "print('done')"], tmp_path / "logs" / "log.txt")
    wait_until(lambda: not psutil.pid_exists(child.pid))
    assert (tmp_path / "logs" / "log.txt").read_text() == "done\n"


def test_processes_are_started_in_one_place() -> None:
    """No other module starts this package's modules, which would take code from the current folder."""
    assert module_command("a.b", "c") == [sys.executable, "-P", "-m", "a.b", "c"]
    roots = [Path(package.__file__).parent for package in (sharpeye, sharpeye_app)]
    for path in (path for root in roots for path in root.rglob("*.py")):
        if path.name != "processes.py":
            text = path.read_text()
            assert '"-m"' not in text, path
            assert "Popen(" not in text, path


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_the_environment_of_tests_is_the_installed_package() -> None:
    """The hostile folder is a test only where the current folder comes first by default."""
    code = "import sys; print(sys.path[0])"
    outcome = subprocess.run(
        [sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert outcome.stdout.strip() == ""
