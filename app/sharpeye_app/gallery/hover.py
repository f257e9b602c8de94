"""The image under the pointer, shown beside it while it moves over the map."""

from pathlib import Path

import streamlit as st

_mount = st.components.v2.component(
    "sharpeye_hover",
    html="<span></span>",
    js=Path(__file__).with_name("hover.js").read_text(),
    isolate_styles=False,
)


def hover_picture(run: str) -> None:
    """Show a run's images over the page's plot, whose points carry their row of the run's scores as
    customdata."""
    _mount(data={"run": run}, key="hover")
