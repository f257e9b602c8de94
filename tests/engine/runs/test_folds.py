from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import ImageFilter

import sharpeye
from sharpeye.config import HEAD_METHODS, PHOTOGRAPHS, RunConfig
from sharpeye.data.dataset import natural_size
from sharpeye.data.findings import CONFLICT
from sharpeye.data.load import fitted, open_training
from sharpeye.errors import InputError
from sharpeye.influence.methods import select_methods
from sharpeye.runs.export import cleaned_labels
from sharpeye.runs.folds import FOLDS, assign_folds
from sharpeye.runs.second_round import decided_labels, second_round, takes_decisions
from sharpeye.runs.stages import stages_of
from sharpeye.runs.store import store
from sharpeye.specs import NoValidation
from tests.engine.data.scenes import enlarge, scene


@pytest.fixture
def photographs(make_folder: Callable[..., Path]) -> Path:
    """45 images larger than icons, a fifth of them in the next class's folder."""
    folder = make_folder("photographs", 15, wrong=3)
    enlarge(folder)
    return folder


def fit(train: Path, **options: object) -> RunConfig:
    config = replace(RunConfig.of(str(train)), **options)  # type: ignore[arg-type]
    training = open_training(config.data)
    chosen = fitted(config, training, natural_size(training))
    select_methods(chosen)
    return chosen


def test_what_is_left_open_is_decided_by_the_images(
    photographs: Path, make_folder: Callable[..., Path]
) -> None:
    config = fit(photographs)
    assert (config.model, config.weights, config.tune) == (PHOTOGRAPHS, "pretrained", "head")
    assert config.methods == HEAD_METHODS
    assert config.data.validation == NoValidation()
    assert stages_of(config)[:3] == ("decode", "embed", "heads")
    tuned = fit(photographs, tune="all")
    assert (tuned.model, tuned.tune, tuned.data.validation) == (PHOTOGRAPHS, "all", None)
    icons = make_folder("icons", 2)
    assert fit(icons).model == PHOTOGRAPHS
    checked = RunConfig.of(str(icons), validation="share:0.5")
    source = open_training(checked.data)
    assert fitted(checked, source, natural_size(source)).model == "small"
    for options, message in (
        ({"model": "small", "tune": "head"}, "--tune head needs a pre-trained backbone"),
        ({"parameters": "all"}, "--parameters all needs --tune all"),
        ({"methods": ("lissa",)}, "lissa follows a whole network"),
        ({"model": "lenet"}, "--model lenet: unknown"),
    ):
        with pytest.raises(InputError, match=message):
            fit(photographs, **options)
    with pytest.raises(InputError, match="--validation none needs --tune head"):
        fitted(RunConfig.of(str(icons), validation="none", tune="all"), source, natural_size(source))


def test_copies_share_a_fold_and_folds_are_balanced() -> None:
    labels, hashes = np.repeat([0, 1, 2], 50), np.arange(150).astype(str)
    hashes[100:110] = hashes[:10]
    fold = assign_folds(labels, hashes, seed=3)
    assert (fold[100:110] == fold[:10]).all()
    for label in (0, 1):
        assert np.bincount(fold[labels == label], minlength=FOLDS).tolist() == [10] * FOLDS
    assert (assign_folds(labels, hashes, seed=3) == fold).all()


@pytest.mark.parametrize("clean", [False, True])
def test_wrong_labels_come_first_with_and_without_a_clean_split(
    photographs: Path, make_folder: Callable[..., Path], tmp_path: Path, clean: bool
) -> None:
    validation = str(make_folder("checked", 6, seed=9)) if clean else "none"
    options = {"validation": validation, "image_size": 64, "workspace": tmp_path / "ws"}
    run = sharpeye.run(str(photographs), figures=clean, **options)  # type: ignore[arg-type]
    scores = run.scores
    shown = scores["id"].str.extract(r"/(\w+)-")[0]
    wrong = shown != scores["given_label"].astype(str)
    assert wrong.sum() == 9
    assert wrong[scores["rank"] <= 10].sum() >= 8
    # More labels are right with every suggestion taken than as they were given.
    assert (scores["suggested_label"].astype(str) == shown).mean() > (~wrong).mean() + 0.05
    assert run.result.ranked_by == HEAD_METHODS[0]
    near = pd.read_parquet(run.workspace.run(run.id).embedding)["near_given"]
    # Without a clean split the evidence is what is surest of the training set itself.
    assert all(len(rows) == 4 for rows in near)
    assert run.result.images.trusted is clean
    if clean:
        assert run.workspace.run(run.id).canaries.exists()
        assert not run.workspace.run(run.id).diagnostics.exists()
    features = set((run.workspace.root / "stages").glob("features-*"))
    other = sharpeye.run(str(photographs), damping=10.0, **options)  # type: ignore[arg-type]
    assert "embed" not in other.result.stage_seconds
    assert set((run.workspace.root / "stages").glob("features-*")) == features


def test_a_second_round_trusts_what_was_decided_and_judges_the_others(
    photographs: Path, tmp_path: Path
) -> None:
    run = sharpeye.run(str(photographs), workspace=tmp_path / "ws")
    suspects = run.suspects(4)["id"].tolist()
    for image in suspects[:2]:
        run.decide(image, "accept")
    run.decide(suspects[2], "keep")
    run.decide(suspects[3], "skip")
    row = run.row()
    assert takes_decisions(row.run_config())
    with store(run.workspace) as connection:
        decided = decided_labels(connection, row)
        config = second_round(connection, run.workspace, row)
    assert sorted(decided["id"]) == sorted(suspects[:3])
    again = sharpeye.run(**config.options(), workspace=tmp_path / "ws")
    # Few classes have a trusted image, and yet every other image is judged.
    assert set(again.scores["id"]) == set(run.scores["id"]) - set(suspects[:3])
    assert "embed" not in again.result.stage_seconds
    with store(run.workspace) as connection:
        labels = cleaned_labels(connection, run.workspace, again.row()).set_index("id")["final_label"]
        # A third round trusts what the second one did.
        assert decided_labels(connection, again.row()).equals(decided)
    assert labels[decided["id"]].tolist() == decided["label"].tolist()


def test_a_picture_under_two_labels_is_found_though_it_is_cut_and_encoded_again(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    pictures = [scene(seed, 160).filter(ImageFilter.GaussianBlur(1.5)) for seed in range(12)]
    for number, picture in enumerate(pictures):
        path = folder / ("ant" if number % 2 else "bee") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    pictures[0].crop((3, 3, 157, 157)).save(folder / "ant" / "again.jpg", quality=95)
    scores = sharpeye.run(str(folder), workspace=tmp_path / "ws").scores
    conflict = scores["findings"].astype(str).str.contains(CONFLICT)
    assert sorted(scores["id"][conflict]) == ["ant/again.jpg", "bee/0.png"]
    assert scores["duplicate_group"][conflict].nunique() == 1
    assert sorted(scores["width"][conflict]) == [154, 160]
