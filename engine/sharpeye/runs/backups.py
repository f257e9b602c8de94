"""Daily copies of the store, in the workspace."""

import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from sharpeye.runs.workspace import Workspace

KEPT = 7


def back_up(connection: sqlite3.Connection, workspace: Workspace) -> Path | None:
    """Copy the store, unless there is a copy of today; the copy, or None.

    The newest KEPT copies stay.
    """
    target = workspace.backups / f"workspace-{time.strftime('%Y-%m-%d')}.db"
    if target.exists():
        return None
    workspace.backups.mkdir(exist_ok=True)
    # Others may copy at the same moment.
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(temporary),))
    temporary.replace(target)
    for old in copies(workspace)[KEPT:]:
        old.unlink(missing_ok=True)
    return target


def copies(workspace: Workspace) -> list[Path]:
    """The copies of the store, the newest first."""
    return sorted(workspace.backups.glob("workspace-*.db"), reverse=True)


def database_problem(path: Path) -> str:
    """What is wrong with a file of SQLite; empty where nothing is."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
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
    damaged = workspace.database.with_name(f"workspace.db.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = Path(f"{workspace.database}{suffix}")
        if part.exists():
            part.replace(f"{damaged}{suffix}")
    shutil.copyfile(whole, workspace.database)
    with closing(sqlite3.connect(workspace.database, isolation_level=None)) as connection:
        _salvage(connection, damaged)
    return whole


def _salvage(connection: sqlite3.Connection, damaged: Path) -> None:
    """Add rows of a damaged store that are newer than those of its copy, as far as they can be read."""
    with suppress(sqlite3.Error):
        connection.execute("ATTACH ? AS damaged", (f"file:{damaged}?mode=ro",))
    last = connection.execute("SELECT coalesce(max(seq), 0) FROM actions").fetchone()[0]
    for table, condition in (("datasets", ""), ("runs", ""), ("actions", f"WHERE seq > {last}")):
        with suppress(sqlite3.Error):
            connection.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM damaged.{table} {condition}")
    with suppress(sqlite3.Error):
        connection.execute(
            f"INSERT OR IGNORE INTO decisions SELECT * FROM damaged.decisions WHERE action > {last} "
            "AND action IN (SELECT seq FROM actions)"
        )
