import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharpeye.config import SourceOptions
from sharpeye.data.dataset import LabeledImages, ingest
from sharpeye.data.remote import cache_folder, is_address
from sharpeye.data.sources import open_source
from sharpeye.errors import InputError
from sharpeye.specs import RemoteSource, parse_source
from tests.engine.data.scenes import scene


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which a server of this machine has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def photographs(folder: Path) -> list[Path]:
    files = []
    for number in range(6):
        file = folder / ("ant", "bee")[number % 2] / f"{number} ä.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        scene(number).save(file)
        files.append(file)
    return files


def load(address: str, tmp_path: Path, **options: object) -> LabeledImages:
    return ingest(open_source(parse_source(address), SourceOptions(**options)), tmp_path / "decoded", 16)


def test_class_folders_on_a_web_server(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    photographs(folder / "photos")
    there, here = load(f"{address}/photos", tmp_path), load(str(folder / "photos"), tmp_path)
    assert there.class_names == here.class_names
    assert there.ids.tolist() == here.ids.tolist()
    assert there.hashes.tolist() == here.hashes.tolist()
    assert there.name == f"{address}/photos"


def test_tables_archives_and_shards_on_a_web_server(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    files = photographs(folder / "photos")
    names = [file.relative_to(folder).as_posix() for file in files]
    rows = [f"{name},{Path(name).parent.name}" for name in names]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    expected = sorted(load(str(folder / "photos"), tmp_path).hashes)
    assert sorted(load(f"{address}/labels.csv", tmp_path).hashes) == expected
    # A table of addresses, elsewhere and here.
    (folder / "links.csv").write_text("\n".join(["path,label", *(f"{address}/{row}" for row in rows)]))
    assert sorted(load(f"{address}/links.csv", tmp_path).hashes) == expected
    with pytest.raises(InputError, match="followed with --follow-links"):
        load(str(folder / "links.csv"), tmp_path)
    assert sorted(load(str(folder / "links.csv"), tmp_path, follow_links=True).hashes) == expected
    import shutil

    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos")
    assert sorted(load(f"{address}/photos.zip", tmp_path).hashes) == expected
    for part in range(2):
        place = folder / "hub" / "default" / ("train", "test")[part] / "0000.parquet"
        place.parent.mkdir(parents=True)
        some = files[3 * part : 3 * part + 3]
        images = [{"bytes": file.read_bytes(), "path": file.name} for file in some]
        pq.write_table(pa.table({"image": images, "label": [f.parent.name for f in some]}), place)
    shards = load(f"{address}/hub", tmp_path)
    assert sorted(shards.hashes) == expected
    assert sorted(shards.splits) == ["train"] * 3 + ["validation"] * 3


def test_a_table_elsewhere_reaches_neither_this_machine_nor_a_third_one(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    folder, address = served
    photographs(folder / "photos")
    secret = tmp_path / "secret.jpg"
    scene(9).save(secret)
    rows = [
        f"{secret},ant",
        f"file://{secret},ant",
        "../secret.jpg,bee",
        f"{address.replace('127.0.0.1', 'localhost')}/photos/ant/0 ä.jpg,bee",
        "photos/bee/1 ä.jpg,bee",
        "photos/ant/missing.jpg,ant",
    ]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
    images = load(f"{address}/labels.csv", tmp_path)
    assert images.ids.tolist() == ["photos/bee/1 ä.jpg"]
    assert len(images.skipped) == 5


def test_a_copy_is_fetched_again_where_its_file_changed(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = served
    photographs(folder / "photos")
    table = folder / "labels.csv"
    table.write_text("path,label\nphotos/ant/0 ä.jpg,ant\nphotos/bee/1 ä.jpg,bee")
    assert load(f"{address}/labels.csv", tmp_path).class_counts().tolist() == [1, 1]
    assert load(f"{address}/labels.csv", tmp_path).class_counts().tolist() == [1, 1]
    assert len([*cache_folder().iterdir()]) == 1
    table.write_text(table.read_text() + "\nphotos/ant/2 ä.jpg,ant")
    assert load(f"{address}/labels.csv", tmp_path).class_counts().tolist() == [2, 1]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:9/photos", "http://127.0.0.1:9/photos: cannot be reached"),
        ("http://127.0.0.1:9/photos.zip", "cannot be read"),
        ("memory://photos", "no such file or folder"),
        ("file:///etc", "no such file or folder"),
        ("simplecache::file:///etc", "no such file or folder"),
    ],
)
def test_what_cannot_be_reached_is_said(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_source(parse_source(address), SourceOptions())


def test_a_storage_without_its_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(InputError, match=r"Install s3fs.*pip install 'sharpeye\[cloud\]'"):
        open_source(parse_source("s3://bucket/photos"), SourceOptions())


def test_names_of_the_hub() -> None:
    assert parse_source("hf:ylecun/mnist") == RemoteSource("hf://datasets/ylecun/mnist@~parquet")
    assert is_address("hf://datasets/ylecun/mnist@~parquet")
    assert not is_address("C:/photos")
    assert json.loads(json.dumps(str(parse_source("s3://b/x")))) == "s3://b/x"


def test_object_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a server of moto, where it and s3fs are installed."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    photographs(tmp_path / "photos")
    storage = s3fs.S3FileSystem()
    storage.mkdir("bucket")
    storage.put(str(tmp_path / "photos"), "bucket/photos", recursive=True)
    there, here = load("s3://bucket/photos", tmp_path), load(str(tmp_path / "photos"), tmp_path)
    assert there.hashes.tolist() == here.hashes.tolist()
    with pytest.raises(InputError, match="s3://bucket/none: cannot be reached, or no file is there"):
        load("s3://bucket/none", tmp_path)
    server.stop()
