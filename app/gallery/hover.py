"""The image under the pointer, shown beside it while it moves over the map."""

from pathlib import Path

import streamlit as st

_mount = st.components.v2.component(
    "sharpeye_hover", html="<span></span>", js=Path(__file__).with_name("hover.js").read_text(), isolate_styles=False
)


def hover_picture(decoded: str) -> None:
    """Show images of a decoded dataset over the page's plot; its points carry (row, image row) as customdata."""
    _mount(data={"decoded": decoded}, key="hover")
