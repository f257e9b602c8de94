import os
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from filelock import FileLock

from sharpeye.config import RunConfig
from sharpeye.errors import InputError
from sharpeye.files import ABANDONED_SECONDS
from sharpeye.runs import store
from sharpeye.runs.supervisor import free_device, process_of, supervise
from sharpeye.runs.workspace import Workspace, open_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(str(tmp_path / "ws"))


def queue(connection: sqlite3.Connection, *runs: str) -> None:
    store.register_dataset(connection, "d", "demo", {})
    for run in runs:
        store.submit(connection, run, RunConfig.of("demo", methods=("fvm",)), "d")


def test_runs_wait_in_order_and_are_claimed_once(workspace: Workspace) -> None:
    with store.store(workspace) as connection, store.store(workspace) as other:
        queue(connection, "b", "a")
        assert [row.id for row in store.runs_in(connection, "queued")] == ["b", "a"]
        assert store.claim(connection, "b", "cpu")
        assert not store.claim(other, "b", "cpu")
        queue(connection, "b")
        assert store.get_run(connection, "b").state == "running"


def test_cancel_and_resume(workspace: Workspace) -> None:
    with store.store(workspace) as connection:
        queue(connection, "a", "b")
        assert store.request_cancel(connection, "a").state == "canceled"
        assert store.resume(connection, "a").state == "queued"
        assert [row.id for row in store.runs_in(connection, "queued")] == ["b", "a"]
        store.claim(connection, "b", "cpu")
        assert store.request_cancel(connection, "b").state == "running"
        store.orphan(connection, "b", 5)
        assert store.get_run(connection, "b").state == "canceled"


def test_a_run_whose_process_keeps_dying_fails(workspace: Workspace) -> None:
    with store.store(workspace) as connection:
        queue(connection, "a")
        for death in range(3):
            store.claim(connection, "a", "cpu")
            store.orphan(connection, "a", deaths_allowed=3)
            assert store.get_run(connection, "a").state == ("failed" if death == 2 else "queued")
        assert "died 3 times" in (store.get_run(connection, "a").message or "")
        assert store.resume(connection, "a").deaths == 0


def test_ids_by_their_beginning(workspace: Workspace) -> None:
    with store.store(workspace) as connection:
        queue(connection, "abc", "abd", "x_z")
        assert store.get_run(connection, "x").id == "x_z"
        with pytest.raises(InputError, match="several runs"):
            store.get_run(connection, "ab")
        for unknown in ("q", "_", "%", ""):
            with pytest.raises(InputError, match="no run"):
                store.get_run(connection, unknown)


def test_only_finished_runs_are_deleted(workspace: Workspace) -> None:
    with store.store(workspace) as connection:
        queue(connection, "a")
        with pytest.raises(InputError, match="cancel it first"):
            store.delete_run(connection, "a")
        store.request_cancel(connection, "a")
        store.delete_run(connection, "a")
        assert store.list_runs(connection) == []


def test_a_failed_transaction_leaves_nothing(workspace: Workspace) -> None:
    with store.store(workspace) as connection:
        queue(connection, "a")

        def half_done() -> None:
            with store.transaction(connection):
                connection.execute("UPDATE runs SET state = 'failed'")
                connection.execute("UPDATE runs SET state = 'nonsense'")

        with pytest.raises(sqlite3.IntegrityError):
            half_done()
        assert store.get_run(connection, "a").state == "queued"


def test_old_stores_migrate_and_newer_ones_are_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.store(workspace) as connection:
        queue(connection, "a")
    monkeypatch.setattr(
        store, "MIGRATIONS", (*store.MIGRATIONS, "ALTER TABLE datasets ADD COLUMN colour TEXT;")
    )
    with store.store(workspace) as connection:
        assert connection.execute("SELECT colour FROM datasets").fetchall() == [(None,)]
        assert store.get_run(connection, "a").state == "queued"
    monkeypatch.undo()
    with pytest.raises(InputError, match="newer version"):
        store.connect(workspace)


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = SimpleNamespace(device="server:/x", mountpoint=str(tmp_path), fstype="nfs4", opts="rw")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [mount])
    with pytest.raises(InputError, match=r"network file system \(nfs4\)"):
        open_workspace(str(tmp_path / "ws"))


def test_a_process_is_known_by_its_start_time_or_its_lock(workspace: Workspace) -> None:
    me = psutil.Process()
    with store.store(workspace) as connection:
        queue(connection, "a")
        store.set_process(connection, "a", me.pid, me.create_time())
        assert process_of(store.get_run(connection, "a"), workspace) == me
        store.set_process(connection, "a", me.pid, me.create_time() - 100)
        assert process_of(store.get_run(connection, "a"), workspace) is None
        with FileLock(workspace.run("a").lock):  # the clock was set, the process is the same
            assert process_of(store.get_run(connection, "a"), workspace) == me


def test_what_killed_processes_left_is_swept_after_a_day(workspace: Workspace) -> None:
    old, new, other = (
        workspace.decoded / f".{name}.tmp" for name in ("a-0123456789ab", "b-0123456789ab", "c")
    )
    elsewhere = workspace.root / "photos" / old.name
    for folder, age in ((old, 2 * ABANDONED_SECONDS), (new, 60.0), (other, 1e9), (elsewhere, 1e9)):
        folder.mkdir(parents=True)
        (folder / "images.u8").write_bytes(b"pixels")
        os.utime(folder, (time.time() - age,) * 2)
    supervise(workspace, lambda busy: False)
    assert {path for path in (old, new, other, elsewhere) if path.exists()} == {new, other, elsewhere}


def test_one_run_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpeye.runs.supervisor.gpu_count", lambda: 0)
    assert free_device("auto", set()) == "auto"
    assert free_device("cpu", {"auto"}) is None
    monkeypatch.setattr("sharpeye.runs.supervisor.gpu_count", lambda: 2)
    assert free_device("auto", {"cuda:0"}) == "cuda:1"
    assert free_device("auto", {"cuda:0", "cuda:1"}) is None
    assert free_device("cuda", {"cuda:0"}) is None
    assert free_device("cpu", {"cuda:0"}) == "cpu"


@pytest.mark.parametrize("name", ["/etc", "../other", "a/b", "", ".", "..", "a\x00", "x" * 81])
def test_what_could_be_a_path_is_no_id(tmp_path: Path, name: str) -> None:
    workspace = open_workspace(str(tmp_path))
    for place in (workspace.run, workspace.inspection, workspace.lesson, workspace.run("a").selection):
        with pytest.raises(InputError, match="is no id"):
            place(name)


def test_rounds_follow_one_another_and_runs_have_names(workspace: Workspace) -> None:
    with store.store(workspace) as connection:
        queue(connection, "first", "second", "third")
        store.link_run(connection, "second", "first")
        store.link_run(connection, "third", "second")
        # A run that was the same as an earlier one, or a circle, ends the chain.
        store.link_run(connection, "first", "third")
        assert [row.id for row in store.rounds_of(connection, "third")] == ["first", "second", "third"]
        store.describe_run(connection, "third", "  after lunch ", "")
        row = store.get_run(connection, "third")
        assert (row.name, row.remark) == ("after lunch", None)
        assert row.title == "after lunch · third"


def test_a_workspace_has_one_secret_whoever_asks_first(workspace: Workspace) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: workspace.secret(), range(64)))
    assert len(found) == 1
    assert stat.S_IMODE((workspace.root / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(workspace.root.stat().st_mode) == 0o700
    assert not list(workspace.root.glob(".secret*"))
