"""Whole runs under the supervisor: killed, canceled, queued, on a full disk."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sharpeye.config import RunConfig
from sharpeye.errors import is_disk_full
from sharpeye.runs import store
from sharpeye.runs.worker import sentence
from sharpeye.runs.workspace import Workspace, open_workspace
from tests.engine.runs.watching import (
    finished,
    kill_all,
    kill_and_resume,
    stages_reported,
    store_row,
    submit,
    wait_for,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = open_workspace(str(tmp_path / "ws"))
    yield made
    kill_all(made)


@pytest.fixture
def config(make_folder: Callable[..., Path]) -> RunConfig:
    train, check = make_folder("train", 20, wrong=3, seed=1), make_folder("check", 8, seed=2)
    return RunConfig.of(str(train), validation=str(check), methods=("fvm", "val_loss"), budget="fast")


def test_killed_runs_resume_to_the_same_scores(
    workspace: Workspace, config: RunConfig, tmp_path: Path
) -> None:
    started = time.monotonic()
    expected = finished(workspace, submit(workspace, config))
    length = time.monotonic() - started
    for number, share in enumerate((0.45, 0.7)):
        kill_and_resume(config, tmp_path / f"killed-{number}", expected, share * length)


def test_queue_cancel_and_status(workspace: Workspace, config: RunConfig) -> None:
    first, second = (
        submit(workspace, replace(config, budget="thorough")),
        submit(workspace, replace(config, seed=1)),
    )
    wait_for(workspace, first, ("running",))
    with store.store(workspace) as connection:
        while store.get_run(connection, first).progress is None:
            time.sleep(0.1)
        assert store.get_run(connection, second).state == "queued"
        store.request_cancel(connection, first)
    asked = time.monotonic()
    row = wait_for(workspace, second, ("running",), seconds=5)
    assert time.monotonic() - asked < 5
    with store.store(workspace) as connection:
        assert store.get_run(connection, first).state == "canceled"
    assert (row.started or 0) >= (store_row(workspace, first).finished or 0) - 0.1
    assert finished(workspace, second)["rank"].max() == 60
    assert {"pretrain", "curvature (flat)", "score (flat)"} <= set(
        stages_reported(workspace.run(second).events)
    )


def test_a_changed_dataset_is_noticed(workspace: Workspace, config: RunConfig) -> None:
    run = submit(workspace, config)
    image = next(Path(str(config.data.train)).rglob("*.png"))
    os.utime(image, ns=(1, 1))
    row = wait_for(workspace, run, store.FINISHED)
    assert row.state == "failed"
    assert "changed since this run was submitted" in (row.message or "")
    assert submit(workspace, config) != run


def test_gpus_that_pytorch_cannot_use_are_not_taken(
    workspace: Workspace, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: some'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    run = submit(workspace, config)
    assert finished(workspace, run)["rank"].max() == 60
    assert store_row(workspace, run).device == "auto"


def test_full_disk_fails_clearly_and_resumes(config: RunConfig, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    try:
        workspace = open_workspace(str(mount / "ws"))
        run = submit(workspace, config)
        row = wait_for(workspace, run, store.FINISHED)
        assert row.state == "failed"
        assert "disk" in (row.message or "")
        assert "full" in (row.message or "")
        subprocess.run(["mount", "-o", "remount,size=400m", str(mount)], check=True)
        with store.store(workspace) as connection:
            store.resume(connection, run)
        assert finished(workspace, run)["rank"].max() == 60
    finally:
        kill_all(Workspace(mount / "ws"))
        subprocess.run(["umount", "-l", str(mount)], check=False)


def test_sentences_say_what_to_do(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    full = RuntimeError("could not write")
    full.__cause__ = OSError(28, "No space left on device")
    assert is_disk_full(full)
    assert "make room" in sentence(full, workspace)
    assert "nvidia-smi" in sentence(RuntimeError("CUDA error: device lost"), workspace)
    assert "smaller" in sentence(MemoryError(), workspace)
    refused = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to ..."
    )
    assert "smaller" in sentence(refused, workspace)
    assert sentence(KeyError("x"), workspace).startswith("Unexpected KeyError")


def test_out_of_memory_halves_the_batch() -> None:
    from sharpeye.runs.context import with_smaller_batches

    tried: list[int] = []
    notes: list[str] = []

    def action(divisor: int) -> str:
        tried.append(divisor)
        if divisor < 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    assert with_smaller_batches(action, notes.append) == "done"
    assert tried == [1, 2, 4]
    assert len(notes) == 2
    with pytest.raises(RuntimeError, match="other"):
        with_smaller_batches(lambda divisor: (_ for _ in ()).throw(RuntimeError("other")), notes.append)


def test_the_supervisor_goes_home_when_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sharpeye.runs import supervisor

    monkeypatch.setattr(supervisor, "IDLE_SECONDS", 0.3)
    started = time.monotonic()
    supervisor.supervise(open_workspace(str(tmp_path)), supervisor.until_idle())
    assert time.monotonic() - started < 5


def test_interrupting_the_client_leaves_the_run_alone(workspace: Workspace, config: RunConfig) -> None:
    command = [
        sys.executable,
        "-m",
        "sharpeye.commands.cli",
        "run",
        "--train",
        str(config.data.train),
        "--validation",
        str(config.data.validation),
    ]
    client = subprocess.Popen(
        [*command, "--budget", "fast", "--method", "fvm", "--workspace", str(workspace.root)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with Ctrl-C ignored, and what these start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (workspace.root / "runs").exists():
        time.sleep(0.1)
    client.send_signal(signal.SIGINT)
    _, stderr = client.communicate(timeout=30)
    assert client.returncode == 130
    assert "goes on in the background" in stderr
    run = next((workspace.root / "runs").iterdir()).name
    assert finished(workspace, run)["rank"].max() == 60
