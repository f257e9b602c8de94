"""A look at a dataset before anything is computed on it: what is in it, what is left out, and how long a run would take.

    python -m engine.runs.inspection WORKSPACE KEY

The look is a process of its own; what it found is a file, so it outlives the page that asked for it.
"""

import json
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.config import BUDGETS, RunConfig, digest
from engine.errors import InputError
from engine.files import replacing
from engine.runs.workspace import InspectionFolder, Workspace, is_held

# At most as often is progress written down.
REPORT_SECONDS = 0.3
START_SECONDS = 20.0
# Umap compiles itself for most of this; a map holds a bounded number of images.
MAP_SECONDS = 30
MAP_MEMORY_MB = 300
SPEED_IMAGES = 768
SAMPLE_PER_CLASS = 12

Report = dict[str, Any]


def start_inspection(workspace: Workspace, config: RunConfig) -> str:
    """Start to look at a configuration's data; the key under which the report will be found."""
    key = digest(config.data())
    folder = workspace.inspection(key)
    with replacing(folder.config) as temporary:
        temporary.write_text(config.to_json())
    _write(folder, {"state": "running", "started": time.time(), "stage": "start", "done": 0, "total": 0})
    with folder.log.open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "engine.runs.inspection", str(workspace.root), key],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return key


def read_inspection(workspace: Workspace, key: str) -> Report | None:
    """The report on a dataset, so far: `state` running, done or failed (then with a `message`); None where there is none."""
    folder = workspace.inspection(key)
    try:
        report: Report = json.loads(folder.report.read_text())
    except (OSError, ValueError):
        return None
    if report["state"] == "running" and time.time() - report["started"] > START_SECONDS and not is_held(folder.lock):
        report = json.loads(folder.report.read_text())
        if report["state"] == "running":
            report |= {"state": "failed", "message": "The look at this dataset was cut off: look again."}
    return report


def inspections(workspace: Workspace) -> list[tuple[str, RunConfig, Report]]:
    """All datasets looked at, the latest first: key, configuration and report."""
    found = []
    for path in workspace.inspections.glob("*/config.json"):
        report = read_inspection(workspace, path.parent.name)
        if report is not None:
            found.append((path.parent.name, RunConfig.from_json(path.read_text()), report))
    return sorted(found, key=lambda item: -item[2]["started"])


def main(workspace: Workspace, key: str) -> None:
    """Look at a dataset and write the report; returns at once where another process does."""
    folder = workspace.inspection(key)
    try:
        with FileLock(folder.lock, timeout=0):
            config = RunConfig.from_json(folder.config.read_text())
            try:
                _write(folder, {"state": "done", **inspect(workspace, folder, config)})
            except InputError as error:
                _write(folder, {"state": "failed", "message": str(error)})
            except Exception as error:  # whatever it was, the page says so
                traceback.print_exc()
                message = f"Unexpected {type(error).__name__}: {error}. Details are in {folder.log}."
                _write(folder, {"state": "failed", "message": message})
    except Timeout:
        return


def inspect(workspace: Workspace, folder: InspectionFolder, config: RunConfig) -> Report:
    """Decode a dataset and say what it holds.

    Raises:
        InputError: whatever is wrong with it.
    """
    import numpy as np
    import pandas as pd

    from engine.data.load import lacks_validation, load_splits, load_training, open_training, open_validation
    from engine.training.models import input_size

    written = 0.0

    def report(done: int, total: int) -> None:
        nonlocal written
        if time.monotonic() - written > REPORT_SECONDS:
            written = time.monotonic()
            _write(folder, {"state": "running", "stage": "decode", "done": done, "total": total})

    def size_of(natural: int) -> int:
        return input_size(config.model, natural)

    source = open_training(config)
    if lacks_validation(config, source):
        training, validation = load_training(config, source, workspace.decoded, size_of, report), None
    else:
        sources = source, open_validation(config, source)
        with _heard() as warnings:
            training, validation = load_splits(config, sources, workspace.decoded, size_of, report)
    parts = [training] if validation is None else [training, validation]
    skipped = pd.concat([part.skipped for part in parts], ignore_index=True)
    with replacing(folder.skipped) as temporary:
        skipped.to_csv(temporary, index=False)
    repeated = pd.DataFrame({"hash": training.hashes, "label": training.labels}).groupby("hash")["label"].agg(["size", "nunique"])
    found: Report = {
        "class_names": list(training.class_names),
        "image_size": int(training.images.shape[1]),
        "has_true_labels": training.true_labels is not None,
        "skipped": skipped["reason"].str.replace(r"\(.*\)", "", regex=True).str.strip().value_counts().to_dict(),
        "duplicates": int((repeated["size"] - 1).sum()),
        "contradictions": int((repeated["nunique"] > 1).sum()),
        "warnings": [] if validation is None else warnings,
    }
    for name, part in (("training", training), ("validation", validation)):
        if part is not None:
            found[name] = {
                "name": part.name,
                "images": len(part),
                "counts": part.class_counts().tolist(),
                "decoded": part.folder.name,
                "sample": _sample(part.labels, part.rows),
            }
    if validation is not None:
        _write(folder, {"state": "running", "stage": "measure speed", "done": 0, "total": 0})
        found["estimates"] = _estimates(config, np.asarray(training.images[np.arange(min(len(training), SPEED_IMAGES))]), found)
    return found


def _sample(labels: Any, rows: Any) -> dict[str, list[int]]:
    """Rows of some images of each class, evenly spaced."""
    import numpy as np

    chosen = {}
    for label in np.unique(labels):
        of_class = rows[labels == label]
        chosen[str(label)] = of_class[np.unique(np.linspace(0, len(of_class) - 1, SAMPLE_PER_CLASS).astype(int))].tolist()
    return chosen


def _estimates(config: RunConfig, images: Any, found: Report) -> dict[str, Report]:
    """Seconds and memory that a run of each budget would take with the small model, from a few steps of training here."""
    from engine.training.budgets import images_of_stages, plans
    from engine.training.devices import peak_memory_mb, select_device
    from engine.training.speed import training_speed

    device = select_device(config.device)
    speed = training_speed(images, len(found["class_names"]), device)
    counts = found["training"]["images"], found["validation"]["images"]
    per_image = 4 * 256 + 16 * min(len(found["class_names"]), 20)
    memory = peak_memory_mb() + MAP_MEMORY_MB + 2 * counts[0] * per_image / 2**20
    estimates = {}
    for budget in BUDGETS:
        planned = plans(budget, images_of_stages(*counts), mirrored=True, pretrained=False)
        trained = sum(plan.epochs * images_of_stages(*counts)[name] for name, plan in planned.items())
        estimates[budget] = {
            "seconds": round(trained / speed + counts[0] * 0.6 / speed + MAP_SECONDS),
            "memory_mb": round(memory),
        }
    return estimates


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What the data code warns of, to show it to the user."""
    lines: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("engine.data").addHandler(listener)
    try:
        yield lines
    finally:
        logging.getLogger("engine.data").removeHandler(listener)


def _write(folder: InspectionFolder, report: Report) -> None:
    known = {"started": time.time()}
    if folder.report.exists():
        known = {"started": json.loads(folder.report.read_text())["started"]}
    with replacing(folder.report) as temporary:
        temporary.write_text(json.dumps(known | report))


if __name__ == "__main__":
    main(Workspace(Path(sys.argv[1])), sys.argv[2])
