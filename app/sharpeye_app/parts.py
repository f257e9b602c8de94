"""Pieces that several pages share."""

import json
import re
from collections.abc import Callable
from typing import Any

import streamlit as st

from sharpeye.config import digest
from sharpeye.errors import InputError
from sharpeye.files import replacing
from sharpeye.runs.reports import Report
from sharpeye.runs.review import Review
from sharpeye.runs.store import RunRow
from sharpeye_app.readers import review, reviewable_runs


def plain(text: str) -> str:
    """Text for Streamlit's labels and messages, with nothing in it taken for Markdown."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:])", r"\\\1", text)


# Options of the command line, as messages of the engine name them, in the words of the pages.
PAGE_WORDS = (
    ("--validation share:0.1", "“A share of the training labels can be trusted”"),
    ("--validation SPEC", "“Another source of clean images”"),
    ("--validation", "“Clean validation split”"),
    ("--image-root", "“Folder of the images”"),
    ("--path-column", "“Image path column”"),
    ("--true-label-column", "“True label column”"),
    ("--label-column", "“Label column”"),
    ("--limit", "“Use at most this many images”"),
    ("--torchvision-root", "“Folder of torchvision's files”"),
    ("--model", "“Model”"),
    ("--weights", "“Weights”"),
    ("--tune", "“Train”"),
    ("--damping", "“Damping”"),
    ("--curvature", "“Curvature”"),
    ("--optimizer", "“Validation optimizer”"),
    ("--parameters", "“Influence over”"),
    ("--method", "“Methods”"),
    ("--device", "“Device”"),
    ("--cluster", "“Ray cluster”"),
)


def in_page_words(message: str) -> str:
    """A message of the engine for a page: options as the page calls them, nothing taken for Markdown."""
    for option, words in PAGE_WORDS:
        message = re.sub(rf"{re.escape(option)}(?![\w-])", words, message)
    return plain(message)


def address(**values: str) -> None:
    """Write values into the page's address.

    Only where they differ, since every write is a step of the Back button.
    """
    for name, value in values.items():
        if st.query_params.get(name) != value:
            st.query_params[name] = value


def chosen_review() -> Review:
    """Let the user choose a run that has scores; the page ends here, with what to do, where there is none."""
    runs = reviewable_runs()
    if not runs:
        st.info(
            "No run has scores yet. Start one on the Run page; its suspects appear here as soon as they are "
            "scored."
        )
        st.page_link("views/run.py", label="Go to Run", icon=":material/play_circle:")
        st.stop()
    run = chosen_run(runs, "chosen_run")
    try:
        return review(run)
    except InputError as error:
        st.error(plain(str(error)))
        st.stop()


def chosen_run(runs: list[RunRow], key: str) -> str:
    """Let the user choose one of some runs; its id. Where a link leads to none of them, the page ends here.

    Args:
        runs: to choose from.
        key: under which the session keeps the choice.
    """
    titles = {row.id: row.title for row in runs}
    # The run is kept while the user goes from page to page, and in the address, so that a link brings it
    # back.
    asked = st.query_params.get("run") or st.session_state.get(key)
    known = [run for run in titles if asked and run.startswith(asked)]
    if "run" in st.query_params and not known:
        st.error(
            f"This link leads to run {plain(str(asked))}, which is not here, was deleted, or has no scores "
            "yet."
        )
        if st.button("Show the latest run instead"):
            st.query_params.clear()
            st.session_state.pop(key, None)
            st.rerun()
        st.stop()
    run = st.selectbox(
        "Run",
        list(titles),
        index=list(titles).index(known[0]) if known else 0,
        format_func=titles.__getitem__,
        label_visibility="collapsed",
    )
    address(run=run)
    st.session_state[key] = run
    return run


@st.fragment(run_every=0.5)
def wait_for_report(read: Callable[[], Report[Any] | None], title: str) -> None:
    """Watch a report until it is there, or failed.

    Args:
        read: reads it as it stands.
        title: what is computed, for people.
    """
    report = read()
    if report is None or report.state != "running":
        st.rerun()
    share = report.done / max(report.total, 1)
    st.progress(min(share, 1.0), text=f"{title}: {report.stage}")


def keep_selection(review: Review, rows: list[int]) -> str:
    """Write chosen rows beside the run, so that the address of the review restores them; their key."""
    key = digest(rows)
    path = review.folder.selection(key)
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(rows))
    return key
