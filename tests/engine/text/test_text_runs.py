"""Runs on text through the queue: results, resumption, decisions, export, bad input."""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file

import sharpeye
from sharpeye.api import TextRun
from sharpeye.commands.text import markdown
from sharpeye.errors import InputError
from sharpeye.progress import ignore
from sharpeye.runs import store, text_minimum
from sharpeye.runs.context import Execution
from sharpeye.runs.text_minimum import prepared, stored_gradients
from sharpeye.runs.text_review import open_text_review
from sharpeye.runs.text_submission import read_splits
from sharpeye.runs.workspace import Workspace
from sharpeye.text.config import METHODS, TextConfig
from sharpeye.text.examples import TextExamples, read_examples
from sharpeye.text.inspection import inspect_examples
from sharpeye.text.language_models import EncodedExample, LanguageModel, LoraPlan, load_language_model
from sharpeye.text.model_memory import weight_count
from tests.engine.text.tiny import tiny_model, write_examples

CPU = torch.device("cpu")
FAST = {"epochs": 2, "validation_epochs": 2, "rank": 2, "samples": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    tiny_model(folder / "model")
    write_examples(folder / "train.jsonl", 40)
    write_examples(folder / "check.jsonl", 10, seed=1)
    return folder


def started(place: Path, workspace: Path, **options: object) -> TextRun:
    paths = (str(place / "train.jsonl"), str(place / "check.jsonl"), str(place / "model"))
    return sharpeye.start_text(*paths, workspace=workspace, **(FAST | options))


@pytest.fixture(scope="module")
def finished(place: Path) -> TextRun:
    run = started(place, place / "workspace", methods=METHODS, corrupt=0.2)
    run.wait(progress=False)
    return run


def test_every_method_ranks_and_quality_is_measured(finished: TextRun) -> None:
    result = finished.result
    assert list(result.methods) == list(METHODS)
    assert all(
        0 <= (method.auc or 0) <= 1 and method.recall is not None for method in result.methods.values()
    )
    assert set(result.detection) == {"self-influence", "newton", "loss"}
    # Prompts of a kind share a word with each other and with no other kind.
    assert (result.methods["bm25"].auc or 0) > 0.55
    assert "| fvm |" in markdown("sentences", [result])


def test_tables_are_consistent(finished: TextRun) -> None:
    scores = finished.scores
    assert scores["rank"].tolist() == list(range(1, 41))
    assert scores["self_influence"].is_monotonic_decreasing
    review = open_text_review(finished.workspace, finished.id)
    assert review.pairs.shape == (10, 40)
    assert (review.validation["before"] != "").all()
    found = finished.influences("check-3", 5)
    values = np.square(review.influence(3))
    assert np.square(found["influence"]).tolist() == sorted(values.tolist(), reverse=True)[:5]


def test_the_same_run_is_not_computed_twice_and_a_killed_one_ends_the_same(
    place: Path, tmp_path: Path
) -> None:
    # Long enough to be met at work.
    first = started(place, tmp_path / "one", epochs=20)
    first.wait(progress=False)
    assert started(place, tmp_path / "one", epochs=20).id == first.id
    second = started(place, tmp_path / "two", epochs=20)
    deadline = time.monotonic() + 120
    killed = False
    while time.monotonic() < deadline and not killed:
        row = second.row()
        step = row.step()
        if row.pid and step is not None and step.stage != "load":
            os.kill(row.pid, signal.SIGKILL)
            killed = True
        time.sleep(0.05)
    second.wait(progress=False)
    assert killed
    pairs = [np.load(run.workspace.run(run.id).pairs) for run in (first, second)]
    np.testing.assert_allclose(pairs[0], pairs[1], rtol=1e-5, atol=1e-6)


def test_gradients_that_were_kept_are_not_computed_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_minimum, "SHARD", 16)
    config = TextConfig(*(str(place / name) for name in ("train.jsonl", "check.jsonl", "model")), rank=2)
    execution = Execution(CPU, ignore, lambda note: None)
    context = prepared(config, Workspace(tmp_path), execution, read_splits(config))
    whole = stored_gradients(context, "start", "gradients", "training", sample=1)
    computed = []

    def gradients_of(model: LanguageModel, encoded: list[EncodedExample], *more: object) -> np.ndarray:
        computed.append(len(encoded))
        return text_minimum_gradients(model, encoded, *more)  # type: ignore[arg-type]

    text_minimum_gradients = text_minimum.gradients_of
    monkeypatch.setattr(text_minimum, "gradients_of", gradients_of)
    # As a process leaves it that was killed in the middle of the second of three files.
    kept = whole.whole(CPU)
    for table in whole.tables[1:]:
        assert isinstance(table, Path)
        table.unlink()
    again = stored_gradients(context, "start", "gradients", "training", sample=1)
    assert computed == [16, 8]
    torch.testing.assert_close(again.whole(CPU), kept, rtol=0, atol=0)


def test_a_prompt_of_one_s_own_is_answered_as_a_trusted_one(finished: TextRun) -> None:
    review = open_text_review(finished.workspace, finished.id)
    trusted = review.validation.iloc[3]
    completion, found = finished.ask(trusted["prompt"], trusted["completion"], 40)
    assert completion == trusted["completion"]
    given = found["influence"].sort_index().to_numpy()
    # The run ranks by plain fvm. Gradients are kept in half precision, and batches round as they are put.
    np.testing.assert_allclose(given, review.influence(3), rtol=0.02, atol=0.01 * np.abs(given).max())
    said, _ = finished.ask(trusted["prompt"])
    assert said == trusted["after"].strip()
    with pytest.raises(InputError, match="must say something"):
        finished.ask("  ")


def test_decisions_and_the_cleaned_file(finished: TextRun, tmp_path: Path) -> None:
    ids = finished.scores["id"].tolist()
    review = open_text_review(finished.workspace, finished.id)
    finished.decide(ids[0], "drop")
    finished.decide(ids[1], "edit", "the cat")
    finished.decide(ids[2], "keep")
    finished.decide(ids[3], "drop")
    assert finished.undo()
    assert finished.decisions.set_index("image")["verdict"].to_dict() == {
        ids[0]: "drop",
        ids[1]: "edit",
        ids[2]: "keep",
    }
    assert finished.export_text(tmp_path / "out") == 39
    rows = [json.loads(line) for line in (tmp_path / "out" / "cleaned.jsonl").read_text().splitlines()]
    said = {row["id"]: row["completion"] for row in rows}
    assert ids[0] not in said
    assert said[ids[1]] == "the cat"
    others = review.training.set_index("id")["completion"].drop([ids[0], ids[1]])
    assert {name: said[name] for name in others.index} == others.to_dict()
    assert len(pd.read_csv(tmp_path / "out" / "decisions.csv")) == 5
    for wrong in (("nobody", "drop", None), (ids[0], "relabel", None), (ids[0], "edit", "  ")):
        with pytest.raises(InputError):
            finished.decide(*wrong)


def lines(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["{"], "line 1: not JSON"),
        ([{"prompt": "a"}], "no columns of a prompt and a completion"),
        (
            [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}],
            "row 2: the completion is",
        ),
        (
            [{"prompt": "a", "completion": "b"}, {"prompt": None, "completion": "b"}],
            "row 2: 'prompt' is empty",
        ),
        ([{"prompt": "a", "text": "b c"}], "row 1: 'text' does not begin with the prompt"),
        ([{"messages": [{"role": "user", "content": "a"}]}], "row 1: messages are a list"),
        ([{"id": 1, "prompt": "a", "completion": "b"}] * 2, "the id '1' is there twice"),
        ([""], "no examples"),
    ],
)
def test_tables_that_cannot_be_used_are_named(tmp_path: Path, rows: list[object], says: str) -> None:
    path = lines(tmp_path / "bad.jsonl", *rows)
    with pytest.raises(InputError, match=says) as caught:
        read_examples(path)
    assert "bad.jsonl" in str(caught.value)


def test_chats_and_texts_with_a_prompt_are_read(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    found = read_examples(lines(tmp_path / "chat.jsonl", {"messages": chat}))
    assert (found.prompts, found.completions) == (("User: Hi\nAssistant: ",), ("Hello",))
    whole = {"prompt": "2+2 -> ", "text": "2+2 -> 4</s>", "variation": "sum"}
    found = read_examples(lines(tmp_path / "text.jsonl", whole))
    assert (found.completions, found.classes) == (("4",), ("sum",))


def test_characters_that_were_cut_apart_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "emoji.jsonl"
    lines = (
        r'{"prompt": "a \ud83d\ude00", "completion": "b \ud83d"}',
        r'{"prompt": "c", "completion": "\\ud"}',
    )
    path.write_text("\n".join(lines))
    examples = read_examples(path)
    assert examples.prompts == ("a 😀", "c")
    assert examples.completions == ("b ?", r"\ud")
    assert inspect_examples(examples, None).repeated == 0


def test_what_stands_there_twice_is_counted() -> None:
    training = TextExamples(
        ("a", "b", "c", "d"),
        ("hot", "hot", "hot", "dark"),
        ("cold", "cold", "warm", "light"),
        ("x", "x", "y", "y"),
    )
    trusted = TextExamples(("e", "f"), ("dark", "old"), ("bright", "new"), ("y", "z"))
    found = inspect_examples(training, trusted)
    assert (found.repeated, found.disagreeing, found.shared) == (1, 3, 1)
    assert found.classes.T.to_dict() == {
        "x": {"training": 2, "trusted": 0},
        "y": {"training": 2, "trusted": 1},
        "z": {"training": 0, "trusted": 1},
    }
    without = inspect_examples(TextExamples(("a",), ("hot",), ("cold",), None), None)
    assert (len(without.classes), without.shared) == (0, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"methods": ("gex",)}, "unknown; choose from"),
        ({"damping": 0.0}, "--damping"),
        ({"curvature": "dense"}, "--curvature"),
        ({"validation": "share:2"}, "expected a share"),
        ({"train": "/nowhere.jsonl"}, "nowhere.jsonl"),
        ({"corrupt": 1.5}, "--corrupt"),
    ],
)
def test_options_that_do_not_fit_are_named(
    place: Path, tmp_path: Path, options: dict[str, object], says: str
) -> None:
    paths = {"train": str(place / "train.jsonl"), "validation": str(place / "check.jsonl"), "model": "x"}
    with pytest.raises(InputError, match=says):
        sharpeye.start_text(**(paths | options), workspace=tmp_path / "workspace")  # type: ignore[arg-type]


def test_a_model_that_does_not_fit_into_memory_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = place / "model"
    count = weight_count(model)
    assert count == sum(
        weights.numel() for path in model.glob("*.safetensors") for weights in load_file(path).values()
    )
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * count - 1))
    with pytest.raises(InputError, match=rf"{count:,} weights take about .* choose a smaller model"):
        load_language_model(str(model), LoraPlan(), torch.device("cpu"), 0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * count))
    load_language_model(str(model), LoraPlan(), torch.device("cpu"), 0)


@pytest.mark.parametrize(
    ("model", "says"),
    [("nowhere.gguf", "no such file"), ("empty", "no causal language model")],
)
def test_models_that_cannot_be_read_fail_with_one_line(
    place: Path, tmp_path: Path, model: str, says: str
) -> None:
    (tmp_path / "empty").mkdir()
    paths = (str(place / "train.jsonl"), str(place / "check.jsonl"), str(tmp_path / model))
    run = sharpeye.start_text(*paths, workspace=tmp_path / "workspace")
    with pytest.raises(InputError, match=says):
        run.wait(progress=False)


def test_a_model_without_the_projections_says_so(place: Path, tmp_path: Path) -> None:
    run = started(place, tmp_path / "workspace", projections=("wings",))
    with pytest.raises(InputError, match="has no projections wings"):
        run.wait(progress=False)


def test_a_prompt_longer_than_the_context_is_cut_and_said(place: Path, tmp_path: Path) -> None:
    long = {"prompt": "cat " * 100, "completion": "dog", "class": "up"}
    short = {"prompt": "cat", "completion": "dog", "class": "up"}
    train = lines(tmp_path / "long.jsonl", long, short, short)
    paths = (str(train), str(place / "check.jsonl"), str(place / "model"))
    run = sharpeye.start_text(*paths, workspace=tmp_path / "workspace", epochs=0, validation_epochs=1)
    run.wait(progress=False)
    assert "longer than the 64 tokens" in run.row().notes


def test_configurations_come_back(place: Path) -> None:
    config = TextConfig("a.jsonl", "b.jsonl", "model", methods=("vm",), projections=("q_proj",))
    assert TextConfig.from_json(config.to_json()) == config
    with pytest.raises(InputError, match="unknown fields: wings"):
        TextConfig.from_json('{"wings": 1}')


def test_a_run_on_text_is_none_on_images(finished: TextRun) -> None:
    with store.store(finished.workspace) as connection:
        row = store.get_run(connection, finished.id)
    assert finished.id[:6] in row.title
    with pytest.raises(InputError, match="is one on text"):
        row.run_config()
    assert isinstance(sharpeye.open_run(finished.id, finished.workspace.root), TextRun)
