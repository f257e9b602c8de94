"""A run's result with made-up values, for tests that need one."""

from dataclasses import replace
from typing import Any

import msgspec

from sharpeye.config import VERSION
from sharpeye.quality import LabelAccuracy
from sharpeye.runs.result import DecodedImages, RunResult
from sharpeye.runs.workspace import RunFolder

RESULT = RunResult(
    run="run1",
    version=VERSION,
    n=1,
    classes=2,
    seconds=1.0,
    stage_seconds={},
    images_per_second=1.0,
    device="cpu",
    peak_memory_mb=1.0,
    expected_wrong=0.0,
    expected_wrong_interval=(0.0, 0.0),
    label_accuracy=LabelAccuracy(),
    ranked_by="fvm",
    skipped=0,
    methods={},
    scores="",
    classes_in_order=("ant", "bee"),
    images=DecodedImages("", ""),
)


def write_result(folder: RunFolder, **changes: Any) -> RunResult:
    """Write RESULT with some fields changed to a run's folder."""
    result = replace(RESULT, run=folder.root.name, **changes)
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.result.write_bytes(msgspec.json.encode(result))
    return result
