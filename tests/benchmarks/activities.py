"""What people and the app do to a workspace, over and over, in a process that is cut short.

    python -m tests.benchmarks.activities NAME FOLDER

After each round it prints the round's number: what it has printed must hold whatever happens next.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pandas as pd

from sharpeye.runs import store
from sharpeye.runs.backups import back_up, copies, database_problem, restore
from sharpeye.runs.decision_import import import_log
from sharpeye.runs.decisions import Decision, decide, undo
from sharpeye.runs.doctor import examine
from sharpeye.runs.export import export
from sharpeye.runs.workspace import Workspace

IMPORTED = 500
OLD_DECISIONS = 20_000
NEWER_DECISIONS = 300
FORMATS = ("label-studio", "coco", "hugging-face", "cleanlab")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Activity:
    """Something that is done again and again.

    Attributes:
        prepare: lays a folder out, which holds a copy of a finished workspace as `ws`.
        go: does it once more, in the folder.
        check: what holds in the folder after some finished rounds, and perhaps a part of another one.
    """

    prepare: Callable[[Path], None]
    go: Callable[[Path, int], None]
    check: Callable[[Path, int], None]


def workspace_of(folder: Path) -> Workspace:
    return Workspace(folder / "ws")


def row_of(connection: sqlite3.Connection) -> store.RunRow:
    return store.list_runs(connection)[0]


def no_preparation(folder: Path) -> None:
    """The finished workspace is enough."""


def decide_once(folder: Path, number: int) -> None:
    """Round n decides n mod 7 + 1 images; every fifth is taken back."""
    with store.store(workspace_of(folder)) as connection:
        row = row_of(connection)
        images = [f"{number}-{image}" for image in range(number % 7 + 1)]
        decide(connection, row.dataset, row.id, "me", [Decision(i, "accept", "ant", "bee") for i in images])
        if number % 5 == 4:
            undo(connection, row.dataset, "me")


def check_decided(folder: Path, finished: int) -> None:
    with store.store(workspace_of(folder)) as connection:
        row = row_of(connection)
        stored = connection.execute(
            "SELECT image FROM decisions JOIN actions ON seq = action WHERE dataset = ? AND kind = 'decide'",
            (row.dataset,),
        ).fetchall()
        undone = connection.execute("SELECT count(*) FROM actions WHERE kind = 'undo'").fetchone()[0]
    sizes = pd.Series([int(image.split("-")[0]) for (image,) in stored], dtype=int).value_counts()
    assert len(sizes) in (finished, finished + 1)
    for number, images in sizes.items():
        assert images == int(str(number)) % 7 + 1, f"round {number} is there in part"
    assert finished // 5 <= undone <= (finished + 1) // 5


def prepare_export(folder: Path) -> None:
    export_once(folder, -1)


def export_once(folder: Path, number: int) -> None:
    workspace = workspace_of(folder)
    with store.store(workspace) as connection:
        export(connection, workspace, row_of(connection), folder / f"export-{number}", True, FORMATS)


def check_exported(folder: Path, finished: int) -> None:
    whole = contents(folder / "export--1")
    for number in range(finished):
        assert contents(folder / f"export-{number}") == whole
    part = contents(folder / f"export-{finished}")
    assert part.items() <= whole.items()
    images = {name for name in whole if name.startswith("images/")}
    assert images & part.keys() in (set(), images)
    # The same export again makes it whole.
    shutil.rmtree(folder / f"export-{finished}" / "images", ignore_errors=True)
    export_once(folder, finished)
    assert contents(folder / f"export-{finished}") == whole


def contents(folder: Path) -> dict[str, bytes]:
    """All files but temporary ones."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in files}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if not name.endswith(".tmp") and ".tmp/" not in name
    }


def prepare_import(folder: Path) -> None:
    row = {"at": 1e9, "who": "ann", "run": "r", "kind": "decide", "target": "", "verdict": "accept"}
    row |= {"from_label": "ant", "to_label": "bee"}
    numbers = range(IMPORTED)
    log = pd.DataFrame({"seq": numbers, "image": [f"image {n}" for n in numbers], **row})
    log.to_csv(folder / "decisions.csv", index=False)


def import_once(folder: Path, number: int) -> None:
    workspace = workspace_of(folder)
    with store.store(workspace) as connection:
        import_log(connection, workspace, row_of(connection), folder / "decisions.csv")


def check_imported(folder: Path, finished: int) -> None:
    with store.store(workspace_of(folder)) as connection:
        stored = connection.execute("SELECT count(*) FROM actions WHERE who = 'ann'").fetchone()[0]
        images = connection.execute("SELECT count(*) FROM decisions").fetchone()[0]
    assert images == stored
    assert stored in (finished * IMPORTED, (finished + 1) * IMPORTED)


def prepare_migration(folder: Path) -> None:
    """A store of the first schema."""
    with closing(sqlite3.connect(folder / "old.db")) as connection:
        connection.executescript(f"{store.MIGRATIONS[0]}; PRAGMA user_version = 1;")
        numbers = range(1, OLD_DECISIONS + 1)
        connection.executemany(
            "INSERT INTO actions (seq, at, who, dataset, run, kind) "
            "VALUES (?, 1e9, 'me', 'd', 'r', 'decide')",
            ((number,) for number in numbers),
        )
        connection.executemany(
            "INSERT INTO decisions VALUES (?, ?, 'reject', 'ant', 'ant')",
            ((number, f"image {number}") for number in numbers),
        )
        connection.commit()


def migrate_once(folder: Path, number: int) -> None:
    workspace = Workspace(folder / f"old-{number}")
    workspace.root.mkdir()
    shutil.copyfile(folder / "old.db", workspace.database)
    os.sync()
    with store.store(workspace):
        pass
    shutil.rmtree(folder / f"old-{number - 2}", ignore_errors=True)


def check_migrated(folder: Path, finished: int) -> None:
    for root in folder.glob("old-*"):
        number = int(root.name.removeprefix("old-"))
        workspace = Workspace(root)
        # The copy of the old store, which a person would make again, may be cut off, and so its removal.
        if number < finished - 1 or (number == finished and not workspace.database.exists()):
            continue
        if number == finished and database_problem(workspace.database):
            assert workspace.database.stat().st_size < (folder / "old.db").stat().st_size
            continue
        with store.store(workspace) as connection:
            kept = connection.execute("SELECT count(*) FROM decisions WHERE verdict = 'keep'").fetchone()[0]
        assert kept == OLD_DECISIONS
        for copy in copies(workspace):
            assert database_problem(copy) == ""


def prepare_repair(folder: Path) -> None:
    """A copy of the store, newer decisions, and a store with a damaged page."""
    workspace = workspace_of(folder)
    with store.store(workspace) as connection:
        row = row_of(connection)
        back_up(connection, workspace)
        for number in range(NEWER_DECISIONS):
            decide(connection, row.dataset, row.id, "me", [Decision(f"new {number}", "keep", "ant", "ant")])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        index = "SELECT rootpage FROM sqlite_master WHERE name = 'runs_by_state'"
        page = connection.execute(index).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with workspace.database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def repair_once(folder: Path, number: int) -> None:
    workspace = Workspace(folder / f"damaged-{number}")
    others = shutil.ignore_patterns("stages", "decoded", "reserve")
    shutil.copytree(folder / "ws", folder / "laying out", ignore=others, dirs_exist_ok=True)
    # What is repaired has been there for long.
    os.sync()
    (folder / "laying out").rename(workspace.root)
    restore(workspace)
    shutil.rmtree(folder / f"damaged-{number - 2}", ignore_errors=True)


def check_repaired(folder: Path, finished: int) -> None:
    for number in (finished - 1, finished):
        workspace = Workspace(folder / f"damaged-{number}")
        if not workspace.root.exists():
            continue
        for damage in examine(workspace):
            if damage.path == workspace.database:
                assert damage.mend is not None
                damage.mend()
        with store.store(workspace) as connection:
            kept = connection.execute("SELECT count(*) FROM decisions WHERE image LIKE 'new %'").fetchone()[0]
        assert kept == NEWER_DECISIONS


def prepare_copies(folder: Path) -> None:
    """Enough in the store that a copy takes a while, and no copy yet."""
    for copy in copies(workspace_of(folder)):
        copy.unlink()
    with store.store(workspace_of(folder)) as connection:
        row = row_of(connection)
        images = [Decision(f"image {number}", "keep", "ant", "ant") for number in range(OLD_DECISIONS)]
        decide(connection, row.dataset, row.id, "me", images)


def copy_once(folder: Path, number: int) -> None:
    workspace = workspace_of(folder)
    with store.store(workspace) as connection:
        for copy in copies(workspace):
            copy.rename(copy.with_name(f"workspace-2020-01-{number % 28 + 1:02d}.db"))
        back_up(connection, workspace)


def check_copies(folder: Path, finished: int) -> None:
    assert finished == 0 or copies(workspace_of(folder))
    for copy in copies(workspace_of(folder)):
        assert database_problem(copy) == ""
        with closing(sqlite3.connect(copy)) as connection:
            assert connection.execute("SELECT count(*) FROM decisions").fetchone()[0] == OLD_DECISIONS


ACTIVITIES = {
    "deciding": Activity(no_preparation, decide_once, check_decided),
    "exporting": Activity(prepare_export, export_once, check_exported),
    "importing": Activity(prepare_import, import_once, check_imported),
    "migrating": Activity(prepare_migration, migrate_once, check_migrated),
    "repairing": Activity(prepare_repair, repair_once, check_repaired),
    "copying the store": Activity(prepare_copies, copy_once, check_copies),
}


def start(name: str, folder: Path) -> "subprocess.Popen[str]":
    """A process that does it over and over; returns after its first round."""
    command = [sys.executable, "-m", "tests.benchmarks.activities", name, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    return process


def finished_rounds(process: "subprocess.Popen[str]") -> int:
    """How many rounds a process that was killed had said to be finished."""
    said = process.communicate()[0].splitlines(keepends=True)
    return 1 + sum(line.endswith("\n") for line in said)


if __name__ == "__main__":
    for round_number in count():
        ACTIVITIES[sys.argv[1]].go(Path(sys.argv[2]), round_number)
        print(round_number, flush=True)
