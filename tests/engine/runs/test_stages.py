from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from sharpeye.config import DEMO_METHODS, RunConfig, RunOptions
from sharpeye.progress import Progress
from sharpeye.runs.pipeline import stages_only
from sharpeye.runs.stages import stages_of
from sharpeye.runs.workspace import open_workspace
from tests.engine.runs.watching import finished, kill_all, stages_reported, submit

FLAT = ("curvature (flat)", "score (flat)")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            RunOptions(methods=DEMO_METHODS, budget="fast"),
            (
                "decode",
                "pretrain",
                "minimum (erm)",
                "curvature (erm)",
                "score (erm)",
                "minimum (lpf-sgd)",
                *FLAT,
                "neighbours",
                "map",
            ),
        ),
        (
            RunOptions(methods=("fvm", "lissa"), figures=True),
            (
                "decode",
                "pretrain",
                "minimum (lpf-sgd)",
                "beliefs",
                "refine",
                "final minimum (lpf-sgd)",
                *FLAT,
                "score (lissa)",
                "neighbours",
                "map",
                "canaries",
                "figures",
            ),
        ),
        (
            RunOptions(methods=("val_loss",), optimizer="erm", pretrain=False),
            ("decode", "minimum (erm)", *FLAT, "neighbours", "map"),
        ),
        (
            RunOptions(methods=("tracin",), budget="fast"),
            ("decode", "pretrain", "minimum (lpf-sgd)", *FLAT, "score (tracin)", "neighbours", "map"),
        ),
    ],
)
def test_stages_in_their_order(options: RunOptions, expected: tuple[str, ...]) -> None:
    assert stages_of(RunConfig.of("demo", **options)) == expected


def test_a_run_goes_through_its_stages_in_order(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    train, check = make_folder("train", 12, wrong=2, seed=1), make_folder("check", 6, seed=2)
    files = sorted(path.relative_to(tmp_path) for path in train.rglob("*.png"))
    labels, truth = ([f.parent.name for f in files], [f.stem.split("-")[0] for f in files])
    table = pd.DataFrame({"path": files, "label": labels, "true_label": truth})
    table.to_csv(tmp_path / "m.csv", index=False)
    options = RunOptions(methods=("fvm", "tracin_self"), budget="fast", figures=True)
    config = RunConfig.of(str(tmp_path / "m.csv"), validation=str(check), **options)
    workspace = open_workspace(str(tmp_path / "ws"))
    try:
        run = submit(workspace, config)
        finished(workspace, run)
    finally:
        kill_all(workspace)
    assert stages_reported(workspace.run(run).events) == stages_of(config)


def test_a_stage_that_is_not_listed_cannot_be_reported() -> None:
    report = stages_only(("decode", "neighbours", "map"), lambda step: None)
    report(Progress("neighbours", "map", 0, 1, "step"))
    with pytest.raises(ValueError, match="stage 'embed' is not among those of this run"):
        report(Progress("embed", 0, 1, "step"))


def test_every_option_can_be_given_in_python() -> None:
    """The options of `RunConfig.of` are exactly the fields of a configuration."""
    assert set(RunConfig.of("demo").options()) - {"train"} == set(RunOptions.__annotations__)
