"""Terminals and machines as they are: one clear line, and the documented exit code."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sharpeye.errors import InputError
from sharpeye.runs.worker import sentence
from sharpeye.runs.workspace import Workspace, open_workspace
from sharpeye_app.server import free_port

LOCALES = ({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"})


def sharpeye(
    *arguments: object, stdout: str = os.devnull, **environment: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "sharpeye.commands.cli", *map(str, arguments)]
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with Path(stdout).open("w") as target:
        return subprocess.run(
            command,
            stdout=target,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=os.environ | plain | environment,
            check=False,
        )


@pytest.mark.parametrize("environment", LOCALES)
def test_any_locale(tmp_path: Path, environment: dict[str, str]) -> None:
    for arguments in (
        ["run", "--help"],
        ["bench", "photos", "--help"],
        ["runs", "--workspace", tmp_path / "wörk"],
    ):
        done = sharpeye(*arguments, **environment)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    refused = sharpeye("run", "--train", tmp_path / "schön", "--workspace", tmp_path, **environment)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output(tmp_path: Path) -> None:
    done = sharpeye("runs", "--workspace", tmp_path, stdout="/dev/full")
    assert done.returncode == 1
    assert done.stderr == "sharpeye: cannot write (No space left on device)\n"


def test_workspaces_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="is no folder"):
        open_workspace(str(tmp_path / "loop"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        open_workspace(str(tmp_path / "file"))


def test_a_workspace_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written to"):
        open_workspace(str(tmp_path))


def test_ports_and_hosts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"cannot be listened on at 127\.0\.0\.1"):
            free_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match=r"--host nowhere\.invalid: no address of this machine"):
        free_port("nowhere.invalid", None)


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="needs IPv6")
def test_the_ipv6_loopback() -> None:
    assert free_port("::1", None) >= 8501


def test_too_little_memory_to_load_torch_is_said(tmp_path: Path) -> None:
    error = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    assert sentence(error, Workspace(tmp_path)).startswith("There is too little memory to load PyTorch")
