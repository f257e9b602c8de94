import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sharpeye.config import SourceOptions
from sharpeye.data.dataset import LabeledImages, ingest
from sharpeye.data.noise import flip_labels
from sharpeye.data.sources import open_source
from sharpeye.data.splits import by_column, by_share, reconcile, stratified_share
from sharpeye.errors import InputError
from sharpeye.specs import parse_source, parse_validation
from tests.engine.data.scenes import scene


def load(root: Path) -> LabeledImages:
    return ingest(open_source(parse_source(str(root)), SourceOptions()), root.parent / "cache", 16)


def test_leakage_is_dropped_and_named(
    make_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    train, check = make_folder("train", 4, seed=1), make_folder("check", 2, seed=2)
    (train / "bee" / "copy.png").write_bytes((check / "bee" / "bee-1.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        training, validation = reconcile(load(train), load(check))
    assert "bee/copy.png" in caplog.text
    assert "bee/copy.png" not in training.ids
    assert training.skipped.to_dict("records") == [
        {"id": "bee/copy.png", "reason": "also in the validation split"}
    ]
    assert len(validation) == 6


def test_a_picture_that_is_trusted_under_another_label_stays_and_is_told(
    make_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    train, check = make_folder("train", 4, seed=1), make_folder("check", 2, seed=2)
    (train / "ant" / "copy.png").write_bytes((check / "bee" / "bee-1.png").read_bytes())
    training, _ = reconcile(load(train), load(check))
    assert "ant/copy.png is given as 'ant' and trusted as 'bee'" in caplog.text
    known = dict(zip(training.ids, training.trusted, strict=True))
    assert known.pop("ant/copy.png") == 1
    assert set(known.values()) == {-1}
    # Where the trusted labels of a picture contradict one another, none of them proves the given one wrong.
    (check / "ant" / "again.png").write_bytes((check / "bee" / "bee-1.png").read_bytes())
    training, _ = reconcile(load(train), load(check))
    assert "ant/copy.png" in training.skipped["id"].tolist()


def test_nearly_the_same_picture_under_another_trusted_label(tmp_path: Path) -> None:
    for at, label in enumerate(("ant", "bee")):
        for seed in range(8):
            for part in ("train", "check"):
                path = tmp_path / part / label / f"{seed}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                scene(100 * at + 50 * (part == "check") + seed).save(path)
    # Encoded again and smaller: under its own label, and under another one.
    again = scene(50).resize((120, 120))
    again.save(tmp_path / "train" / "ant" / "same.jpg", quality=60)
    again.save(tmp_path / "train" / "bee" / "other.jpg", quality=50)
    for plain in ("train/ant/plain.png", "check/bee/plain.png"):
        Image.new("RGB", (200, 200), (90, 90, 90 + ord(plain[0]) % 2)).save(tmp_path / plain)
    training, _ = reconcile(load(tmp_path / "train"), load(tmp_path / "check"))
    known = dict(zip(training.ids, training.trusted, strict=True))
    assert known.pop("bee/other.jpg") == 0
    assert set(known.values()) == {-1}


def test_class_without_validation_images(
    make_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    training, check = make_folder("train", 3, seed=1), make_folder("check", 2, classes=("ant", "bee"), seed=2)
    scored, validation = reconcile(load(training), load(check))
    assert "class 'cat' has no validation image" in caplog.text
    assert set(scored.labels) == {0, 1}
    assert len(scored.skipped) == 3
    assert validation.class_names == ("ant", "bee", "cat")
    everything, _ = reconcile(load(training), load(check), every_class=False)
    assert set(everything.labels) == {0, 1, 2}
    assert len(everything.skipped) == 0


def test_unknown_validation_class(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="label 'dog' is not among the training classes"):
        reconcile(
            load(make_folder("train", 2, seed=1)),
            load(make_folder("check", 2, classes=("ant", "bee", "dog"), seed=2)),
        )


def test_numbers_are_positions_only_where_the_source_says_so(make_folder: Callable[..., Path]) -> None:
    check = load(make_folder("check", 2, classes=("0", "1", "2"), seed=2))
    named = load(make_folder("named", 2, seed=1))
    _, validation = reconcile(replace(named, numbered=True), check)
    assert validation.class_names == ("ant", "bee", "cat")
    both = r"label '0' is not among the training classes \(ant, bee, cat\); the classes there are 0, 1, 2"
    with pytest.raises(InputError, match=both):
        reconcile(named, check)
    with pytest.raises(InputError, match="label '1' is not among the training classes"):
        reconcile(load(make_folder("numbered", 2, classes=("0", "2", "3"), seed=1)), check)


def test_one_class_is_no_validation_split(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="at least two classes"):
        reconcile(
            load(make_folder("train", 2, seed=1)), load(make_folder("check", 2, classes=("ant",), seed=2))
        )


def test_share_is_stratified_and_disjoint(make_folder: Callable[..., Path]) -> None:
    training, validation = by_share(load(make_folder("train", 10)), 0.2, seed=3)
    assert validation.class_counts().tolist() == [2, 2, 2]
    assert not set(training.ids) & set(validation.ids)
    with pytest.raises(InputError, match="between 0 and 1"):
        parse_validation("share:1.5")


def test_share_is_drawn_from_trusted_rows_where_they_are_marked(make_folder: Callable[..., Path]) -> None:
    images = load(make_folder("train", 10))
    marked = replace(images, splits=np.where(np.arange(30) % 10 < 4, "trusted", "train").astype(object))
    training, validation = by_share(marked, 0.5, seed=3)
    assert validation.class_counts().tolist() == [2, 2, 2]
    assert (validation.splits == "trusted").all()
    assert len(training) == 24


def test_split_column_without_validation(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="no image is marked as validation"):
        by_column(load(make_folder("train", 2)))


def test_stratified_share_takes_at_least_one() -> None:
    labels = np.array([0] * 50 + [1])
    assert stratified_share(labels, 0.1, 0)[50]


def test_flipped_labels_follow_the_matrix() -> None:
    transition = np.array([[0.7, 0.3, 0.0], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]])
    true = np.repeat([0, 1, 2], 20_000)
    given = flip_labels(true, transition, seed=0)
    observed = np.stack([np.bincount(given[true == t], minlength=3) / 20_000 for t in range(3)])
    np.testing.assert_allclose(observed, transition, atol=0.015)
    with pytest.raises(ValueError, match="distribution"):
        flip_labels(true, transition * 2, seed=0)
