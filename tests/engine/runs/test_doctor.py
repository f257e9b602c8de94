"""Ten kinds of damage: each is found, and repaired or explained."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

import sharpeye
from sharpeye.commands.cli import main
from sharpeye.errors import InputError
from sharpeye.runs import store
from sharpeye.runs.artifacts import save_npy
from sharpeye.runs.backups import KEPT, back_up, copies, database_problem
from sharpeye.runs.decisions import Decision, current_decisions, decide
from sharpeye.runs.doctor import examine
from sharpeye.runs.workspace import Workspace
from tests.app.synthetic import synthetic_workspace
from tests.engine.runs.watching import kill_all


@pytest.fixture
def sound(tmp_path: Path) -> tuple[Workspace, str]:
    """A workspace with a finished run, shared results, a decision, and a copy of the store from before it."""
    workspace, run = synthetic_workspace(tmp_path / "ws", 50)
    workspace.artifacts.mkdir(exist_ok=True)
    save_file({"a": np.arange(10.0)}, workspace.artifact("losses", "0a", ".safetensors"))
    workspace.artifact("features", "0b", ".f16").write_bytes(bytes(64))
    save_npy(np.arange(100.0), workspace.artifact("gradients", "0c", ".npy"))
    with store.store(workspace) as connection:
        decide(connection, "dataset", run, "ann", [Decision("a", "keep", "x", "x")])
        back_up(connection, workspace)
        decide(connection, "dataset", run, "ann", [Decision("b", "keep", "x", "x")])
    return workspace, run


def doctor(workspace: Workspace, *options: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *options, "--workspace", str(workspace.root)])


def cut(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * 200)


DAMAGES: dict[str, Callable[[Workspace, str], None]] = {
    "a shared result is cut off": lambda w, r: cut(w.artifact("losses", "0a", ".safetensors")),
    "its header is overwritten": lambda w, r: scribble(w.artifact("losses", "0a", ".safetensors")),
    "features are cut off": lambda w, r: os.truncate(w.artifact("features", "0b", ".f16"), 33),
    "gradients are cut off": lambda w, r: cut(w.artifact("gradients", "0c", ".npy")),
    "decoded pixels are cut off": lambda w, r: cut(next(w.decoded.glob("*/images.u8"))),
    "a decoded table is overwritten": lambda w, r: scribble(next(w.decoded.glob("*/table.parquet"))),
    "scores are cut off": lambda w, r: cut(w.run(r).scores),
    "the map is gone": lambda w, r: w.run(r).embedding.unlink(),
    "a result is no result": lambda w, r: w.run(r).result.write_text("{"),
    "a run is unknown to the store": lambda w, r: (
        shutil.copytree(w.run(r).root, w.runs / "0123456789ab") and None
    ),
    "a copy of the store is cut off": lambda w, r: cut(copies(w)[0]),
    "the store is overwritten": lambda w, r: scribble(w.database),
    "the store is gone": lambda w, r: w.database.unlink(),
}


def test_nothing_is_found_in_a_sound_workspace(sound: tuple[Workspace, str]) -> None:
    outcome = doctor(sound[0])
    assert (outcome.exit_code, outcome.stdout) == (0, "nothing is damaged\n")


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found_and_mended(sound: tuple[Workspace, str], damage: str) -> None:
    workspace, run = sound
    DAMAGES[damage](workspace, run)
    assert len(examine(workspace)) == 1
    outcome = doctor(workspace)
    assert outcome.exit_code == 1
    assert outcome.stdout.count("not mended") == 1
    outcome = doctor(workspace, "--repair")
    assert outcome.exit_code == 0, outcome.output
    assert "Traceback" not in outcome.output
    assert doctor(workspace).exit_code == 0
    with store.store(workspace) as connection:
        assert store.get_run(connection, run).id == run
        # What was decided after the copy is there, too, where it could still be read.
        kept = set(current_decisions(connection, "dataset")["image"])
    assert "a" in kept
    if damage not in ("the store is gone", "the store is overwritten"):
        assert kept == {"a", "b"}


def test_a_store_that_is_damaged_inside_keeps_its_newer_decisions(sound: tuple[Workspace, str]) -> None:
    """A page of an index is overwritten: the tables can still be read."""
    workspace, _ = sound
    with closing(sqlite3.connect(workspace.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'runs_by_state'"
        ).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with workspace.database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    assert doctor(workspace, "--repair").exit_code == 0
    with store.store(workspace) as connection:
        assert set(current_decisions(connection, "dataset")["image"]) == {"a", "b"}


def test_a_store_whose_writer_was_killed_is_not_damaged(sound: tuple[Workspace, str]) -> None:
    """In a transaction in the older journal mode, in which stores are until they are opened."""
    workspace, _ = sound
    killed = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('PRAGMA journal_mode = DELETE'); c.execute('PRAGMA cache_spill = 1'); "
        "c.execute('PRAGMA cache_size = 1'); c.execute('BEGIN'); "
        "c.execute('CREATE TABLE more AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        "LIMIT 100000) SELECT i FROM n'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(workspace.database)], check=False)
    assert Path(f"{workspace.database}-journal").stat().st_size > 0
    assert database_problem(workspace.database) == ""
    assert examine(workspace) == []


def test_without_a_copy_a_damaged_store_is_explained(sound: tuple[Workspace, str]) -> None:
    workspace, _ = sound
    shutil.rmtree(workspace.backups)
    scribble(workspace.database)
    outcome = doctor(workspace, "--repair")
    assert outcome.exit_code == 1
    assert "import the decision logs" in outcome.stdout
    with pytest.raises(InputError, match="sharpeye doctor --repair"), store.store(workspace):
        pass


def test_an_empty_store_beside_runs_is_refused(sound: tuple[Workspace, str]) -> None:
    workspace, _ = sound
    workspace.database.unlink()
    with pytest.raises(InputError, match="empty, though there are runs"), store.store(workspace):
        pass


def test_a_copy_a_day_and_the_newest_ones_stay(sound: tuple[Workspace, str]) -> None:
    workspace, _ = sound
    with store.store(workspace) as connection:
        assert back_up(connection, workspace) is None
        for day in range(1, 12):
            (workspace.backups / f"workspace-2020-01-{day:02d}.db").write_bytes(b"")
        copies(workspace)[0].unlink()
        made = back_up(connection, workspace)
    assert copies(workspace)[0] == made
    assert len(copies(workspace)) == KEPT


def test_old_results_are_listed_and_dropped(sound: tuple[Workspace, str]) -> None:
    workspace, _ = sound
    old, new = (
        workspace.artifact("losses", "0123456789ab", ".safetensors"),
        workspace.artifact("features", "0b", ".f16"),
    )
    save_file({"a": np.arange(1000.0)}, old)
    shards = workspace.artifact("features", "0123456789ab", ".f16.shards")
    shards.mkdir()
    (shards / "000000").write_bytes(bytes(4000))
    for one in (old, shards):
        os.utime(one, (1, 1))
    root = str(workspace.root)
    listed = CliRunner().invoke(main, ["clean", "--workspace", root], input="n\n")
    assert listed.exit_code == 1
    assert "losses (1 files; old: 1, 0.0 MB)" in listed.output
    assert old.exists()
    dropped = CliRunner().invoke(main, ["clean", "--yes", "--workspace", root])
    assert dropped.exit_code == 0, dropped.output
    assert not old.exists()
    assert not shards.exists()
    assert new.exists()
    assert "nothing is older" in CliRunner().invoke(main, ["clean", "--workspace", root]).output
    with store.store(workspace) as connection:
        connection.execute("UPDATE runs SET state = 'queued'")
    busy = CliRunner().invoke(main, ["clean", "--older-than", "0", "--yes", "--workspace", root])
    assert (busy.exit_code, "clean when it is done" in busy.output) == (2, True)


def test_a_run_makes_again_what_was_cut_off(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    train, check = make_folder("train", 12, wrong=2, seed=1), make_folder("check", 6, seed=2)
    options = {"validation": str(check), "budget": "fast", "workspace": tmp_path / "ws"}
    first = sharpeye.run(str(train), methods=("val_loss",), **options)
    for path in first.workspace.artifacts.glob("*.safetensors"):
        cut(path)
    again = sharpeye.run(str(train), methods=("margin",), **options)
    assert "was damaged" in again.row().notes
    before, after = (run.scores.set_index("id")["wrong_probability"].sort_index() for run in (first, again))
    assert after.tolist() == pytest.approx(before.tolist())
    kill_all(first.workspace)
