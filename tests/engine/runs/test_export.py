import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sharpeye.commands.cli import main
from sharpeye.config import RunConfig, SourceOptions
from sharpeye.data.annotations import read_annotations
from sharpeye.data.dataset import ingest
from sharpeye.data.sources import open_source
from sharpeye.errors import InputError
from sharpeye.runs import store
from sharpeye.runs.decision_import import import_log
from sharpeye.runs.decisions import Decision, current_decisions, decide, read_log, redo, undo
from sharpeye.runs.export import cleaned_labels, copy_images
from sharpeye.runs.result import DecodedImages
from sharpeye.runs.spreadsheets import as_written, spreadsheet_safe
from sharpeye.runs.team import add_class
from sharpeye.runs.workspace import Workspace, open_workspace
from sharpeye.specs import parse_source
from tests.engine.runs.results import write_result

IMAGES = [("ant", "0.png"), ("ant", "1.png"), ("bee", "0.png"), ("bee", "1.png")]


@pytest.fixture
def reviewed(tmp_path: Path) -> Workspace:
    """A workspace with a finished run of four images, one of them accepted, one kept."""
    for label, name in IMAGES:
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (10 * len(label), 0, 0)).save(tmp_path / "data" / label / name)
    workspace = open_workspace(str(tmp_path / "ws"))
    with store.store(workspace) as connection:
        store.register_dataset(connection, "d", str(tmp_path / "data"), {})
        store.submit(connection, "run1", RunConfig.of(str(tmp_path / "data"), methods=("fvm",)), "d")
        finish(workspace, tmp_path / "data", [f"{label}/{name}" for label, name in IMAGES])
        decide(
            connection,
            "d",
            "run1",
            "me",
            [Decision("ant/1.png", "accept", "ant", "bee"), Decision("bee/0.png", "keep", "bee", "bee")],
        )
    return workspace


def finish(workspace: Workspace, source: Path, scored: list[str]) -> None:
    """What a run leaves that scored these of the images of a folder."""
    folder = workspace.run("run1")
    folder.root.mkdir(parents=True, exist_ok=True)
    images = ingest(open_source(parse_source(str(source)), SourceOptions()), workspace.decoded, 8)
    given = [image.split("/")[0] for image in scored]
    scores = pd.DataFrame({"id": scored, "given_label": given, "suggested_label": "bee"})
    scores.assign(confidence=0.75, wrong_probability=0.25).to_parquet(folder.scores)
    write_result(folder, images=DecodedImages(images.folder.name, ""), classes_in_order=images.class_names)


def sharpeye(*arguments: object) -> dict[str, object]:
    outcome = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads(outcome.stdout)


def test_only_decided_changes_are_applied(reviewed: Workspace, tmp_path: Path) -> None:
    summary = sharpeye("export", "run1", tmp_path / "out", "--images", "--workspace", reviewed.root, "--json")
    assert summary["changed"] == 1
    labels = pd.read_csv(tmp_path / "out" / "labels.csv")
    assert labels["final_label"].tolist() == ["ant", "bee", "bee", "bee"]
    assert labels["decision"].fillna("").tolist() == ["", "accept", "keep", ""]
    parquet = pd.read_parquet(tmp_path / "out" / "labels.parquet")
    assert parquet["final_label"].tolist() == labels["final_label"].tolist()


def test_images_of_equal_name_do_not_overwrite_each_other(reviewed: Workspace, tmp_path: Path) -> None:
    sharpeye("export", "run1", tmp_path / "out", "--images", "--workspace", reviewed.root, "--json")
    copied = sorted(
        p.relative_to(tmp_path / "out" / "images").as_posix()
        for p in (tmp_path / "out" / "images").rglob("*.png")
    )
    assert len(copied) == 4
    assert "ant/0.png" in copied
    assert sum(name.startswith("bee/") for name in copied) == 3
    linked = tmp_path / "out" / "images" / "ant" / "0.png"
    assert linked.stat().st_ino == (tmp_path / "data" / "ant" / "0.png").stat().st_ino


def test_excluded_images_are_left_out_of_what_is_cleaned(reviewed: Workspace, tmp_path: Path) -> None:
    with store.store(reviewed) as connection:
        bad = Decision("ant/0.png", "bad image", "ant", None, "all black")
        several = Decision("bee/1.png", "several", "bee", None)
        decide(connection, "d", "run1", "me", [bad, several])
        add_class(connection, "d", "wasp", ["ant", "bee"], "me")
        decide(connection, "d", "run1", "me", [Decision("bee/0.png", "relabel", "bee", "wasp")])
    formats = ["--format", "coco", "--format", "hugging-face"]
    sharpeye("export", "run1", tmp_path / "out", "--images", *formats, "--workspace", reviewed.root, "--json")
    labels = pd.read_csv(tmp_path / "out" / "labels.csv", keep_default_na=False).set_index("id")
    assert labels.loc["ant/0.png", ["final_label", "decision", "excluded", "note"]].tolist() == [
        "ant",
        "bad image",
        True,
        "all black",
    ]
    assert labels["excluded"].sum() == 1
    copied = [path.relative_to(tmp_path / "out" / "images") for path in (tmp_path / "out").rglob("*.png")]
    assert sorted(path.parent.name for path in copied) == ["bee", "bee", "wasp"]
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["ant/1.png", "bee/0.png", "bee/1.png"]
    assert [category["name"] for category in coco["categories"]] == ["ant", "bee", "wasp"]
    assert pq.read_table(tmp_path / "out" / "train.parquet")["label"].to_pylist() == [1, 2, 1]
    # And back, with the added class.
    sharpeye("import", "run1", tmp_path / "out" / "decisions.csv", "--workspace", reviewed.root, "--json")


@pytest.mark.parametrize("split", ["", "train/"])
def test_a_copy_leaves_the_originals_alone_and_loses_no_image(tmp_path: Path, split: str) -> None:
    source, images = tmp_path / "source", []
    for label in ("cat", "dog"):
        for folder in ("", "2020/", "2021/"):
            image = f"{split}{label}/{folder}1.png"
            images.append((image, label))
            (source / image).parent.mkdir(parents=True, exist_ok=True)
            (source / image).write_text(image)
    (source / f"{split}dog/1-was-cat.png").write_text("in the way")
    images.append((f"{split}dog/1-was-cat.png", "dog"))
    before = {path: path.read_text() for path in source.rglob("*.png")}
    labels = pd.DataFrame(
        {
            "id": [i for i, _ in images],
            "given_label": [g for _, g in images],
            "final_label": "dog",
            "excluded": False,
        }
    )
    copy_images(source, tmp_path / "copy", labels, follow_links=False)
    assert {path: path.read_text() for path in source.rglob("*.png")} == before
    copied = {
        str(path.relative_to(tmp_path / "copy")): path.read_text()
        for path in (tmp_path / "copy").rglob("*.png")
    }
    assert sorted(copied.values()) == sorted(before.values())
    assert all(name.startswith(f"{split}dog/") for name in copied)
    assert copied[f"{split}dog/1-was-cat-2.png"] == f"{split}cat/1.png"
    assert copied[f"{split}dog/2020/1.png"] == f"{split}dog/2020/1.png"


def test_images_that_were_not_scored_are_exported_too(reviewed: Workspace, tmp_path: Path) -> None:
    finish(reviewed, tmp_path / "data", ["ant/0.png", "ant/1.png"])
    (tmp_path / "data" / "ant" / "broken.png").write_text("no image")
    (tmp_path / "data" / "ant" / "folder.png").mkdir()
    (tmp_path / "data" / "ant" / "nowhere.png").symlink_to("gone.png")
    (tmp_path / "data" / "bee" / "linked.png").symlink_to("../ant/0.png")
    sharpeye("export", "run1", tmp_path / "out", "--images", "--workspace", reviewed.root, "--json")
    labels = pd.read_csv(tmp_path / "out" / "labels.csv")
    assert dict(zip(labels["id"], labels["final_label"], strict=True)) == {
        "ant/0.png": "ant",
        "ant/1.png": "bee",
        "bee/0.png": "bee",
        "bee/1.png": "bee",
    }
    copied = {
        p.relative_to(tmp_path / "out" / "images").as_posix()
        for p in (tmp_path / "out" / "images").rglob("*.png")
    }
    assert copied == {
        "ant/0.png",
        "ant/broken.png",
        "bee/1-was-ant.png",
        "bee/0.png",
        "bee/1.png",
        "bee/linked.png",
    }
    assert not any(p.is_symlink() for p in (tmp_path / "out" / "images").rglob("*.png"))


def test_confirmed_labels_are_final_until_decided_otherwise(reviewed: Workspace, tmp_path: Path) -> None:
    reviewed.run("run1").trusted.write_text("id,label\nbee/1.png,ant\nant/1.png,ant\n")
    finish(reviewed, tmp_path / "data", ["ant/0.png", "bee/0.png"])
    with store.store(reviewed) as connection:
        row = store.get_run(connection, "run1")
        labels = cleaned_labels(connection, reviewed, row).set_index("id")
    assert labels["final_label"].to_dict() == {
        "ant/0.png": "ant",
        "bee/0.png": "bee",
        "ant/1.png": "bee",
        "bee/1.png": "ant",
    }
    assert labels["decision"].to_dict() == {
        "ant/0.png": "",
        "bee/0.png": "keep",
        "ant/1.png": "accept",
        "bee/1.png": "confirm",
    }


def test_only_an_earlier_export_is_written_over(reviewed: Workspace, tmp_path: Path) -> None:
    command = ["export", "run1", str(tmp_path / "out"), "--workspace", str(reviewed.root)]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert CliRunner().invoke(main, command).exit_code == 0
    for name in ("labels.csv", "labels.parquet", "decisions.csv"):
        content = (tmp_path / "out" / name).read_bytes()
        (tmp_path / "out" / name).write_text("path,label\na.png,ant\n")
        outcome = CliRunner().invoke(main, command)
        assert outcome.exit_code == 2
        assert f"{name}: is there already" in outcome.stderr
        assert (tmp_path / "out" / name).read_text() == "path,label\na.png,ant\n"
        (tmp_path / "out" / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"to_label": "../../elsewhere"}, "row 1: '../../elsewhere' is no class of run run1"),
        ({"at": ""}, "row 1: at is empty"),
        ({"at": "yesterday"}, "row 1: at is no time: 'yesterday'"),
        ({"at": "inf"}, "row 1: at is no time"),
        ({"at": "1e20"}, "row 1: at is no time"),
        ({"at": "-5"}, "row 1: at is no time"),
        ({"seq": "first"}, "not a readable decision log"),
        ({"seq": "1.5"}, "not a readable decision log"),
        ({"target": "inf"}, "not a readable decision log"),
        ({"seq": "9" * 40}, "not a readable decision log"),
        ({"from_label": ""}, "action 1: an image is there twice, or a field is empty"),
        ({"image": "bee/0.png"}, "action 1: an image is there twice, or a field is empty"),
    ],
)
def test_what_is_no_decision_log_is_not_imported(
    reviewed: Workspace, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    with store.store(reviewed) as connection:
        log = read_log(connection, "d").astype(object)
        log.loc[0, list(change)] = list(change.values())
        log.to_csv(tmp_path / "log.csv", index=False)
        with pytest.raises(InputError, match=re.escape(message)):
            import_log(connection, reviewed, store.get_run(connection, "run1"), tmp_path / "log.csv")
        assert len(read_log(connection, "d")) == 2


def test_nothing_is_written_where_the_copy_cannot_be(reviewed: Workspace, tmp_path: Path) -> None:
    (tmp_path / "out" / "images").mkdir(parents=True)
    outcome = CliRunner().invoke(
        main, ["export", "run1", str(tmp_path / "out"), "--images", "--workspace", str(reviewed.root)]
    )
    assert outcome.exit_code == 2
    assert "exists already" in outcome.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images"]


def test_a_target_that_cannot_be_written_is_said(reviewed: Workspace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = CliRunner().invoke(
        main, ["export", "run1", str(tmp_path / "file" / "out"), "--workspace", str(reviewed.root)]
    )
    assert outcome.exit_code == 2
    assert "cannot be written to" in outcome.stderr


def test_classes_called_none_and_na_survive_the_log(tmp_path: Path) -> None:
    here, there = open_workspace(str(tmp_path / "here")), open_workspace(str(tmp_path / "there"))
    for workspace in (here, there):
        with store.store(workspace) as connection:
            store.register_dataset(connection, "d", "x", {})
            store.submit(connection, "run1", RunConfig.of("x", methods=("fvm",)), "d")
        workspace.run("run1").root.mkdir(parents=True)
        write_result(workspace.run("run1"), classes_in_order=("NA", "None"))
    with store.store(here) as left, store.store(there) as right:
        decide(
            left,
            "d",
            "run1",
            "me",
            [Decision("a", "accept", "NA", "None"), Decision("b", "skip", "None", None)],
        )
        undo(left, "d", "me")
        redo(left, "d", "me")
        read_log(left, "d").to_csv(tmp_path / "decisions.csv", index=False)
        import_log(right, there, store.get_run(right, "run1"), tmp_path / "decisions.csv")
        pd.testing.assert_frame_equal(current_decisions(left, "d"), current_decisions(right, "d"))


def test_log_round_trip_through_files(reviewed: Workspace, tmp_path: Path) -> None:
    sharpeye("export", "run1", tmp_path / "out", "--workspace", reviewed.root, "--json")
    other = open_workspace(str(tmp_path / "other"))
    with store.store(other) as connection:
        store.register_dataset(connection, "d", "x", {})
        store.submit(connection, "run1", RunConfig.of("x", methods=("fvm",)), "d")
    early = CliRunner().invoke(
        main, ["import", "run1", str(tmp_path / "out" / "decisions.csv"), "--workspace", str(other.root)]
    )
    assert early.exit_code == 2
    assert "has no scores yet" in early.stderr
    other.run("run1").root.mkdir(parents=True)
    write_result(other.run("run1"))
    assert sharpeye(
        "import", "run1", tmp_path / "out" / "decisions.csv", "--workspace", other.root, "--json"
    ) == {"actions": 1}
    with store.store(reviewed) as left, store.store(other) as right:
        before, after = current_decisions(left, "d"), current_decisions(right, "d")
        # Times are written to the microsecond.
        assert np.allclose(before.pop("at"), after.pop("at"), rtol=0, atol=1e-6)
        pd.testing.assert_frame_equal(before, after)


def test_exported_labels_say_who_decided_when_and_what_was_suggested(
    reviewed: Workspace, tmp_path: Path
) -> None:
    sharpeye("export", "run1", tmp_path / "out", "--workspace", reviewed.root, "--json")
    labels = pd.read_csv(tmp_path / "out" / "labels.csv", keep_default_na=False).set_index("id")
    assert labels.loc["ant/1.png", ["who", "suggested_label"]].tolist() == ["me", "bee"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", labels.loc["ant/1.png", "when"])
    assert labels.loc["ant/0.png", ["who", "when"]].tolist() == ["", ""]
    assert (labels["confidence"].astype(float) == 0.75).all()
    log = pd.read_csv(tmp_path / "out" / "decisions.csv")
    assert log["at"].str.endswith("Z").all()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=6), max_size=5))
def test_texts_are_safe_in_a_spreadsheet_and_come_back(texts: list[str]) -> None:
    table = pd.DataFrame({"id": pd.Series(texts, dtype=object), "number": -1.5})
    safe = spreadsheet_safe(table)
    assert not any(text.startswith(("=", "+", "-", "@")) for text in safe["id"])
    assert as_written(safe)["id"].tolist() == texts
    assert (safe["number"] == -1.5).all()


def exported(workspace: Workspace, target: Path, *formats: str) -> Path:
    chosen = [argument for name in formats for argument in ("--format", name)]
    sharpeye("export", "run1", target, *chosen, "--workspace", workspace.root, "--json")
    return target


def test_label_studio_there_and_back(reviewed: Workspace, tmp_path: Path) -> None:
    file = exported(reviewed, tmp_path / "out", "label-studio") / "label_studio.json"
    tasks = json.loads(file.read_text())
    assert [task["data"]["id"] for task in tasks] == ["ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"]
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=data/ant/0.png"
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["bee"]}
    assert ["annotations" in task for task in tasks] == [False, True, True, False]
    # As Label Studio exports it, after two people annotated two tasks; one more task was skipped.
    for task, label, person in ((tasks[0], "bee", "ann@x.org"), (tasks[3], "ant", "bob@x.org")):
        result = tasks[1]["annotations"][0]["result"][0] | {"value": {"choices": [label]}, "id": "r"}
        task["annotations"] = [{"id": 7, "completed_by": {"id": 1, "email": person}, "result": [result]}]
    tasks[1]["annotations"] = [{"completed_by": 1, "was_cancelled": True, "result": []}]
    del tasks[2]["annotations"]
    (tmp_path / "annotated.json").write_text(json.dumps(tasks))
    assert sharpeye(
        "import", "run1", tmp_path / "annotated.json", "--workspace", reviewed.root, "--json"
    ) == {"actions": 2}
    with store.store(reviewed) as connection:
        made = current_decisions(connection, "d").set_index("image")
    assert made.loc["ant/0.png", ["verdict", "to_label", "who"]].tolist() == ["accept", "bee", "ann@x.org"]
    assert made.loc["bee/1.png", ["verdict", "to_label", "who"]].tolist() == ["relabel", "ant", "bob@x.org"]
    assert made.loc["ant/1.png", "who"] == "me"


def test_label_studios_own_package_takes_the_tasks(reviewed: Workspace, tmp_path: Path) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    file = exported(reviewed, tmp_path / "out", "label-studio") / "label_studio.json"
    config = interface.LabelInterface(
        '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
        '<Choice value="ant"/><Choice value="bee"/></Choices></View>'
    )
    for task in json.loads(file.read_text()):
        assert config.validate_task({"data": task["data"]})
        assert all(config.validate_prediction(one) for one in task["predictions"])
        assert all(config.validate_annotation(one) for one in task.get("annotations", []))


@pytest.mark.parametrize(
    ("name", "file"),
    [("cvat", "cvat.xml"), ("coco", "coco.json"), ("fiftyone", "fiftyone/samples.json")],
)
def test_annotations_there_and_back(reviewed: Workspace, tmp_path: Path, name: str, file: str) -> None:
    written = exported(reviewed, tmp_path / "out", name) / file
    table, notes = read_annotations(written)
    finals = {"ant/0.png": "ant", "ant/1.png": "bee", "bee/0.png": "bee", "bee/1.png": "bee"}
    paths = [path.removeprefix(f"{tmp_path / 'data'}/") for path in table["path"]]
    assert dict(zip(paths, table["label"], strict=True)) == finals
    assert notes == ()
    # The file is a training source, too.
    options = SourceOptions(image_root=str(tmp_path / "data"))
    images = ingest(open_source(parse_source(str(written)), options), tmp_path / "cache", 8)
    assert images.class_counts().tolist() == [1, 3]
    changed = written.read_text()
    if name == "cvat":
        changed = changed.replace('<tag label="ant"', '<tag label="bee"')
    else:
        changed = changed.replace('"category_id": 1', '"category_id": 2').replace(
            '"label": "ant"', '"label": "bee"'
        )
    written.write_text(changed)
    sharpeye("import", "run1", written, "--workspace", reviewed.root, "--json")
    with store.store(reviewed) as connection:
        made = current_decisions(connection, "d").set_index("image")
    assert made["to_label"].to_dict() == dict.fromkeys(finals, "bee")
    assert made.loc["ant/0.png", "who"] == Path(file).stem


def test_samples_of_fiftyone(reviewed: Workspace, tmp_path: Path) -> None:
    file = exported(reviewed, tmp_path / "out", "fiftyone") / "fiftyone" / "samples.json"
    samples = json.loads(file.read_text())["samples"]
    assert [sample["tags"] for sample in samples] == [[], ["mistake"], [], []]
    assert samples[1]["filepath"] == str(tmp_path / "data" / "ant" / "1.png")
    assert [samples[1][name]["label"] for name in ("given_label", "suggested_label", "ground_truth")] == [
        "ant",
        "bee",
        "bee",
    ]
    assert samples[1]["decision"] == "accept"


def test_fiftyones_own_package_reads_them(reviewed: Workspace, tmp_path: Path) -> None:
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    exported(reviewed, tmp_path / "out", "fiftyone")
    with importers.LegacyFiftyOneDatasetImporter(str(tmp_path / "out" / "fiftyone")) as samples:
        read = list(samples)
    assert [Path(sample.filepath).is_file() for sample in read] == [True] * 4
    assert read[1]["ground_truth"].label == "bee"
    assert read[1]["suggested_label"].confidence == 0.75
    assert read[1].tags == ["mistake"]


def test_data_sets_that_fiftyone_wrote(tmp_path: Path) -> None:
    """What FiftyOne 1.22 writes as `FiftyOneImageClassificationDataset` and as `FiftyOneDataset`."""
    for number in range(4):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / "data" / f"{number}.png")
    labels = {"classes": ["ant", "bee"], "labels": {"0": 0, "1": 1, "2": 0, "3": None}}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    samples = [
        {
            "_id": {"$oid": f"{number:024x}"},
            "filepath": f"data/{number}.png",
            "tags": ["train"],
            "_media_type": "image",
            "ground_truth": {"_id": {"$oid": "0" * 24}, "_cls": "Classification", "tags": [], "label": label},
            "prediction": {"_id": {"$oid": "1" * 24}, "_cls": "Classification", "tags": [], "label": "ant"},
        }
        for number, label in enumerate(("ant", "bee", "ant"))
    ]
    (tmp_path / "samples.json").write_text(json.dumps({"samples": samples}))
    for file in ("labels.json", "samples.json"):
        images = ingest(
            open_source(parse_source(str(tmp_path / file)), SourceOptions()), tmp_path / "cache", 8
        )
        assert images.class_counts().tolist() == [2, 1]
    # The folder itself is a source, too.
    assert open_source(parse_source(str(tmp_path)), SourceOptions()).count == 3


def test_hugging_face_keeps_images_and_classes(reviewed: Workspace, tmp_path: Path) -> None:
    file = exported(reviewed, tmp_path / "out", "hugging-face") / "train.parquet"
    images = ingest(open_source(parse_source(str(file)), SourceOptions()), tmp_path / "cache", 16)
    assert images.class_names == ("ant", "bee")
    assert dict(zip(images.ids, images.labels, strict=True)) == {
        "ant/0.png": 0,
        "ant/1.png": 1,
        "bee/0.png": 1,
        "bee/1.png": 1,
    }
    [row] = pq.read_table(file).slice(1, 1).to_pylist()
    assert row["image"]["bytes"] == (tmp_path / "data" / "ant" / "1.png").read_bytes()
    (tmp_path / "data" / "ant" / "1.png").unlink()
    outcome = CliRunner().invoke(
        main, ["export", "run1", str(tmp_path), "--format", "hugging-face", "--workspace", str(reviewed.root)]
    )
    assert outcome.exit_code == 2


def test_hugging_faces_own_package_reads_it(reviewed: Workspace, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    file = exported(reviewed, tmp_path / "out", "hugging-face") / "train.parquet"
    read = datasets.Dataset.from_parquet(str(file))
    assert read.features["label"].names == ["ant", "bee"]
    assert read[1]["image"].size == (16, 16)


def test_cleanlabs_columns(reviewed: Workspace, tmp_path: Path) -> None:
    datalab = pytest.importorskip("cleanlab.datalab.internal.issue_manager.label")
    issues = pd.read_csv(exported(reviewed, tmp_path / "out", "cleanlab") / "cleanlab.csv")
    manager = datalab.LabelIssueManager
    assert {f"is_{manager.issue_name}_issue", manager.issue_score_key, "given_label", "predicted_label"} <= {
        *issues.columns
    }
    assert (issues["label_score"] == 0.75).all()
    assert not issues["is_label_issue"].any()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "not readable"),
        ("a.json", "[1]", "neither JSON of Label Studio, FiftyOne or COCO nor CVAT's XML"),
        ("a.json", "{}", "neither JSON of Label Studio, FiftyOne or COCO nor CVAT's XML"),
        ("a.json", "[]", "no image in it has a label"),
        ("a.xml", "<a>", "not readable"),
        ("a.xml", "<a/>", "neither JSON"),
        ("a.json", '[{"image": "ant/9.png", "label": "ant"}]', "'ant/9.png' is no image of run run1"),
        ("a.json", '[{"image": "ant/0.png", "label": "dog"}]', "ant/0.png: 'dog' is no class of run run1"),
    ],
)
def test_what_are_no_annotations_of_a_run(
    reviewed: Workspace, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with store.store(reviewed) as connection, pytest.raises(InputError, match=re.escape(message)):
        import_log(connection, reviewed, store.get_run(connection, "run1"), tmp_path / name)


def test_labels_before_there_are_scores(reviewed: Workspace) -> None:
    reviewed.run("run1").result.unlink()
    outcome = CliRunner().invoke(main, ["export", "run1", "out", "--workspace", str(reviewed.root)])
    assert outcome.exit_code == 2
    assert "has no scores yet" in outcome.stderr


def test_runs_status_delete(reviewed: Workspace) -> None:
    rows = sharpeye("runs", "--workspace", reviewed.root, "--json")
    assert [row["id"] for row in rows] == ["run1"]  # type: ignore[attr-defined]
    assert sharpeye("status", "ru", "--workspace", reviewed.root, "--json")["state"] == "queued"
    assert sharpeye("cancel", "ru", "--workspace", reviewed.root, "--json")["state"] == "canceled"
    refused = CliRunner().invoke(main, ["delete", "run1", "--workspace", str(reviewed.root)], input="n\n")
    assert refused.exit_code == 1
    assert reviewed.run("run1").scores.exists()
    accepted = CliRunner().invoke(main, ["delete", "run1", "--workspace", str(reviewed.root)], input="y\n")
    assert accepted.exit_code == 0
    assert not reviewed.run("run1").root.exists()
    with store.store(reviewed) as connection:
        assert len(current_decisions(connection, "d")) == 2


def test_cleaned_labels_of_a_connection(reviewed: Workspace) -> None:
    with store.store(reviewed) as connection:
        assert isinstance(connection, sqlite3.Connection)
        assert len(cleaned_labels(connection, reviewed, store.get_run(connection, "run1"))) == 4
