"""The review grid: cards ranked by influence, driven by the keyboard, with the evidence on the image in focus beside it.

Decisions go straight from the browser to the store (see app.routes); Streamlit hears only of page turns.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

_here = Path(__file__).parent
_mount = st.components.v2.component(
    "sharpeye_gallery",
    html=(_here / "gallery.html").read_text(),
    css=(_here / "gallery.css").read_text(),
    js=(_here / "gallery.js").read_text(),
)


def gallery(data: dict[str, Any], key: str, on_turn: Callable[[], None]) -> Any:
    """Show a page of cards.

    Args:
        data: `run`, `classes`, `seen`, `page`, `pages`, `summary`, and `cards`, each with its `row`, `picture`, `id`, `given`,
            `suggested`, `top` (share of the images at least as suspicious, in percent), `confidence`, `wrong`, `truth`,
            `verdict` and `label`.
        key: of the component in the session; its `turn` is then 1 or −1.
        on_turn: called when the user turns the page.
    """
    return _mount(data=data, key=key, on_turn_change=on_turn)
