"""The form of a run on text: where the examples are, what they hold, and which model reads them."""

from pathlib import Path

import pandas as pd
import streamlit as st

from sharpeye.errors import InputError
from sharpeye.files import file_stamp
from sharpeye.text.config import TextConfig
from sharpeye.text.examples import TextExamples, read_examples
from sharpeye.text.inspection import TextInspection, inspect_examples
from sharpeye_app.data_plots import class_counts
from sharpeye_app.parts import in_page_words, plain
from sharpeye_app.roots import check_place
from sharpeye_app.source_form import PREVIEW_BYTES, ask_path
from sharpeye_app.submission import submit_text

SHOWN, PROMPT_END = 50, 80
READ = (
    "A table (JSON lines, CSV, TSV or Parquet) with a `prompt` and a `completion`; or `prompt` and `text`; "
    "or `messages`. An `id` and a `class` may be there."
)


def ask_tables() -> tuple[str, str]:
    """Where the training examples are, and the trusted ones; empty where not said."""
    train = ask_path("Training examples", "text-train", "/data/train.jsonl", READ)
    check = ask_path("Trusted examples", "text-check", "/data/trusted.jsonl", "Empty: a tenth of the above.")
    return train, check


def show_tables(train: str, check: str) -> None:
    """What the tables hold, and the choice of a model to start with."""
    if not train:
        st.info(
            "Say at the left where the training examples are. Sharpeye then finds which of them taught a "
            "language model what it says, and which have a completion that does not fit."
        )
        return
    try:
        paths = [path for path in (train, check) if path]
        for path in paths:
            check_place(path)
        large = any(stamp_of(path)[1] > PREVIEW_BYTES for path in paths)
        st.subheader(plain(Path(train).name))
        if large:
            st.info("A large table: it is read when the run starts.")
            ask_run(train, check)
            return
        training, trusted = examples_of(train), examples_of(check) if check else None
        found = inspect_examples(training, trusted)
        show_facts(training, trusted, found)
        ask_run(train, check)
        show_examples(training, found)
    except InputError as error:
        st.error(in_page_words(str(error)))


def examples_of(path: str) -> TextExamples:
    """The examples of a table.

    Raises:
        InputError: it cannot be used.
    """
    return _examples(path, stamp_of(path))


def stamp_of(path: str) -> tuple[str, int, int]:
    """What changes when a file does; raises InputError where a path is none."""
    try:
        return file_stamp(Path(path).expanduser())
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


@st.cache_resource(max_entries=4, show_spinner="Reading the table…")
def _examples(path: str, changed: tuple[str, int, int]) -> TextExamples:
    return read_examples(Path(path).expanduser())


def show_facts(training: TextExamples, trusted: TextExamples | None, found: TextInspection) -> None:
    """Counts, and what stands there twice."""
    facts = {
        "training examples": f"{len(training):,}",
        "classes": f"{len(found.classes):,}" if len(found.classes) else "–",
        "trusted examples": "a tenth of them" if trusted is None else f"{len(trusted):,}",
    }
    for column, (title, value) in zip(st.columns(len(facts)), facts.items(), strict=True):
        column.metric(title, value)
    for note in (*training.notes, *(trusted.notes if trusted else ())):
        st.warning(plain(note))
    counted = {
        "with the prompt and completion of an earlier one": found.repeated,
        "whose prompt also has another completion": found.disagreeing,
    }
    said = [f":gray-badge[{count:,} {what}]" for what, count in counted.items() if count]
    if said:
        st.markdown("Training examples " + " ".join(said))
    if found.shared:
        st.warning(
            f"{found.shared:,} trusted examples have a prompt that is a training prompt, too: their own copy "
            "will have the most influence on them."
        )


def ask_run(train: str, check: str) -> None:
    """Choose a model, and start."""
    model = ask_path(
        "Language model",
        "text-model",
        "/models/SmolLM2-135M",
        "A folder of Hugging Face or a .gguf file; small ones run on a CPU.",
    )
    first, second = st.columns(2)
    epochs = first.number_input("Epochs on the training examples", 0, 100, TextConfig.epochs)
    seed = second.number_input("Seed", 0, 2**31 - 1, 0, key="text-seed")
    if not st.button("Start", type="primary", icon=":material/play_arrow:", key="text-start"):
        return
    config = TextConfig(train, check or "share:0.1", model, epochs=int(epochs), seed=int(seed))
    st.switch_page("views/text.py", query_params={"run": submit_text(config)})


def show_examples(training: TextExamples, found: TextInspection) -> None:
    """Their classes, and the first of them."""
    if len(found.classes):
        counts = {str(title): tuple(found.classes[title]) for title in found.classes}
        plot = class_counts(tuple(found.classes.index), counts, "examples")
        st.plotly_chart(plot, alt="Examples per class")
    shown = slice(0, SHOWN)
    # Prompts often begin alike.
    ends = [prompt.strip()[-PROMPT_END:] for prompt in training.prompts[shown]]
    rows = {"prompt, its end": ends, "completion": training.completions[shown]}
    if training.classes:
        rows["class"] = training.classes[shown]
    st.dataframe(pd.DataFrame(rows), hide_index=True, height=260)
