"""Daily copies of the store, in the workspace."""

import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from sharpeye.files import replacing
from sharpeye.runs.workspace import Workspace

KEPT = 7
# After the name of a store, and before a time, where it was put aside.
DAMAGED = ".damaged-"


def back_up(connection: sqlite3.Connection, workspace: Workspace) -> Path | None:
    """Copy the store, unless there is a copy of today; the copy, or None.

    The newest KEPT copies stay.
    """
    target = workspace.backups / f"workspace-{time.strftime('%Y-%m-%d')}.db"
    if target.exists():
        return None
    with replacing(target) as temporary:
        connection.execute("VACUUM INTO ?", (str(temporary),))
    for old in copies(workspace)[KEPT:]:
        old.unlink(missing_ok=True)
    return target


def copies(workspace: Workspace) -> list[Path]:
    """The copies of the store, the newest first."""
    return sorted(workspace.backups.glob("workspace-*.db"), reverse=True)


def database_problem(path: Path) -> str:
    """What is wrong with a file of SQLite; empty where nothing is."""
    try:
        # To be written, too: what a process was killed in is taken back first.
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as connection:
            said = connection.execute("PRAGMA quick_check").fetchone()[0]
            connection.execute("SELECT count(*) FROM runs").fetchone()
            return "" if said == "ok" else str(said)
    except sqlite3.Error as error:
        return str(error)


def restore(workspace: Workspace) -> Path | None:
    """Put the newest whole copy in the place of a damaged store, and add what can still be read of the newer
    actions there; the copy, or None where there is none.

    The damaged store is kept beside it.
    """
    whole = next((copy for copy in copies(workspace) if not database_problem(copy)), None)
    if whole is None:
        return None
    database, kept = workspace.database, f"{workspace.database.name}{DAMAGED}"
    # Copied, and only then replaced: whenever this is cut short, it can be done again.
    now = time.time_ns()
    for suffix in ("-wal", ""):
        part = Path(f"{database}{suffix}")
        if part.exists():
            with replacing(database.with_name(f"{kept}{now}{suffix}")) as temporary:
                shutil.copyfile(part, temporary)
    since = whole.stat().st_mtime
    damaged = [
        path
        for path in sorted(workspace.root.glob(f"{kept}*[0-9]"), reverse=True)
        if path.stat().st_mtime >= since
    ]
    with replacing(database) as restored:
        shutil.copyfile(whole, restored)
        with closing(sqlite3.connect(restored, isolation_level=None)) as connection:
            for path in damaged:
                _salvage(connection, path)
        # They belong to the damaged store.
        for suffix in ("-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)
    return whole


def _salvage(connection: sqlite3.Connection, damaged: Path) -> None:
    """Add rows of a damaged store that are newer than those of its copy, as far as they can be read."""
    last = connection.execute("SELECT coalesce(max(seq), 0) FROM actions").fetchone()[0]
    newer = {
        **dict.fromkeys(("datasets", "runs", "people", "assignments", "gold", "added_classes"), "true"),
        "actions": f"seq > {last}",
        "decisions": f"action > {last} AND action IN (SELECT seq FROM actions)",
    }
    with suppress(sqlite3.Error):
        connection.execute("ATTACH ? AS damaged", (str(damaged),))
        for table, condition in newer.items():
            with suppress(sqlite3.Error):
                connection.execute(
                    f"INSERT OR IGNORE INTO {table} SELECT * FROM damaged.{table} WHERE {condition}"
                )
        connection.execute("DETACH damaged")
