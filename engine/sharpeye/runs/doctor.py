"""What is damaged in a workspace, and how that is mended: what was computed is computed again, what people
said is restored. Never torch."""

import json
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharpeye.errors import InputError
from sharpeye.runs.backups import copies, database_problem, restore
from sharpeye.runs.result import OutdatedResult, read_result
from sharpeye.runs.store import find_run, list_runs, store
from sharpeye.runs.workspace import Workspace

# Of a safetensors file.
HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Damage:
    """Something that is wrong in a workspace.

    Attributes:
        path: what is damaged.
        reason: how.
        remedy: what mends it, for people.
        mend: does so; None where people have to.
    """

    path: Path
    reason: str
    remedy: str
    mend: Callable[[], object] | None


def examine(workspace: Workspace) -> list[Damage]:
    """Everything that is damaged in a workspace."""
    found = [*_store_damage(workspace), *artifact_damage(workspace)]
    if not any(damage.path == workspace.database for damage in found):
        found += _run_damage(workspace)
    return found


def artifact_damage(workspace: Workspace, whole: bool = True) -> Iterator[Damage]:
    """Damaged results that runs share, and decoded data sets: without them, they are computed again.

    Args:
        workspace: to look at.
        whole: read tables through; else only their ends, which shows that they were cut off.
    """
    for path in sorted(workspace.artifacts.glob("*")):
        if problem := file_problem(path, whole):
            yield Damage(path, problem, "is removed, and computed again", path.unlink)
    for folder in sorted(path for path in workspace.decoded.glob("*") if path.is_dir()):
        if not folder.name.startswith(".") and (problem := decoded_problem(folder, whole)):
            yield Damage(folder, problem, "is removed, and decoded again", partial(shutil.rmtree, folder))


def _store_damage(workspace: Workspace) -> Iterator[Damage]:
    path = workspace.database
    runs = [folder for folder in workspace.runs.glob("*") if folder.is_dir()]
    if not path.exists():
        if runs:
            yield _restored(workspace, f"is missing, though there are {len(runs)} runs")
        return
    if problem := database_problem(path):
        yield _restored(workspace, problem)
    for copy in copies(workspace):
        if problem := database_problem(copy):
            yield Damage(copy, problem, "is removed", copy.unlink)


def _restored(workspace: Workspace, reason: str) -> Damage:
    whole = next((copy for copy in copies(workspace) if not database_problem(copy)), None)
    if whole is None:
        remedy = (
            "no copy is whole: move it away, and import the decision logs of your exports (sharpeye import)"
        )
        return Damage(workspace.database, reason, remedy, None)

    def mend() -> None:
        restore(workspace)

    remedy = f"{whole.name} takes its place, with what can still be read of newer decisions"
    return Damage(workspace.database, reason, remedy, mend)


def _run_damage(workspace: Workspace) -> Iterator[Damage]:
    with store(workspace) as connection:
        known = {row.id: row for row in list_runs(connection)}
    for run, row in known.items():
        folder = workspace.run(run)
        problem = ""
        if row.state == "done":
            problem = run_problem(workspace, run)
        if problem:

            def mend(run: str = run) -> None:
                with store(workspace) as connection:
                    forget_result(connection, workspace, run)

            yield Damage(folder.root, problem, "can be resumed: what is damaged is computed again", mend)
    for path in sorted(workspace.runs.glob("*")):
        if path.is_dir() and path.name not in known and not path.name.startswith("."):
            remedy = "is removed: the store does not know it; it was deleted in part"
            yield Damage(path, "left behind", remedy, partial(shutil.rmtree, path))


def forget_result(connection: sqlite3.Connection, workspace: Workspace, run: str) -> None:
    """Have a run computed again when it is resumed; what it shares with others stays."""
    row = find_run(connection, run)
    if row is None:
        return
    folder = workspace.run(row.id)
    for path in (folder.result, folder.scores, folder.embedding, folder.transition):
        path.unlink(missing_ok=True)
    connection.execute(
        "UPDATE runs SET state = 'failed', result = NULL, message = ? WHERE id = ?",
        ("Its results were damaged; resume it.", row.id),
    )


def run_problem(workspace: Workspace, run: str) -> str:
    """What is wrong with the results of a finished run; empty where nothing is."""
    folder = workspace.run(run)
    try:
        result = read_result(folder)
    except OutdatedResult:
        return ""
    except InputError as error:
        return str(error)
    for path in (folder.scores, folder.embedding):
        if not path.exists():
            return f"{path.name} is missing"
        if problem := file_problem(path):
            return f"{path.name}: {problem}"
    rows = pq.ParquetFile(folder.scores).metadata.num_rows
    if rows != result.n:
        return f"{folder.scores.name} has {rows:,} rows, and not {result.n:,}"
    return ""


def file_problem(path: Path, whole: bool = True) -> str:
    """What is wrong with a file by its format; empty where nothing is, or nothing can be told."""
    if path.suffix == ".safetensors":
        return safetensors_problem(path)
    if path.suffix == ".parquet":
        return parquet_problem(path, whole)
    if path.suffix == ".npy":
        return npy_problem(path)
    if path.suffix == ".f16" and (path.stat().st_size == 0 or path.stat().st_size % 2):
        return "it is cut off"
    return ""


def npy_problem(path: Path) -> str:
    """Whether an array is as long as its header says."""
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
        return ""
    except (OSError, ValueError, EOFError) as error:
        return str(error).splitlines()[0]


def safetensors_problem(path: Path) -> str:
    """Whether the header of a safetensors file can be read, and the file is as long as it says."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > HEADER_BYTES:
                return "its header makes no sense"
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((one["data_offsets"][1] for one in header.values()), default=0)
        size = path.stat().st_size
        return "" if size == 8 + length + end else f"it has {size:,} bytes, and not {8 + length + end:,}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        return f"its header cannot be read ({error})"


def parquet_problem(path: Path, whole: bool = True) -> str:
    """Whether a Parquet file has its end, and whether every column of it can be read."""
    try:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches() if whole else ():
            batch.validate(full=True)
        return ""
    except (pa.ArrowException, OSError, ValueError) as error:
        return str(error).splitlines()[0]


def decoded_problem(folder: Path, whole: bool = True) -> str:
    """What is wrong with a decoded data set; empty where nothing is."""
    try:
        info = json.loads((folder / "dataset.json").read_text())
        path = folder / "table.parquet"
        if problem := parquet_problem(path, whole):
            return f"{path.name} cannot be read ({problem})"
        table = pq.read_table(path, columns=["preview_end"])
        needed = table.num_rows * (info["image_size"] or 0) ** 2 * 3
        size = (folder / "images.u8").stat().st_size
        if size != needed:
            return f"images.u8 has {size:,} bytes, and not {needed:,}"
        end = max(table.column("preview_end").to_pylist(), default=0)
        previews = (folder / "previews.bin").stat().st_size
        if previews != end:
            return f"previews.bin has {previews:,} bytes, and not {end:,}"
        (folder / "skipped.csv").read_bytes()
        return ""
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        return f"it cannot be read ({str(error).splitlines()[0]})"
