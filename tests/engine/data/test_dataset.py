from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpeye.config import SourceOptions
from sharpeye.data import dataset
from sharpeye.data.dataset import SelectedImages, ingest
from sharpeye.data.sources import open_source
from sharpeye.errors import InputError
from sharpeye.specs import parse_source


def test_decoded_once_and_again_when_a_file_changes(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder("data", 2)
    first = ingest(open_source(parse_source(str(root)), SourceOptions()), tmp_path / "cache", 16)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "decode", lambda image, size: pytest.fail("decoded twice"))
        again = ingest(open_source(parse_source(str(root)), SourceOptions()), tmp_path / "cache", 16)
    assert first.key() == again.key()
    (root / "ant" / "ant-0.png").write_bytes((root / "bee" / "bee-0.png").read_bytes())
    changed = ingest(open_source(parse_source(str(root)), SourceOptions()), tmp_path / "cache", 16)
    assert changed.key() != first.key()


def test_no_usable_image_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "data" / "ant").mkdir(parents=True)
    (tmp_path / "data" / "ant" / "a.jpg").write_text("text")
    with pytest.raises(InputError, match=r"no usable image among 1 rows \(first: ant/a.jpg: not an image"):
        ingest(open_source(parse_source(str(tmp_path / "data")), SourceOptions()), tmp_path / "cache", 16)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_room_is_said_before_decoding(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(InputError, match="lower --image-size or --limit"):
        ingest(
            open_source(parse_source(str(make_folder("data", 2))), SourceOptions()), tmp_path / "cache", 16
        )


def test_subset_records_what_it_leaves_out(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    images = ingest(
        open_source(parse_source(str(make_folder("data", 2))), SourceOptions()), tmp_path / "cache", 16
    )
    subset = images.subset(images.labels != 1, "not wanted")
    assert subset.skipped["reason"].tolist() == ["not wanted"] * 2
    np.testing.assert_array_equal(subset.images[np.array([3])], images.images[np.array([5])])
    assert subset.images.shape == (4, 16, 16, 3)


@given(st.lists(st.integers(0, 9), min_size=1), st.data())
def test_selection_of_a_selection(rows: list[int], data: st.DataObject) -> None:
    images = np.arange(10 * 4 * 4 * 3, dtype=np.uint8).reshape(10, 4, 4, 3)
    second = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1)))
    selected = SelectedImages(SelectedImages(images, np.array(rows)), second)
    np.testing.assert_array_equal(selected[np.arange(len(second))], images[np.array(rows)[second]])
