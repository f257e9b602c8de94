"""Broken inputs of every kind that is read: each is used, or refused with the project's own error.

    pytest -m benchmark tests/benchmarks/test_fuzz.py -s

Valid files are changed at random: bytes flipped, cut, doubled and put elsewhere, words exchanged for hostile
ones. SHARPEYE_FUZZ_SECONDS sets how long (1,200). Prints for each kind how many were tried, used and refused;
writes .benchmarks/fuzz.json. Any other exception fails, and leaves its input in .benchmarks/fuzz/.
"""

import gzip
import io
import json
import os
import random
import shutil
import tarfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from rich.table import Table
from safetensors.torch import save_file

from sharpeye.commands.cli import main
from sharpeye.config import RunConfig, SourceOptions
from sharpeye.data.annotations import read_annotations
from sharpeye.data.dataset import LabeledImages, ingest
from sharpeye.data.images import BadImage, decode
from sharpeye.data.sources import open_source
from sharpeye.data.splits import by_list
from sharpeye.data.torchvision_sets import read_human_labels
from sharpeye.errors import InputError
from sharpeye.runs import store
from sharpeye.runs.decision_import import import_log
from sharpeye.runs.decisions import Decision, decide
from sharpeye.runs.export import EXPORTED_FILES, exported_content
from sharpeye.runs.result import DecodedImages
from sharpeye.runs.workspace import Workspace, open_workspace
from sharpeye.specs import parse_source
from sharpeye.training.models import build_model
from tests.benchmarks.reporting import publish
from tests.engine.runs.results import write_result

SECONDS = float(os.environ.get("SHARPEYE_FUZZ_SECONDS", "1200"))
HOSTILE = "inf NaN 1e20 -1 0.5 [0] {} null ../../x /etc/passwd \" ' =1+1 , ; é <!ENTITY>"
BYTES = (b"9" * 40, b"[" * 3000, b"\0", b"\r\n", b"\t", b"\xff\xfe", b"\xef\xbb\xbf")
WORDS = (*HOSTILE.encode().split(), *BYTES)

Try = Callable[[Path], object]


def changed(content: bytes, rng: random.Random) -> bytes:
    """Some bytes of a file, changed a few times at random."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 64))
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + size] = rng.randbytes(size)
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size] * rng.choice((1, 2, 50))
        elif kind == 4:
            data[at : at + rng.choice((0, size))] = rng.choice(WORDS)
        else:
            del data[at:]
    return bytes(data)


def picture(kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def seeds(root: Path) -> dict[str, list[Path]]:
    """Valid files of every kind."""
    (root / "p").mkdir(parents=True)
    for number in range(6):
        (root / "p" / f"{number}.png").write_bytes(picture())
    rows = [(f"p/{number}.png", "ab"[number % 2]) for number in range(6)]
    text = "path,label,split,true_label\n" + "".join(f"{p},{c},train,{c}\n" for p, c in rows)
    lines = "".join(json.dumps({"file_name": p, "label": c}) + "\n" for p, c in rows)
    (root / "t.csv").write_text(text)
    (root / "t.tsv").write_bytes(text.replace(",", "\t").encode("utf-16"))
    (root / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    (root / "t.jsonl").write_text(lines)
    pd.DataFrame(rows, columns=["path", "label"]).to_parquet(root / "paths.parquet")
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": picture(), "path": p} for p, _ in rows], struct)
    table = pa.table({"image": images, "label": [0, 1, 2] * 2, "id": [p for p, _ in rows]})
    features = {"info": {"features": {"label": {"names": ["x", "y", "z"]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, root / "images.parquet")
    with pa.OSFile(str(root / "images.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with zipfile.ZipFile(root / "c.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path, label in rows:
            packed.write(root / path, f"{label}/{Path(path).name}")
    with tarfile.open(root / "c.tar.gz", "w:gz") as packed:
        for path, label in rows:
            packed.add(root / path, f"{label}/{Path(path).name}")
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM", "HEIF")
    decode(root / "p" / "0.png", 16)  # so that Pillow knows HEIF
    pictures = []
    for kind in kinds:
        (root / f"i.{kind.lower()}").write_bytes(picture(kind))
        pictures.append(root / f"i.{kind.lower()}")
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x9286], exif[0x829A] = 6, "comment", (1, 60)
    Image.new("RGB", (24, 16)).save(buffer, "JPEG", exif=exif)
    (root / "exif.jpeg").write_bytes(buffer.getvalue())
    (root / "ids.csv").write_text("id,label\n" + "".join(f"{p},{c}\n" for p, c in rows[:3]))
    (root / "run.toml").write_text('train = "nowhere"\nseed = 1\ndamping = 0.5\nmethod = ["fvm", "vm"]\n')
    weights = {
        name: one.contiguous() for name, one in build_model("small", 3, "random", 0).state_dict().items()
    }
    torch.save(weights, root / "w.pt")
    save_file(weights, root / "w.safetensors")
    torch.save({"worse_label": np.arange(9) % 3}, root / "human.pt")
    choices = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["a"]}}
    task = {"data": {"image": rows[0][0]}, "annotations": [{"completed_by": 1, "result": [choices]}]}
    (root / "studio.json").write_text(json.dumps([task, task]))
    one = {"id": 1, "file_name": rows[0][0], "image_id": 1, "category_id": 1, "name": "a"}
    (root / "coco.json").write_text(json.dumps({"images": [one], "annotations": [one], "categories": [one]}))
    label = {"_cls": "Classification", "label": "a"}
    samples = [{"filepath": place, "tags": [], "ground_truth": label, "other": label} for place, _ in rows]
    (root / "samples.json").write_text(json.dumps({"samples": samples}))
    (root / "labels.json").write_text(
        json.dumps({"classes": ["a", "b"], "labels": {"0": 0, "1": "b", "2": 1}})
    )
    (root / "cvat.xml").write_text(
        f'<annotations><image id="0" name="{rows[0][0]}"><tag label="a"/></image></annotations>'
    )
    return {
        "tables": [root / name for name in ("t.csv", "t.tsv", "t.csv.gz", "t.jsonl", "paths.parquet")],
        "image tables": [root / "images.parquet", root / "images.arrow"],
        "archives": [root / "c.zip", root / "c.tar.gz"],
        "images": [*pictures, root / "exif.jpeg"],
        "ids": [root / "ids.csv"],
        "annotations": [
            root / name for name in ("studio.json", "coco.json", "samples.json", "labels.json", "cvat.xml")
        ],
        "toml": [root / "run.toml"],
        "weights": [root / "w.pt", root / "w.safetensors"],
        "human labels": [root / "human.pt"],
    }


def reviewed(root: Path) -> tuple[Workspace, LabeledImages]:
    """A workspace with a run of the images of the table, and its decision log as a file."""
    workspace = open_workspace(str(root / "ws"))
    images = ingest(open_source(parse_source(str(root / "t.csv")), SourceOptions()), workspace.decoded, 16)
    with store.store(workspace) as connection:
        store.register_dataset(connection, "d", str(root / "t.csv"), {})
        store.submit(connection, "run1", RunConfig.of("x", methods=("fvm",)), "d")
        folder = workspace.run("run1")
        folder.root.mkdir(parents=True)
        scores = pd.DataFrame({"id": images.ids, "given_label": "a", "suggested_label": "b"})
        scores.assign(confidence=0.7, wrong_probability=0.4).to_parquet(folder.scores)
        write_result(
            folder, images=DecodedImages(images.folder.name, ""), classes_in_order=images.class_names
        )
        decide(
            connection, "d", "run1", "me", [Decision(str(one), "accept", "a", "b") for one in images.ids[:3]]
        )
        row = store.get_run(connection, "run1")
        (root / "log.csv").write_bytes(exported_content(connection, workspace, row, EXPORTED_FILES[2]))
    return workspace, images


def attempts(root: Path, workspace: Workspace, images: LabeledImages) -> dict[str, Try]:
    """What is done with a file of each kind."""

    def source(path: Path) -> object:
        cache = root / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        return ingest(open_source(parse_source(str(path)), SourceOptions()), cache, 16)

    def log(path: Path) -> object:
        with store.store(workspace) as connection:
            row = store.get_run(connection, "run1")
            connection.execute("DELETE FROM decisions")
            connection.execute("DELETE FROM actions")
            import_log(connection, workspace, row, path)
            return [exported_content(connection, workspace, row, file) for file in EXPORTED_FILES]

    def toml(path: Path) -> object:
        outcome = CliRunner().invoke(main, ["run", "--workspace", str(root / "ws2"), "--config", str(path)])
        if outcome.exit_code == 2:
            raise InputError(outcome.output)
        raise outcome.exception or AssertionError(outcome.output)

    return {
        "tables": source,
        "image tables": source,
        "archives": source,
        "images": lambda path: decode(path, 16),
        "ids": lambda path: by_list(images, path),
        "annotations": read_annotations,
        "decision logs": log,
        "toml": toml,
        "weights": lambda path: build_model("small", 3, str(path), 0),
        "human labels": lambda path: read_human_labels(path, "worse_label"),
    }


@pytest.mark.benchmark
@pytest.mark.filterwarnings("ignore")
def test_broken_inputs(tmp_path: Path) -> None:
    valid = seeds(tmp_path)
    workspace, images = reviewed(tmp_path)
    valid["decision logs"] = [tmp_path / "log.csv"]
    what = attempts(tmp_path, workspace, images)
    for kind, files in valid.items():
        for file in files:
            if kind != "toml":
                what[kind](file)
    rng, counts, failures = random.Random(0), {kind: Counter[str]() for kind in valid}, Counter[str]()
    content = {kind: [(file, file.read_bytes()) for file in files] for kind, files in valid.items()}
    broken = Path(".benchmarks/fuzz")
    started = time.monotonic()
    while time.monotonic() - started < SECONDS:
        for kind, files in content.items():
            file, whole = rng.choice(files)
            path = file.with_name(f"broken-{file.name}")
            path.write_bytes(changed(whole, rng))
            try:
                what[kind](path)
                counts[kind]["used"] += 1
            except (InputError, BadImage):
                counts[kind]["refused"] += 1
            except Exception as error:
                at = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(at.filename).name}:{at.lineno}"
                name = f"{kind}: {type(error).__name__} in {place}: {str(error)[:80]}"
                if not failures[name]:
                    broken.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, broken / f"{len(failures)}-{path.name}")
                failures[name] += 1
    table = Table("kind", "tried", "used", "refused", title=f"Broken inputs, {SECONDS:.0f} s")
    for kind, count in counts.items():
        table.add_row(kind, *(f"{number:,}" for number in (count.total(), count["used"], count["refused"])))
    publish("fuzz", {"counts": counts, "failures": failures}, table, *failures)
    assert not failures
