import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import sharpeye
from sharpeye.runs.workspace import Workspace
from tests.engine.runs.watching import kill_all

README = Path(__file__).parents[2] / "README.md"
CLASSES = 4


def examples() -> list[str]:
    """The Python examples of the README, in order."""
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, in which the default workspace lies."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / ".sharpeye"
    yield folder
    kill_all(Workspace(folder))


def clusters(count: int, wrong: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Feature vectors in one cluster a class, given labels of which a share is wrong, and the true ones."""
    rng = np.random.default_rng(seed)
    true = np.arange(count) % CLASSES
    centres = np.random.default_rng(0).normal(size=(CLASSES, 16))
    features = (centres[true] + 0.7 * rng.normal(size=(count, 16))).astype(np.float32)
    given = np.where(rng.random(count) < wrong, (true + 1) % CLASSES, true)
    return features, given, true


def test_the_examples_of_the_readme(
    make_folder: Callable[..., Path], workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder("photos", 20, wrong=3, seed=1)
    make_folder("checked", 8, seed=2)
    monkeypatch.chdir(tmp_path)
    features, labels, true = clusters(400, 0.2, 1)
    validation_features, validation_labels, _ = clusters(80, 0.0, 2)
    distances = ((features[:, None] - validation_features[:CLASSES][None]) ** 2).sum(2)
    probabilities = np.exp(-distances / 8)
    probabilities /= probabilities.sum(1, keepdims=True)
    names: dict[str, object] = {
        "features": features,
        "labels": labels,
        "validation_features": validation_features,
        "validation_labels": validation_labels,
        "probabilities": probabilities,
    }
    found = examples()
    assert len(found) == 2
    for code in found:
        exec(code, names)
    suspects, suspicious, wrong = names["suspects"], names["suspicious"], names["wrong_labels"]
    assert isinstance(suspects, pd.DataFrame)
    assert len(suspects) == 20
    assert suspects["rank"].tolist() == list(range(1, 21))
    exported = pd.read_csv(tmp_path / "cleaned" / "labels.csv").set_index("id")
    assert exported.loc[suspects["id"][0], "decision"] == "accept"
    assert isinstance(suspicious, pd.DataFrame)
    assert (labels != true)[suspicious.index[:40]].mean() > 0.9
    assert (np.asarray(wrong) == (labels != true)).mean() > 0.9


def test_a_run_from_start_to_delete(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    train, check = make_folder("train", 20, wrong=3, seed=1), make_folder("check", 8, seed=2)
    folder = tmp_path / "ws"
    try:
        run = sharpeye.start(
            str(train), validation=str(check), budget="fast", methods=("val_loss",), workspace=folder
        )
        assert run.state in ("queued", "running")
        with pytest.raises(sharpeye.InputError, match="has no scores yet"):
            _ = run.result
        run.wait(progress=False)
        assert sharpeye.list_runs(folder) == [run]
        assert sharpeye.open_run(run.id[:6], folder) == run
        assert run.result.n == len(run.scores) == 60
        assert run.scores["rank"].is_monotonic_increasing
        first, second = run.suspects(2)["id"]
        run.decide(first, "accept")
        run.decide(second, "relabel", "ant")
        assert set(run.decisions["verdict"]) == {"accept", "relabel"}
        assert run.undo()
        assert run.decisions["verdict"].tolist() == ["accept"]
        for arguments, message in (
            (("nowhere.png", "accept"), "no image 'nowhere.png'"),
            ((first, "reject"), "choose from accept, keep, relabel, skip"),
            ((first, "relabel"), "needs label"),
            ((first, "keep", "ant"), "takes no label"),
            ((first, "relabel", "dog"), "'dog' is not among the classes"),
        ):
            with pytest.raises(sharpeye.InputError, match=message):
                run.decide(*arguments)
        labels = run.export(tmp_path / "out")
        assert (labels["given_label"] != labels["final_label"]).sum() == 1
        assert run.import_decisions(tmp_path / "out" / "decisions.csv") == 3
        run.delete()
        assert sharpeye.list_runs(folder) == []
    finally:
        kill_all(Workspace(folder))


def test_a_canceled_run_says_so_and_is_resumed(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    train, check = make_folder("train", 20, wrong=3, seed=1), make_folder("check", 8, seed=2)
    try:
        run = sharpeye.start(
            str(train),
            validation=str(check),
            budget="thorough",
            methods=("val_loss",),
            workspace=tmp_path / "ws",
        )
        run.cancel()
        with pytest.raises(sharpeye.RunFailed, match="canceled"):
            run.wait(progress=False)
        assert run.resume().state in ("queued", "running")
        run.cancel()
    finally:
        kill_all(Workspace(tmp_path / "ws"))


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sharpeye.InputError, match="nowhere: no such file or folder"):
        sharpeye.run("nowhere", workspace=tmp_path)
    with pytest.raises(sharpeye.InputError, match="unknown fields: colour"):
        sharpeye.run("demo", colour=1, workspace=tmp_path)  # type: ignore[call-arg]
    with pytest.raises(sharpeye.InputError, match="no run 'abc'"):
        sharpeye.open_run("abc", tmp_path)


def test_features_of_any_backbone_are_scored() -> None:
    features, labels, true = clusters(600, 0.2, 1)
    trusted, trusted_labels, _ = clusters(100, 0.0, 2)
    names = np.array(["ant", "bee", "cat", "dog"])
    table = sharpeye.score(features, names[labels], trusted, names[trusted_labels])
    wrong = labels != true
    for method in ("fvm", "val_loss", "wrong_probability"):
        assert roc_auc_score(wrong, table[method]) > 0.97, method
    assert (table["suggested_label"].to_numpy() == names[true]).mean() > 0.95
    order = np.random.default_rng(0).permutation(len(features))
    moved = sharpeye.score(features[order], names[labels][order], trusted, names[trusted_labels])
    np.testing.assert_allclose(moved["fvm"], table["fvm"].to_numpy()[order], rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1]}, r"labels has 2 entries for 40 rows"),
        ({"labels": [9] * 40}, r"labels, row 0: no validation image has the label 9"),
        ({"validation_features": np.zeros((8, 3))}, r"features have 16 columns, validation_features 3"),
        ({"features": np.full((40, 16), np.nan)}, r"features, row 0: a number is missing"),
        ({"validation_labels": [0] * 8}, r"no validation image has the label \d"),
    ],
)
def test_features_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    features, labels, _ = clusters(40, 0.1, 1)
    trusted, trusted_labels, _ = clusters(8, 0.0, 2)
    arguments = {
        "features": features,
        "labels": labels,
        "validation_features": trusted,
        "validation_labels": trusted_labels,
    }
    with pytest.raises(sharpeye.InputError, match=message):
        sharpeye.score(**(arguments | change))  # type: ignore[arg-type]


def test_the_noise_posterior_of_plain_arrays() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(CLASSES, 0.1), 2000)
    true = np.array([rng.choice(CLASSES, p=row) for row in p])
    given = np.where(rng.random(2000) < 0.2, (true + 1) % CLASSES, true)
    beliefs = sharpeye.noise_posterior(p, given)
    wrong = given != true
    assert beliefs.interval[0] <= wrong.sum() <= beliefs.interval[1]
    assert roc_auc_score(wrong, beliefs.wrong) > 0.9
    assert (beliefs.suggestion == true).mean() > (given == true).mean()
    assert ((beliefs.confidence > 0) & (beliefs.confidence <= 1)).all()
    assert sharpeye.noise_posterior(p, given, p.mean(0)).expected_wrong == pytest.approx(
        beliefs.expected_wrong
    )
    with pytest.raises(sharpeye.InputError, match="prior must be 4 shares"):
        sharpeye.noise_posterior(p, given, [0.5, 0.5])
    for labels, probabilities, message in (
        (given[:5], p, "5 entries for 2,000 rows"),
        (given, 2 * p, "row 0 is no distribution"),
        (given + CLASSES, p, "row 0 has a label outside the 4 classes"),
        (given.astype(float), p, "class numbers"),
    ):
        with pytest.raises(sharpeye.InputError, match=message):
            sharpeye.noise_posterior(probabilities, labels)


def test_importing_takes_no_heavy_package() -> None:
    heavy = ("torch", "pandas", "numpy", "sklearn", "scipy", "pyarrow", "streamlit", "plotly")
    code = f"import sys, sharpeye; print(sys.modules.keys() & {set(heavy)})"
    outcome = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "set()"


def test_the_engine_needs_none_of_the_app_s_packages() -> None:
    """`streamlit` and `plotly` are there for the app alone."""
    code = (
        "import sys, pkgutil, importlib, sharpeye\n"
        "for name in ('streamlit', 'plotly', 'starlette'): sys.modules[name] = None\n"
        "for module in pkgutil.walk_packages(sharpeye.__path__, 'sharpeye.'):\n"
        "    if not module.name.endswith('.make'): importlib.import_module(module.name)\n"
    )
    outcome = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
