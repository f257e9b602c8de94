"""Pieces that several pages share."""

import streamlit as st

from app.readers import Review, review, reviewable_runs, run_title
from engine.errors import InputError


def chosen_review() -> Review:
    """Let the user choose a run that has scores; the page ends here, with what to do, where there is none."""
    runs = reviewable_runs()
    if not runs:
        st.info("No run has scores yet. Start one on the Run page; its suspects appear here as soon as they are scored.")
        st.page_link("views/run.py", label="Go to Run", icon=":material/play_circle:")
        st.stop()
    titles = {row.id: run_title(row) for row in runs}
    # The run is kept while the user goes from page to page, and in the address, so that a link brings it back.
    asked = st.query_params.get("run") or st.session_state.get("chosen_run")
    known = [run for run in titles if asked and run.startswith(asked)]
    run = st.selectbox(
        "Run", list(titles), index=list(titles).index(known[0]) if known else 0, format_func=titles.__getitem__,
        label_visibility="collapsed",
    )  # fmt: skip
    st.query_params["run"] = run
    st.session_state["chosen_run"] = run
    try:
        return review(run)
    except InputError as error:
        st.error(str(error))
        st.stop()
