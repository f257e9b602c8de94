"""The review grid: cards ranked by influence, driven by the keyboard, with the evidence on the image in focus
beside it.

Decisions go straight from the browser to the store (see sharpeye_app.routes); Streamlit is told
only of page turns.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from sharpeye.runs.decisions import VERDICTS
from sharpeye.runs.review import ReviewSummary

_HERE = Path(__file__).parent
# A component is one script, so the modules that the gallery imports are put before it.
_MODULES = ("elements.mjs", "queue.mjs", "commands.mjs", "evidence.mjs", "dialogs.mjs")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[a-z]+\.mjs";\n', re.MULTILINE)


def component_script() -> str:
    """The gallery's module with those that it imports inside."""
    modules = [re.sub(r"^export ", "", (_HERE / name).read_text(), flags=re.MULTILINE) for name in _MODULES]
    return _IMPORT.sub("", "\n".join([*modules, (_HERE / "gallery.js").read_text()]))


_mount = st.components.v2.component(
    "sharpeye_gallery",
    html=(_HERE / "gallery.html").read_text(),
    css=(_HERE / "gallery.css").read_text(),
    js=component_script(),
)


@dataclass(frozen=True)
class Card:
    """One image of a page.

    Attributes:
        row: of the run's scores.
        picture: its address.
        id: of the image.
        given: class number of the given label.
        suggested: class number of the suggestion.
        rank: 1 for the most suspicious.
        confidence: of the suggestion.
        wrong: P(given label is wrong).
        truth: class number of the true label; −1 where it is unknown or not shown.
        verdict: that holds, or `open`.
        label: class number that it gives, −1 for none.
        findings: what is wrong with the image apart from its label.
        same: rows of other images that the card stands for, too.
    """

    row: int
    picture: str
    id: str
    given: int
    suggested: int
    rank: int
    confidence: float
    wrong: float
    truth: int
    verdict: str
    label: int
    findings: tuple[str, ...]
    same: tuple[int, ...]


@dataclass(frozen=True)
class Page:
    """A page of cards.

    Attributes:
        run: whose images these are.
        images: how many it has.
        classes: their names.
        who: looks at them.
        signature: of that name, see `sharpeye_app.reviewer`.
        lead: whether that person leads.
        blind: whether these are second opinions.
        head: sequence number of the last action taken in.
        page: number of this page, from 1.
        pages: how many there are.
        cards: of this page.
        summary: how far the review is.
    """

    run: str
    images: int
    classes: list[str]
    who: str
    signature: str
    lead: bool
    blind: bool
    head: int
    page: int
    pages: int
    cards: list[Card]
    summary: ReviewSummary


def gallery(page: Page, key: str, on_turn: Callable[[], None]) -> Any:
    """Show a page of cards.

    Args:
        page: what to show.
        key: of the component in the session; its `turn` is then 1 or −1.
        on_turn: called when the user turns the page.
    """
    verdicts = {name: asdict(verdict) for name, verdict in VERDICTS.items()}
    return _mount(data={**asdict(page), "verdicts": verdicts}, key=key, on_turn_change=on_turn)
