import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sharpeye.commands.bench import PAPER, exact_rows, markdown, sources
from sharpeye.errors import InputError
from sharpeye.runs.result import parse_result
from tests.engine.commands.test_cli import sharpeye


@pytest.fixture
def data(make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder in the layout of CIFAR-10N's Parquet files, with 60 and 24 small images."""
    for seed, (name, per_class, wrong) in enumerate((("train", 20, 3), ("test", 8, 0))):
        files = sorted(make_folder(name, per_class, wrong=wrong, seed=seed).rglob("*.png"))
        classes = ["ant", "bee", "cat"]
        table = pd.DataFrame({"image": [{"bytes": file.read_bytes()} for file in files]})
        table["label"] = [classes.index(file.name.split("-")[0]) for file in files]
        table["worse_label"] = [classes.index(file.parent.name) for file in files]
        table.to_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def test_bench_runs_every_seed_and_prints_the_paper_beside_it(data: Path) -> None:
    options = [
        "cifar10n",
        "--data",
        data,
        "--seeds",
        2,
        "--budget",
        "fast",
        "--method",
        "val_loss,fvm",
        "--workspace",
        data / "ws",
    ]
    outcome = sharpeye("bench", *options)
    assert outcome.exit_code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("| labels | method | detection AUC |")
    assert [line.split(" | ")[1] for line in lines[2:5]] == ["val_loss", "fvm", "*fvm in the paper*"]
    assert "±" in lines[2]
    assert all(line.count("|") == lines[0].count("|") for line in lines[1:5])
    assert "right labels 85.00 % as given" in lines[-2]
    assert re.search(r": minutes of each stage, .*: decode \d+\.\d, pretrain \d", lines[-1])
    again = sharpeye("bench", *options, "--json")
    results = [parse_result(json.dumps(one)) for one in json.loads(again.stdout)["cifar10n worse"]]
    assert [result.n for result in results] == [60, 60]
    for result in results:
        assert {"pretrain", "minimum (lpf-sgd)", "curvature (flat)"} <= set(result.stage_seconds)
        rounding = 0.05 * len(result.stage_seconds)  # each is rounded to a tenth
        assert 0 < sum(result.stage_seconds.values()) <= result.seconds + rounding
    assert markdown({"cifar10n worse": results}).splitlines() == lines
    first, second = ({"decode": 60.0}, {"decode": 180.0, "pretrain": 90.0})
    timed = [replace(results[0], stage_seconds=first), replace(results[1], stage_seconds=second)]
    assert markdown({"cifar10n worse": timed}).endswith(
        "mean over the runs that computed it: decode 2.0, pretrain 1.5"
    )


def test_bench_says_which_files_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"CIFAR-100_human.pt"):
        sources(str(tmp_path), "CIFAR100", "noisy_label", tmp_path)
    (tmp_path / "CIFAR-100_human.pt").touch()
    assert sources(str(tmp_path), "CIFAR100", "noisy_label", tmp_path)[0] == "torchvision:CIFAR100/train"
    pd.DataFrame({"label": [1]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(InputError, match=r"test.parquet: there is no such file"):
        sources(str(tmp_path), "CIFAR100", "noisy_label", tmp_path)


def test_rows_that_are_not_exact_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    pd.DataFrame({"label": [1, 2, 3], "exact": [True, False, True]}).to_parquet(file)
    kept = exact_rows(file, tmp_path / "bench")
    assert pd.read_parquet(kept)["label"].tolist() == [1, 3]
    assert exact_rows(file, tmp_path / "bench") == kept
    pd.DataFrame({"label": [1, 2]}).to_parquet(file)
    assert exact_rows(file, tmp_path / "bench") == file


def test_every_benchmark_has_its_figures_of_the_paper() -> None:
    assert set(PAPER) == {"cifar10n aggre", "cifar10n random1", "cifar10n worse", "cifar100n noisy"}
