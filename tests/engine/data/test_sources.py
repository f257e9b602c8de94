import io
import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sharpeye.config import SourceOptions
from sharpeye.data.dataset import LabeledImages, ingest
from sharpeye.data.sources import open_source
from sharpeye.data.torchvision_sets import read_human_labels
from sharpeye.errors import InputError
from sharpeye.specs import parse_source


def load(spec: str | Path, cache: Path, options: SourceOptions | None = None, **more: int) -> LabeledImages:
    return ingest(open_source(parse_source(str(spec)), options or SourceOptions()), cache, 16, **more)


def test_class_folders(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    images = load(make_folder("data", 4), tmp_path / "cache")
    assert images.class_names == ("ant", "bee", "cat")
    assert images.class_counts().tolist() == [4, 4, 4]
    assert images.ids[0] == "ant/ant-0.png"
    assert images.images.shape == (12, 16, 16, 3)
    assert images.true_labels is None


def test_folders_of_splits(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    make_folder("data/train", 4)
    make_folder("data/val", 2)
    images = load(tmp_path / "data", tmp_path / "cache")
    assert (images.splits == "validation").sum() == 6
    assert images.class_names == ("ant", "bee", "cat")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifest(make_folder: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    root = make_folder("data", 2)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    names = [file.split("/")[0] for file in files]
    table = pd.DataFrame(
        {"file": files, "noisy": ["cat", *names[1:]], "true_label": names, "split": ["train"] * 5 + ["val"]}
    )
    path = root / f"manifest.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    images = load(path, tmp_path / "cache", SourceOptions(label_column="noisy"))
    assert images.true_labels is not None
    assert (images.labels != images.true_labels).tolist() == [True] + [False] * 5
    assert images.splits.tolist() == ["train"] * 5 + ["validation"]


def test_manifest_path_outside_its_root(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder("data", 1)
    (root / "m.csv").write_text("path,label\nant/ant-0.png,ant\n../../etc/passwd,bee\n")
    skipped = load(root / "m.csv", tmp_path / "cache").skipped
    assert skipped["id"].tolist() == ["../../etc/passwd"]
    assert skipped["reason"][0].startswith("leaves the folder of the images")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifest_path_with_a_zero_byte(make_folder: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    path = make_folder("data", 1) / f"m.{kind}"
    table = pd.DataFrame({"path": ["ant/ant-0.png", "bee/bee\0.png"], "label": ["ant", "bee"]})
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    images = load(path, tmp_path / "cache")
    assert images.ids.tolist() == ["ant/ant-0.png"]
    # Some readers of CSV end a field there.
    assert any(text in images.skipped["reason"][0] for text in ("holds a zero byte", "file is missing"))


def test_link_out_of_a_folder(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder("data", 1)
    Image.new("RGB", (16, 16)).save(tmp_path / "outside.png")
    (root / "ant" / "link.png").symlink_to(tmp_path / "outside.png")
    skipped = load(root, tmp_path / "cache").skipped.to_dict("records")
    assert [row["id"] for row in skipped] == ["ant/link.png"]
    assert "links are followed with --follow-links" in skipped[0]["reason"]
    followed = load(root, tmp_path / "cache", SourceOptions(follow_links=True))
    assert "ant/link.png" in followed.ids


def test_a_file_name_that_is_not_utf8(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder("data", 1)
    (root / "ant" / "ant-0.png").rename(root / "ant" / "caf\udce9.png")
    with pytest.raises(InputError, match=r"caf\\udce9\.png': the name is not UTF-8; rename it"):
        load(root, tmp_path / "cache")


def test_manifest_rows_that_cannot_be_used(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder("data", 2)
    rows = [
        "ant/ant-0.png,ant",
        "ant/none.png,ant",
        "ant/ant-1.png,",
        "bee/bee-0.png,bee",
        "bee/bee-0.png,bee",
    ]
    (root / "m.csv").write_text("path,label\n" + "\n".join(rows))
    images = load(root / "m.csv", tmp_path / "cache")
    assert images.ids.tolist() == ["ant/ant-0.png", "bee/bee-0.png"]
    reasons = images.skipped["reason"].tolist()
    assert reasons == ["file is missing", "label is empty", "another row has the same id"]


def test_numeric_labels_sort_as_numbers(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    root = make_folder("data", 1)
    (root / "m.csv").write_text("path,label\nant/ant-0.png,10\nbee/bee-0.png,9\ncat/cat-0.png,1\n")
    assert load(root / "m.csv", tmp_path / "cache").class_names == ("1", "9", "10")


def write_parquet(path: Path, labels: Sequence[float | None], names: Sequence[str] | None = None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def png(shade: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (shade, 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()

    table = pa.table(
        {"image": [{"bytes": png(10 * i), "path": "x"} for i in range(len(labels))], "label": labels}
    )
    if names:
        features = {"label": {"names": list(names)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)


def test_image_bytes_in_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", [0, 1, 0, 1, 1, 0, 0, 1])
    images = load(tmp_path / "p.parquet", tmp_path / "cache")
    assert images.labels.tolist() == [0, 1, 0, 1, 1, 0, 0, 1]
    assert images.images[np.array([7])][0, 0, 0].tolist() == [70, 0, 0]
    limited = load(tmp_path / "p.parquet", tmp_path / "cache", limit=3)
    assert limited.ids.tolist() == ["000000", "000003", "000007"]


def test_label_outside_declared_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", [0, 1, 2, 1], ("zero", "one"))
    images = load(tmp_path / "p.parquet", tmp_path / "cache")
    assert images.class_names == ("zero", "one")
    assert images.skipped.to_dict("records") == [
        {"id": "000002", "reason": "label 2 is outside the 2 classes"}
    ]


def test_numbers_are_positions_even_where_classes_are_called_by_numbers(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", [2, 0, 1, 2], ("1", "10", "2"))
    images = load(tmp_path / "p.parquet", tmp_path / "cache")
    assert images.class_names == ("1", "10", "2")
    assert images.labels.tolist() == [2, 0, 1, 2]


def test_a_gap_does_not_turn_numbers_into_other_classes(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_folder("data", 4)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    labels = [None, *(10.0 if number % 2 else 2.0 for number in range(1, len(files)))]
    pd.DataFrame({"path": files, "label": labels, "true_label": labels[::-1]}).to_parquet(root / "m.parquet")
    write_parquet(root / "bytes.parquet", [2, None, 10])
    images = load(root / "m.parquet", tmp_path / "cache")
    assert images.class_names == ("2", "10")
    assert images.true_labels is not None
    assert images.true_labels.tolist() == [0, 1] * 5 + [-1]
    assert load(root / "bytes.parquet", tmp_path / "cache").class_names == ("2", "10")


def test_missing_column_names_those_there(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", [0, 1])
    with pytest.raises(InputError, match=r"no column 'noisy'; its columns are image, label"):
        open_source(parse_source(str(tmp_path / "p.parquet")), SourceOptions(label_column="noisy"))


@pytest.mark.parametrize("name", ["x.parquet", "x.txt", "none", "x.csv"])
def test_unusable_files(tmp_path: Path, name: str) -> None:
    if name != "none":
        (tmp_path / name).write_bytes(b"\x00\x01not a table")
    with pytest.raises(InputError, match=name):
        load(tmp_path / name, tmp_path / "cache")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images found"):
        open_source(parse_source(str(tmp_path)), SourceOptions())


def test_torchvision_dataset(tmp_path: Path) -> None:
    images = load("torchvision:FakeData", tmp_path / "cache", limit=20)
    assert len(images) == 20
    with pytest.raises(InputError, match="no classification data set"):
        open_source(parse_source("torchvision:Nothing"), SourceOptions())
    with pytest.raises(InputError, match="cannot be loaded or downloaded"):
        open_source(parse_source("torchvision:EMNIST"), SourceOptions(torchvision_root=str(tmp_path)))


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("/tmp/sharpeye-was-here",)


def test_human_labels(tmp_path: Path) -> None:
    torch.save({"clean_label": np.array([1, 2]), "worse_label": np.array([1, 0])}, tmp_path / "human.pt")
    assert read_human_labels(tmp_path / "human.pt", "worse_label").tolist() == [1, 0]
    with pytest.raises(InputError, match="choose --label-column from: clean_label, worse_label"):
        read_human_labels(tmp_path / "human.pt", "best_label")


def test_other_human_labels_are_another_source(tmp_path: Path) -> None:
    options = SourceOptions(label_column="worse_label", human_labels=str(tmp_path / "human.pt"))
    class_names_read = []
    for label in (1, 2):
        torch.save({"worse_label": np.full(1000, label)}, tmp_path / "human.pt")
        os.utime(tmp_path / "human.pt", (label, label))
        class_names_read.append(
            load("torchvision:FakeData", tmp_path / "cache", options, limit=5).class_names
        )
    assert class_names_read == [("1",), ("2",)]


def test_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    with (tmp_path / "hostile.pt").open("wb") as file:
        pickle.dump({"worse_label": Hostile()}, file)
    torch.save({"worse_label": Hostile()}, tmp_path / "hostile2.pt")
    for name in ("hostile.pt", "hostile2.pt"):
        with pytest.raises(InputError, match="refused"):
            read_human_labels(tmp_path / name, "worse_label")
    assert not Path("/tmp/sharpeye-was-here").exists()


def test_packaged_demo(tmp_path: Path) -> None:
    training = ingest(open_source(parse_source("demo"), SourceOptions()), tmp_path, 28)
    validation = ingest(open_source(parse_source("demo"), SourceOptions(), "validation"), tmp_path, 28)
    assert (len(training), len(validation)) == (6000, 1500)
    assert training.true_labels is not None
    assert np.bincount(training.true_labels).tolist() == [600] * 10
    wrong = training.labels != training.true_labels
    assert 0.17 < wrong.mean() < 0.24
    shirt, bag, coat = (training.class_names.index(name) for name in ("Shirt", "Bag", "Coat"))
    confused = training.labels[training.true_labels == shirt]
    assert (confused == coat).sum() > 20
    assert (confused == bag).sum() == 0
    assert not np.isin(training.hashes, validation.hashes).any()
    assert (validation.labels == validation.true_labels).all()
