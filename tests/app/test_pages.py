"""Every page's logic, without a browser."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import sharpeye_app
from sharpeye.config import PHOTOGRAPHS, RunConfig
from sharpeye.data.findings import CONFLICT, DARK, DUPLICATE
from sharpeye.runs.decisions import Decision, current_decisions, decide
from sharpeye.runs.export import EXPORTED_FILES, export, exported_content
from sharpeye.runs.inspection import InspectedSplit, Inspection
from sharpeye.runs.peers import PEERS
from sharpeye.runs.reports import write_report
from sharpeye.runs.review import Review
from sharpeye.runs.store import get_run, register_dataset, store, submit
from sharpeye.runs.workspace import Workspace
from sharpeye_app import reviewer
from sharpeye_app.parts import in_page_words
from sharpeye_app.readers import workspace
from tests.app.conftest import forget
from tests.app.synthetic import write_figures

MAIN = Path(sharpeye_app.__file__).with_name("main.py")
PAGES = ("data", "run", "review", "team", "map", "diagnostics", "compare", "export")


def opened(page: str, **query: str) -> AppTest:
    at = AppTest.from_file(str(MAIN), default_timeout=20)
    at.session_state["reviewer"] = "ann"
    at.run()
    for key, value in query.items():
        at.query_params[key] = value
    at.switch_page(f"views/{page}.py").run()
    assert not at.exception, at.exception
    return at


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("data", "Choose a source"),
        ("run", "Choose images on the Data page first"),
        ("review", "No run has scores yet"),
        ("map", "No run has scores yet"),
        ("team", "No run has scores yet"),
        ("export", "No run has scores yet"),
        ("text", "No run on text yet"),
    ],
)
def test_an_empty_workspace_says_what_to_do(empty: Workspace, page: str, says: str) -> None:
    assert any(says in info.value for info in opened(page).info)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_a_finished_run(review: Review, page: str) -> None:
    at = opened(page)
    assert not at.error


def inspected(key: str, **known: object) -> None:
    """A report on a data set of two classes, as the engine writes it."""
    folder = workspace().inspection(key)
    folder.config.parent.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(RunConfig.of("photos/").to_json())
    training = InspectedSplit("photos", 40, (20, 20), "0123456789abcdef", {0: (0,), 1: (1,)})
    inspection = Inspection(("ant", "bee"), 400, PHOTOGRAPHS, False, {}, {}, (), (), training)
    write_report(folder, lambda advance: replace(inspection, **known))  # type: ignore[arg-type]


def test_data_counts_what_is_wrong_with_pictures_and_shows_conflicts(empty: Workspace) -> None:
    inspected("0a1b", findings={CONFLICT: 2, DUPLICATE: 5, DARK: 0}, conflicts=(0, 3))
    at = opened("data", inspection="0a1b")
    shown = " ".join(text.value for text in at.markdown)
    assert "5 near-duplicate" in shown
    assert "dark" not in shown
    assert any("2 images show a picture that also has another label" in one.value for one in at.warning)


def test_messages_speak_of_the_page() -> None:
    said = in_page_words("no column 'x'; choose one with --label-column, or --validation share:0.1; --labels")
    assert "“Label column”" in said
    assert "“A share of the training labels can be trusted”" in said
    assert "labels" in said.replace("\\", "")[-8:]


def test_a_model_that_nobody_knows_is_refused_on_the_page(empty: Workspace) -> None:
    inspected("0a1b")
    assert not opened("run").error
    # The test driver knows no boxes that take other words than their options: as if it had been typed before.
    at = AppTest.from_file(str(MAIN), default_timeout=20).run()
    at.session_state["model"] = "lenet"
    at.switch_page("views/run.py").run()
    assert not at.exception
    assert "unknown; choose one of" in at.error[0].value.replace("\\", "")


def test_filters_in_the_address_restore_the_view(review: Review) -> None:
    at = opened("review", given="class 3", status="open", sort="P(wrong)")
    assert at.selectbox(key="given").value == "class 3"
    assert at.session_state["rows"].tolist() == sorted(
        (row for row in range(len(review)) if review.given[row] == 3),
        key=lambda row: (-review.wrong[row], review.rank[row]),
    )
    at.selectbox(key="given").set_value(None).run()
    assert len(at.session_state["rows"]) == len(review)


def test_only_changes_in_the_address_restores_the_view(review: Review) -> None:
    at = opened("review", differing="true", size="30")
    assert at.toggle(key="differing").value
    assert set(at.session_state["rows"]) == set(np.flatnonzero(review.given != review.suggested))


def test_diagnostics_offer_the_figures_and_show_them(review: Review) -> None:
    at = opened("diagnostics")
    assert any("without the figures" in info.value for info in at.info)
    write_figures(workspace(), review.run)
    at = opened("diagnostics")
    titles = [title.value for title in at.subheader]
    assert [title.split(":")[0] for title in titles] == [
        "Which classes turn into which",
        "Figure 2",
        "Figure 3a",
        "Figure 3b",
        "The loss landscape",
    ]
    for measure in ("sharpness", "loss"):
        at.segmented_control(key="measure").set_value(measure).run()
        assert not at.exception


def test_text_is_read_again_when_its_file_changes(empty: Workspace, tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    at = opened("data")
    at.selectbox(key="kind").set_value("text").run()
    for count in (3, 5):
        table.write_text("prompt,completion\n" + "a,b\n" * count)
        at.text_input(key="text-train").set_value(str(table)).run()
        assert not at.exception
        assert at.metric[0].value == str(count)
    assert any("4 with the prompt and completion of an earlier one" in line.value for line in at.markdown)


@pytest.mark.parametrize(
    ("path", "says"),
    [("~nobody-here/train.jsonl", "home"), ("/not/there.jsonl", "there"), ("a\0b.jsonl", "null")],
)
def test_text_that_cannot_be_read_is_one_line(empty: Workspace, path: str, says: str) -> None:
    at = opened("data")
    at.selectbox(key="kind").set_value("text").run()
    at.text_input(key="text-train").set_value(path).run()
    assert not at.exception
    assert says in at.error[0].value


def test_figures_are_shown_over_seeds(review: Review) -> None:
    write_figures(workspace(), review.run)
    at = opened("diagnostics")
    assert any("two more seeds" in button.label for button in at.button)
    other = "0ther5eed000"
    shutil.copytree(workspace().run(review.run).root, workspace().run(other).root)
    with store(workspace()) as connection:
        row = get_run(connection, review.run)
        submit(connection, other, replace(row.run_config(), seed=1), row.dataset)
    at = opened("diagnostics")
    assert at.toggle(key="over-seeds").label == "Means over the seeds 0, 1"
    assert any("from 0.600 ± 0.000 to 0.700 ± 0.000" in caption.value for caption in at.caption)
    at.toggle(key="over-seeds").set_value(False).run()
    assert any("from 0.600 to 0.700" in caption.value for caption in at.caption)


def test_compare_names_the_best_method_and_its_disagreements(review: Review) -> None:
    at = opened("compare")
    table = at.dataframe[0].value
    assert table["method"].tolist() == ["fvm", "val_loss"]
    write_figures(workspace(), review.run)
    at = opened("compare")
    assert any("`val_loss` seems to rank clearly better than `fvm`" in info.value for info in at.info)
    assert any(button.label == "Rank by val_loss instead" for button in at.button)
    at.selectbox[2].set_value("fvm").run()
    assert any("two different methods" in info.value for info in at.info)


def test_a_link_to_a_run_that_is_gone_shows_no_other_one(review: Review) -> None:
    at = opened("review", run="abcdef")
    assert any("abcdef" in error.value for error in at.error)
    assert "rows" not in at.session_state
    at.button[0].click().run()
    assert len(at.session_state["rows"]) == len(review)


def test_a_filter_that_nothing_passes(review: Review) -> None:
    at = opened("review")
    at.selectbox(key="status").set_value("skip").run()
    assert any("No image matches" in info.value for info in at.info)


def test_in_an_empty_view_there_is_nothing_to_accept(review: Review) -> None:
    at = opened("review")
    at.selectbox(key="status").set_value("skip").run()
    next(button for button in at.button if button.label == "Accept many…").click().run()
    assert next(button for button in at.button if button.label == "Accept 0 suggestions").disabled


def test_a_selection_that_is_gone_or_made_up(review: Review) -> None:
    at = opened("review", selection="../../etc/passwd")
    assert len(at.session_state["rows"]) == len(review)


def test_decisions_made_before_the_files_changed_can_be_brought_over(review: Review) -> None:
    fits, relabelled, gone, decided = (
        Decision(str(review.ids[row]), "keep", review.classes[review.given[row]], None) for row in range(4)
    )
    with store(workspace()) as connection:
        register_dataset(connection, "before", "synthetic", {})
        other = replace(relabelled, from_label=review.classes[review.given[1] - 1])
        decide(connection, "before", "run", "me", [fits, other, replace(gone, image="gone.png"), decided])
        review.decide(connection, [decided], "ann")
    forget()
    at = opened("review")
    assert any(info.value.endswith("open here: 1.") for info in at.info)
    next(button for button in at.button if button.label == "Bring them over").click().run()
    assert not any("open here" in info.value for info in at.info)
    with store(workspace()) as connection:
        assert set(current_decisions(connection, review.dataset)["image"]) == {fits.image, decided.image}


def test_export_counts_decisions(review: Review) -> None:
    with store(workspace()) as connection:
        changing = [row for row in range(len(review)) if review.suggested[row] != review.given[row]][:3]
        review.decide(connection, [review.decision(row, "accept") for row in changing], "ann")
    metrics = {metric.label: metric.value for metric in opened("export").metric}
    assert metrics["Decided"] == "3"
    assert metrics["Labels that change"] == "3"


def test_export_offers_every_file_that_the_command_writes(review: Review, tmp_path: Path) -> None:
    at = opened("export")
    offered = [button.label for button in at.get("download_button")]
    assert offered == [*(one.title for one in (*EXPORTED_FILES, *PEERS.values())), "Report, HTML"]
    with store(workspace()) as connection:
        export(connection, workspace(), get_run(connection, review.run), tmp_path / "out", False)
        for file in EXPORTED_FILES:
            content = exported_content(connection, workspace(), get_run(connection, review.run), file)
            assert (tmp_path / "out" / file.name).read_bytes() == content


@pytest.mark.parametrize(
    ("person", "name"),
    [
        ({}, "ann"),
        ({"is_logged_in": False}, None),
        ({"is_logged_in": False, "email": "eve@x.org"}, None),
        ({"is_logged_in": True, "email": "zoe@x.org", "name": "Zoe"}, "zoe@x.org"),
        ({"is_logged_in": True, "sub": "1a2b"}, "1a2b"),
        ({"is_logged_in": True}, None),
    ],
)
def test_where_there_are_accounts_only_their_names_count(
    monkeypatch: pytest.MonkeyPatch, person: dict[str, object], name: str | None
) -> None:
    monkeypatch.setattr(reviewer.st, "user", SimpleNamespace(to_dict=lambda: person))
    monkeypatch.setattr(reviewer.st, "session_state", {"reviewer": "ann"})
    monkeypatch.setattr(reviewer.st, "context", SimpleNamespace(cookies={reviewer.COOKIE: "bob"}))
    assert reviewer.known_name() == name


def test_the_app_imports_no_torch() -> None:
    heavy = ("torch", "torchvision", "umap", "sklearn")
    command = (
        "import sys, sharpeye_app.server, sharpeye_app.views; "
        f"assert not {{m.split('.')[0] for m in sys.modules}} & set({heavy})"
    )
    subprocess.run([sys.executable, "-c", command], check=True)
