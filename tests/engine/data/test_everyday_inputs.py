"""Data as people have it: what it is read as, and what is said of the rest."""

import gzip
import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharpeye.config import RunConfig, SourceOptions
from sharpeye.data.dataset import LabeledImages, ingest, natural_size
from sharpeye.data.images import BadImage, decode, has_extra
from sharpeye.data.layout import read_layout, split_name
from sharpeye.data.load import load_splits, open_sources
from sharpeye.data.records import label_problem, label_text
from sharpeye.data.sources import open_source
from sharpeye.errors import InputError
from sharpeye.specs import parse_source

Folders = Callable[..., Path]


def load(spec: str | Path, cache: Path, **options: object) -> LabeledImages:
    source = open_source(parse_source(str(spec)), SourceOptions(**options))  # type: ignore[arg-type]
    return ingest(source, cache, 16)


def splits(train: str | Path, cache: Path, **options: object) -> tuple[LabeledImages, LabeledImages]:
    config = RunConfig.of(str(train), **options)  # type: ignore[arg-type]
    return load_splits(
        config, open_sources(config.data), lambda source, limit: ingest(source, cache, 16, limit)
    )


@pytest.mark.parametrize("labels", [[2, 10, 0], [2.0, 10.0, 0.0], ["2", "10", "0"], ["2.0", "10.0", "0.00"]])
def test_a_number_is_one_label_however_it_is_written(
    make_folder: Folders, tmp_path: Path, labels: list[object]
) -> None:
    root = make_folder("data", 1)
    table = pd.DataFrame({"path": ["ant/ant-0.png", "bee/bee-0.png", "cat/cat-0.png"], "label": labels})
    table.to_csv(root / "m.csv", index=False)
    table.to_parquet(root / "m.parquet")
    for name in ("m.csv", "m.parquet"):
        images = load(root / name, tmp_path / "cache")
        assert images.class_names == ("0", "2", "10")
        assert images.labels.tolist() == [1, 2, 0]


@given(st.integers(0, 10**6))
def test_label_text_of_whole_numbers(number: int) -> None:
    forms = (number, float(number), np.float64(number), f"{number}.0", f" {number}.00 ", f"{number}.")
    assert {label_text(form) for form in forms} == {str(number)}


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (0.5, "fraction"),
        ("0.5", "fraction"),
        ("1e-3", "fraction"),
        (-1, "negative"),
        ("-1.0", "negative"),
        ("[0]", "list"),
        ([0], "list"),
        (np.array([0, 1]), "list"),
        ({"a": 1}, "list"),
        ("", "empty"),
        (None, "empty"),
    ],
)
def test_what_names_no_class_says_why(label: object, reason: str) -> None:
    assert reason in label_problem(label)


@pytest.mark.parametrize("label", ["cat", "A-4", "7", 7, 7.0, "-", "e", "[cat] tabby", True])
def test_what_names_a_class(label: object) -> None:
    assert label_problem(label) == ""


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if image.mode in ("F", "I") else "PNG")
    return buffer.getvalue()


RAMP = np.linspace(0, 65535, 4096).reshape(64, 64)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP.astype(np.uint16)),
        Image.fromarray(RAMP.astype(np.uint16) >> 4),
        Image.fromarray(RAMP.astype(np.int32)),
        Image.fromarray((RAMP / 65535).astype(np.float32)),
        Image.fromarray((RAMP - 30_000).astype(np.float32)),
    ],
    ids=["16 bits", "12 bits", "int32", "0 to 1", "negative"],
)
def test_every_depth_shows_its_whole_range(image: Image.Image) -> None:
    decoded = decode(png(image), 64)
    assert decoded.conversions == ("depth",)
    assert abs(decoded.pixels.mean() - 127.5) < 2
    assert (decoded.pixels.min(), decoded.pixels.max()) == (0, 255)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(("bits", "read"), [(16, True), (12, False)])
def test_colours_of_16_bits_are_read_where_they_use_them(channels: int, bits: int, read: bool) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = np.random.default_rng(0).integers(0, 2**bits, (16, 16 * channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2 if channels == 3 else 6, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    file = b"\x89PNG\r\n\x1a\n" + parts
    if read:
        assert decode(file, 16).pixels.max() > 200
    else:
        with pytest.raises(BadImage, match="save it with 8 bits"):
            decode(file, 16)


def test_gaps_in_a_float_image_are_dark() -> None:
    values = np.full((16, 16), 0.75, dtype=np.float32)
    values[0], values[1], values[2] = np.nan, np.inf, 0.25
    pixels = decode(png(Image.fromarray(values)), 16).pixels
    assert pixels[:, 0, 0].tolist() == [0, 0, 0] + [255] * 13


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_images_are_put_on_white_and_hidden_colours_stay_hidden(mode: str) -> None:
    shape = np.zeros((16, 16), np.uint8)
    shape[4:8, 4:8] = 255
    hidden = np.full((16, 16, 3), 90, np.uint8)
    hidden[4:8, 4:8] = 0
    image = Image.fromarray(np.dstack([hidden, shape]))
    if mode == "LA":
        image = image.convert("LA")
    if mode == "P":
        image = Image.fromarray((shape == 0).astype(np.uint8)).convert("P")
        image.info["transparency"] = 1
        image.putpalette([0, 0, 0, 90, 90, 90])
    decoded = decode(png(image), 16)
    assert decoded.conversions == ("transparent",)
    assert set(np.unique(decoded.pixels)) == {0, 255}
    assert (decoded.pixels == 0).sum() == 16 * 3


def test_an_opaque_alpha_channel_is_nothing_to_tell() -> None:
    assert decode(png(Image.new("RGBA", (8, 8), (9, 9, 9, 255))), 8).conversions == ()


def test_conversions_are_noted(make_folder: Folders, tmp_path: Path) -> None:
    root = make_folder("data", 2)
    Image.fromarray(RAMP.astype(np.uint16)).save(root / "ant" / "deep.png")
    [note] = load(root, tmp_path / "cache").notes
    assert note.startswith("1 images hold more than 8 bits")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training_Set", "train"),
        ("seg_train", "train"),
        ("test-images", "validation"),
        ("valid", "validation"),
        ("trains", None),
        ("train_cat", None),
        ("annotations", None),
        ("train test", None),
    ],
)
def test_split_names(name: str, split: str | None) -> None:
    assert split_name(name) == split


def paths(*names: str) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in names]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["cat/1.png", "dog/2.png"], [("cat", None), ("dog", None)]),
        (["train/cat/1.png", "val/cat/2.png", "models/a/3.png"], [("cat", "train"), ("cat", "val")]),
        (
            ["seg_train/seg_train/sea/1.jpg", "seg_test/seg_test/sea/2.jpg"],
            [("sea", "seg_test"), ("sea", "seg_train")],
        ),
        (["data/set/cat/1.png", "data/set/dog/2.png"], [("cat", None), ("dog", None)]),
        (["cat/a/1.png", "cat/b/2.png", "dog/3.png"], [("cat", None)] * 2 + [("dog", None)]),
        # A train is also a vehicle.
        (["train/1.png", "car/2.png"], [("car", None), ("train", None)]),
        (
            ["__MACOSX/cat/._1.png", "cat/.ipynb_checkpoints/1.png", "cat/@eaDir/1.png", "cat/1.png"],
            [("cat", None)],
        ),
    ],
)
def test_classes_and_splits_of_a_tree(files: list[str], expected: list[tuple[str, str | None]]) -> None:
    entries = read_layout(paths(*files)).entries
    assert [(entry.label, entry.split) for entry in entries] == expected
    for entry in entries:
        assert entry.path.relative_to(entry.folder).parts[0] == entry.label


def test_splits_without_class_folders_are_no_classes(make_folder: Folders) -> None:
    root = make_folder("data", 2, classes=("train", "test"))
    with pytest.raises(InputError, match=r"test/, train/ hold images, and no class folders"):
        open_source(parse_source(str(root)), SourceOptions())


def test_what_a_tree_leaves_out_is_told() -> None:
    layout = read_layout(
        paths("train/cat/1.png", "train/cat/a.npy", "train/2.png", "notes/x.json", "val/cat/3.png")
    )
    assert dict(layout.skipped) == {
        "train/cat/a.npy": ".npy is no kind of image that is read",
        "train/2.png": "lies beside the class folders, not in one",
    }
    assert layout.notes == ("The folder notes/ beside the splits train/, val/ was left out.",)
    assert "called like a split" in read_layout(paths("train/1.png", "car/2.png")).notes[0]


names = st.text(st.characters(codec="ascii", exclude_characters="/\0"), min_size=1, max_size=4)


@given(st.lists(st.lists(names, min_size=1, max_size=4), max_size=12))
def test_any_tree_has_a_layout_that_accounts_for_its_images(parts: list[list[str]]) -> None:
    files = [PurePosixPath(*folders[:-1], folders[-1] + ".png") for folders in parts]
    layout = read_layout(files)
    told = {entry.path for entry in layout.entries} | {PurePosixPath(name) for name, _ in layout.skipped}
    assert told <= set(files)
    left_out = {note.split("/")[0].removeprefix("The folder ") for note in layout.notes if "left out" in note}
    for file in set(files) - told:
        assert any(part.startswith((".", "@")) for part in file.parts) or set(file.parts) & left_out


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "webp", "avif", "jp2", "ico", "dib", "pbm"])
def test_every_kind_of_image_is_read(make_folder: Folders, tmp_path: Path, suffix: str) -> None:
    root = make_folder("data", 1)
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000", "pbm": "PPM"}
    image = Image.new("1" if suffix == "pbm" else "RGB", (16, 16))
    image.save(root / "ant" / f"more.{suffix}", kinds.get(suffix, suffix.upper()))
    assert f"ant/more.{suffix}" in load(root, tmp_path / "cache").ids


def test_heic_and_dicom_with_their_packages(make_folder: Folders, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("pillow_heif")
    assert has_extra("heif")
    root = make_folder("data", 1)
    Image.new("RGB", (32, 32), (200, 100, 50)).save(root / "ant" / "photo.heic", "HEIF")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    scan = pydicom.Dataset()
    scan.file_meta = meta
    scan.SOPClassUID = meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    scan.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    scan.Rows = scan.Columns = 32
    scan.SamplesPerPixel, scan.PhotometricInterpretation = 1, "MONOCHROME2"
    scan.BitsAllocated, scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 16, 12, 11, 0
    # The window leaves the outlier of 4000 aside.
    scan.WindowCenter, scan.WindowWidth = 500, 1000
    values = np.linspace(0, 1000, 1024).astype(np.uint16)
    values[-1] = 4000
    scan.PixelData = values.tobytes()
    scan.save_as(root / "bee" / "scan.dcm", enforce_file_format=True)
    (root / "bee" / "broken.dcm").write_bytes(b"no scan")
    images = load(root, tmp_path / "cache")
    at = {name: images.images[np.array([row])].mean() for row, name in enumerate(images.ids)}
    assert at["ant/photo.heic"] == pytest.approx(350 / 3, abs=3)
    assert at["bee/scan.dcm"] == pytest.approx(127.5, abs=3)
    assert "unreadable DICOM" in images.skipped["reason"][0]


def test_hidden_linked_and_unreadable_folders(make_folder: Folders, tmp_path: Path) -> None:
    root, other = make_folder("data", 2), make_folder("other", 1)
    (root / "ant" / ".ipynb_checkpoints").mkdir()
    (root / "ant" / ".ipynb_checkpoints" / "ant-0.png").write_bytes((root / "ant" / "ant-0.png").read_bytes())
    (root / "bee" / "more").symlink_to(other / "bee")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "loop.png").symlink_to("loop.png")
    (root / "cat" / "gone.png").symlink_to("nowhere.png")
    images = load(root, tmp_path / "cache")
    assert len(images) == 6
    reasons = images.skipped.set_index("id")["reason"]
    assert set(reasons.index) == {"bee/more", "cat/up", "cat/loop.png", "cat/gone.png"}
    assert reasons["cat/gone.png"] == "file is missing"
    assert len(load(root, tmp_path / "cache", follow_links=True)) == 7


def test_a_limit_spares_the_validation_split(make_folder: Folders, tmp_path: Path) -> None:
    make_folder("data/train", 9)
    make_folder("data/val", 4, seed=1)
    training, validation = splits(tmp_path / "data", tmp_path / "cache", limit=6)
    assert (len(training), len(validation)) == (6, 12)
    files = sorted(path.relative_to(tmp_path / "data") for path in (tmp_path / "data").rglob("*.png"))
    table = pd.DataFrame(
        {"path": files, "label": [p.parts[1] for p in files], "Split": [p.parts[0] for p in files]}
    )
    table.to_csv(tmp_path / "data" / "all.csv", index=False)
    training, validation = splits(tmp_path / "data" / "all.csv", tmp_path / "cache", limit=6)
    assert (len(training), len(validation)) == (6, 12)


ROWS = [(f"{name}/{name}-{number}.png", name) for name in ("ant", "bee", "cat") for number in range(2)]


def text(separator: str = ",", header: str = "path,label", rows: list[tuple[str, str]] = ROWS) -> str:
    return "\n".join([header.replace(",", separator), *(separator.join(row) for row in rows)]) + "\n"


def json_lines(rows: list[tuple[str, str]] = ROWS) -> str:
    return "".join(json.dumps({"file_name": path, "label": label}) + "\n" for path, label in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", text(";").encode()),
        ("l.csv", text("|").encode()),
        ("l.tsv", text("\t").encode()),
        ("l.txt", text("\t").encode()),
        ("l.csv", text().encode("utf-16")),
        ("l.csv", text().encode("utf-16-le")),
        ("l.csv", text().encode("utf-8-sig")),
        ("L.CSV", text(header=" Path,LABEL").encode()),
        ("l.csv.gz", gzip.compress(text().encode())),
        ("l.jsonl.gz", gzip.compress(json_lines().encode())),
        ("l.jsonl", json_lines().encode()),
        ("l.csv", text(rows=[(path.replace("/", "\\"), label) for path, label in ROWS]).encode()),
    ],
    ids=str,
)
def test_tables_in_every_dialect(make_folder: Folders, tmp_path: Path, name: str, content: bytes) -> None:
    root = make_folder("data", 2)
    (root / name).write_bytes(content)
    images = load(root / name, tmp_path / "cache")
    assert len(images) == 6
    assert images.class_names == ("ant", "bee", "cat")


def test_latin_1_is_read_and_told(make_folder: Folders, tmp_path: Path) -> None:
    root = make_folder("data", 2)
    (root / "l.csv").write_bytes(text(rows=[(path, label + "é") for path, label in ROWS]).encode("latin-1"))
    images = load(root / "l.csv", tmp_path / "cache")
    assert images.class_names == ("anté", "beeé", "caté")
    assert images.notes == ("l.csv is not UTF-8: it was read as Windows-1252.",)


def test_paths_as_tables_hold_them(make_folder: Folders, tmp_path: Path) -> None:
    root = make_folder("data", 2)
    tables = tmp_path / "tables"
    tables.mkdir()
    written: dict[str, Callable[[str], str]] = {
        "absolute": lambda path: str(root / path),
        "uri": lambda path: (root / path).as_uri(),
        "bare": lambda path: path,
    }
    for name, write in written.items():
        (tables / f"{name}.csv").write_text(
            text(header="image,choice", rows=[(write(path), label) for path, label in ROWS])
        )
        options = {"path_column": "image", "label_column": "choice", "image_root": str(root)}
        assert len(load(tables / f"{name}.csv", tmp_path / "cache", **options)) == 6
    with pytest.raises(InputError, match=r"no usable image among 6 rows.*leaves the folder of the images"):
        load(tables / "absolute.csv", tmp_path / "cache", path_column="image", label_column="choice")


def test_trusted_labels_in_a_column_of_their_own(make_folder: Folders, tmp_path: Path) -> None:
    root = make_folder("data", 2)
    (root / "noisy.csv").write_text(text(header="path,noisy"))
    (root / "clean.csv").write_text(text(header="path,checked"))
    options = {"label_column": "noisy", "validation": str(root / "clean.csv")}
    with pytest.raises(InputError, match="no label column"):
        splits(root / "noisy.csv", tmp_path / "cache", **options)
    (root / "ant" / "ant-0.png").unlink()
    config = RunConfig.of(str(root / "noisy.csv"), validation_label_column="checked", **options)  # type: ignore[arg-type]
    _, validation = open_sources(config.data)
    assert validation is not None
    assert validation.count == 6


@pytest.mark.parametrize("line", ["{broken", "[1]", '"text"'])
def test_a_wrong_json_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "l.jsonl").write_text(json_lines() + line + "\n")
    with pytest.raises(InputError, match=r"l\.jsonl, line 7"):
        load(tmp_path / "l.jsonl", tmp_path / "cache")


def image_bytes(shade: int) -> bytes:
    return png(Image.new("RGB", (16, 16), (shade, 0, 0)))


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def shard(rows: range, folder: Path | None = None) -> pa.Table:
    """A table in Hugging Face's layout; with a folder, its images lie there."""
    images = []
    for row in rows:
        if folder:
            (folder / f"{row}.png").write_bytes(image_bytes(row))
        images.append({"bytes": None if folder else image_bytes(row), "path": f"{row}.png"})
    info = {"info": {"features": {"labels": {"names": ["zero", "one", "two"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": pa.array(images, STRUCT), "labels": [row % 3 for row in rows]})
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


def write_hub(root: Path) -> None:
    (root / "data").mkdir(parents=True)
    pq.write_table(shard(range(15)), root / "data" / "train-00000-of-00002.parquet", row_group_size=4)
    pq.write_table(shard(range(15, 30)), root / "data" / "train-00001-of-00002.parquet")
    pq.write_table(shard(range(100, 112)), root / "data" / "test-00000-of-00001.parquet")


def test_shards_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hub(tmp_path / "hub")
    training, validation = splits(tmp_path / "hub", tmp_path / "cache")
    assert (len(training), len(validation)) == (30, 12)
    assert training.class_names == ("one", "two", "zero") or training.class_names == ("zero", "one", "two")
    assert training.labels.tolist() == [row % 3 for row in range(30)]
    shades = training.images[np.arange(30)][:, 0, 0, 0]
    assert shades.tolist() == list(range(30))
    assert len(set(training.ids) | set(validation.ids)) == 42
    monkeypatch.chdir(tmp_path / "hub")
    training, validation = splits(
        "data/train-*.parquet", tmp_path / "cache", validation="data/test-*.parquet", limit=7
    )
    assert (len(training), len(validation)) == (7, 12)
    with pytest.raises(InputError, match="no file matches"):
        load("data/none-*.parquet", tmp_path / "cache")


def test_images_beside_their_table(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    pq.write_table(shard(range(6), tmp_path / "hub"), tmp_path / "hub" / "train.parquet")
    assert len(load(tmp_path / "hub" / "train.parquet", tmp_path / "cache")) == 6
    (tmp_path / "folder").mkdir()
    for number in range(6):
        (tmp_path / "folder" / f"{number}.png").write_bytes(image_bytes(number))
    (tmp_path / "folder" / "metadata.jsonl").write_text(
        json_lines([(f"{n}.png", "ab"[n % 2]) for n in range(6)])
    )
    assert load(tmp_path / "folder", tmp_path / "cache").class_names == ("a", "b")


def test_data_sets_saved_to_disk(tmp_path: Path) -> None:
    for split, rows in (("train", range(9)), ("test", range(20, 26))):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        table = shard(rows)
        place = str(folder / "data-00000-of-00001.arrow")
        with pa.OSFile(place, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
        (folder / "state.json").write_text("{}")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    training, validation = splits(tmp_path / "saved", tmp_path / "cache")
    assert (len(training), len(validation)) == (9, 6)
    assert len(load(tmp_path / "saved" / "train", tmp_path / "cache")) == 9
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "dataset_dict.json").write_text('{"splits": []}')
    with pytest.raises(InputError, match=r"empty: no \.arrow file is there"):
        load(tmp_path / "empty", tmp_path / "cache")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_of_class_folders(make_folder: Folders, tmp_path: Path, kind: str) -> None:
    root = make_folder("data", 3)
    path = tmp_path / f"images.{kind}"
    outside = tmp_path / "outside.png"
    Image.new("RGB", (16, 16)).save(outside)
    members = [(file, f"wrapped/{file.relative_to(root)}") for file in sorted(root.rglob("*.png"))]
    members.append((outside, "../ant/evil.png"))
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file, name in members:
                packed.write(file, name)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as packed:
            for file, name in members:
                packed.add(file, name)
    images = load(path, tmp_path / "cache")
    assert images.class_names == ("ant", "bee", "cat")
    assert images.class_counts().tolist() == [3, 3, 3]
    assert images.skipped["id"].tolist() == ["../ant/evil.png"]
    assert images.ids[0] == "wrapped/ant/ant-0.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"images\..*not a readable"):
        load(path, tmp_path / "cache")


def test_shards_of_web_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"shard-{number}.tar", "w") as packed:
            for row in range(4):
                for suffix, content in (("png", image_bytes(10 * row)), ("cls", str(row % 2).encode())):
                    if (number, row, suffix) != (1, 3, "cls"):
                        member = tarfile.TarInfo(f"{number}{row}.{suffix}")
                        member.size = len(content)
                        packed.addfile(member, io.BytesIO(content))
    one = load(tmp_path / "shard-0.tar", tmp_path / "cache")
    assert one.labels.tolist() == [0, 1, 0, 1]
    monkeypatch.chdir(tmp_path)
    both = load("shard-*.tar", tmp_path / "cache")
    assert both.ids.tolist()[-1] == "shard-1.tar/12.png"
    assert both.images[np.arange(7)][:, 0, 0, 0].tolist() == [0, 10, 20, 30, 0, 10, 20]
    assert both.skipped.to_dict("records") == [
        {"id": "shard-1.tar/13.png", "reason": "there is no 13.cls beside it"}
    ]


def test_a_picture_that_is_refused_has_no_part_in_the_natural_size(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "a" / "1.png")
    large = bytearray((tmp_path / "a" / "1.png").read_bytes())
    large[16:24] = struct.pack(">II", 100_000, 100_000)
    large[29:33] = struct.pack(">I", zlib.crc32(bytes(large[12:29])))
    (tmp_path / "a" / "2.png").write_bytes(large)
    assert natural_size(open_source(parse_source(str(tmp_path)), SourceOptions())) == 30


READ = """
import sys
from pathlib import Path
from sharpeye.config import SourceOptions
from sharpeye.data.dataset import ingest
from sharpeye.data.sources import open_source
from sharpeye.specs import parse_source
images = ingest(open_source(parse_source(sys.argv[1]), SourceOptions()), Path(sys.argv[2]), 64)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(len(images), int(peak.split()[1]) // 1024)
"""


def memory_of_reading(source: Path, cache: Path) -> tuple[int, int]:
    """Images read by a process of its own, and its largest memory in MB."""
    command = [sys.executable, "-P", "-c", READ, str(source), str(cache)]
    images, memory = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return int(images), int(memory)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_pictures_are_in_memory_one_at_a_time(tmp_path: Path) -> None:
    for number in range(6):
        place = tmp_path / "large" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6000, 6000), (number, 0, 0)).save(place, compress_level=1)
    # One takes 144 MB in Pillow, all six 864.
    images, memory = memory_of_reading(tmp_path / "large", tmp_path / "cache")
    assert images == 6
    assert memory < 600


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_parquet_file_that_unpacks_to_a_gigabyte(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (600, 600)).save(buffer, "BMP")
    table = pa.table({"image": pa.array([buffer.getvalue()] * 1000), "label": ["a", "b"] * 500})
    pq.write_table(table, tmp_path / "small.parquet", compression="zstd")
    assert (tmp_path / "small.parquet").stat().st_size < 10_000
    images, memory = memory_of_reading(tmp_path / "small.parquet", tmp_path / "cache")
    assert images == 1000
    assert memory < 1000
