import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from sharpeye.commands.cli import main

NAMES = np.array(["ant", "bee", "cat"])


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """600 labels, a tenth of them wrong, and what a network knows of the images."""
    rng = np.random.default_rng(0)
    true = np.arange(600) % 3
    given = np.where(np.arange(600) < 60, (true + 1) % 3, true)
    features = np.eye(3)[true].repeat(4, 1) + rng.normal(0, 0.5, (600, 12))
    logits = -((features[:, None] - np.eye(3).repeat(4, 1)) ** 2).sum(2) / (2 * 0.5**2)
    p = np.exp(logits - logits.max(1, keepdims=True))
    pd.DataFrame({"id": [f"i{n}" for n in range(600)], "label": NAMES[given]}).to_csv(
        tmp_path / "l.csv", index=False
    )
    np.save(tmp_path / "f.npy", features)
    np.savez(tmp_path / "p.npz", p / p.sum(1, keepdims=True))
    pd.DataFrame({"embedding": list(features)}).to_parquet(tmp_path / "f.parquet")
    pd.DataFrame(features).rename(columns=str).to_parquet(tmp_path / "columns.parquet")
    return tmp_path, given != true


def run(*arguments: object) -> tuple[int, str, str]:
    outcome = CliRunner().invoke(main, ["score", *map(str, arguments)], catch_exceptions=False)
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("--features", "f.npy"),
        ("--features", "f.parquet"),
        ("--features", "columns.parquet"),
        ("--probabilities", "p.npz"),
    ],
)
def test_wrong_labels_by_numbers_alone(data: tuple[Path, np.ndarray], option: str, file: str) -> None:
    folder, wrong = data
    code, said, _ = run(folder / "l.csv", option, folder / file, "--out", folder / "out.csv", "--json")
    assert code == 0
    table = pd.read_csv(folder / "out.csv").sort_values("id", key=lambda ids: ids.str[1:].astype(int))
    assert roc_auc_score(wrong, table["wrong_probability"]) > 0.97
    assert table.loc[table["rank"] <= 40, "id"].str[1:].astype(int).lt(60).all()
    summary = json.loads(said)
    assert summary["labels"] == 600
    assert summary["interval"][0] <= 60 <= summary["interval"][1]
    assert ("fvm" in table) is (option == "--features")


def test_the_table_goes_to_the_terminal(data: tuple[Path, np.ndarray]) -> None:
    folder, _ = data
    code, shown, said = run(folder / "l.csv", "--probabilities", folder / "p.npz")
    assert code == 0
    assert shown.splitlines()[0] == "id,given_label,rank,suggested_label,confidence,wrong_probability"
    assert len(shown.splitlines()) == 601
    assert "of 600 labels are wrong" in said


def test_what_does_not_fit_is_named(data: tuple[Path, np.ndarray]) -> None:
    folder, _ = data
    np.save(folder / "short.npy", np.ones((5, 3)))
    np.save(folder / "gap.npy", np.where(np.eye(600, 3), np.nan, 1.0))
    np.save(folder / "four.npy", np.full((600, 4), 0.25))
    np.save(folder / "no.npy", np.full((600, 3), 0.5))
    np.save(folder / "flat.npy", np.ones(600))
    np.save(folder / "objects.npy", np.array([{}] * 600), allow_pickle=True)
    (folder / "text.npy").write_text("no numbers")
    (folder / "gap.csv").write_text("id,label\n1,ant\n2,\n3,bee\n")
    labels = folder / "l.csv"
    for arguments, message in (
        ([labels], "give either --features or --probabilities"),
        ([labels, "--features", folder / "short.npy"], "5 rows for 600 labels"),
        ([labels, "--features", folder / "gap.npy"], "row 1: a number is missing or infinite"),
        ([labels, "--features", folder / "flat.npy"], "expected two axes"),
        ([labels, "--features", folder / "objects.npy"], "not a readable matrix"),
        ([labels, "--features", folder / "text.npy"], "not a readable matrix"),
        ([labels, "--features", folder / "none.npy"], "not a readable matrix"),
        ([labels, "--probabilities", folder / "four.npy"], "4 columns of probabilities for 3 classes"),
        ([labels, "--probabilities", folder / "no.npy"], "row 1: is no distribution"),
        ([folder / "gap.csv", "--features", folder / "f.npy"], "row 2: label is empty"),
        ([labels, "--features", folder / "f.npy", "--out", folder / "x.txt"], "ends in .csv or .parquet"),
    ):
        code, _, said = run(*arguments)
        assert code == 2, said
        assert message in said
    four = ["--probabilities", folder / "four.npy", "--classes", "ant,bee,cat,dog"]
    assert run(labels, *four)[0] == 0
