"""Review: the suspects, most suspicious first, to accept, keep or relabel."""

import json
from functools import partial

import numpy as np
import streamlit as st

from sharpeye.data.findings import CONFLICT, DUPLICATE, FINDINGS
from sharpeye.runs.review import STATES, Review
from sharpeye.runs.store import store
from sharpeye_app import data_plots
from sharpeye_app.filters import STATUSES, Filters, acceptable, matching
from sharpeye_app.gallery import Card, Page, gallery
from sharpeye_app.parts import address, chosen_review
from sharpeye_app.pictures import picture_url
from sharpeye_app.readers import review as read_review
from sharpeye_app.readers import workspace

PAGE_SIZES = (30, 60, 120)
SORTS = {
    "": "suspicion (the run's ranking)",
    "wrong": "P(wrong)",
    "confidence": "confidence of the suggestion",
}


def ask_filters(review: Review) -> Filters:
    """The filter row; every choice is in the address, so that a link restores the view."""
    sorts = {**SORTS, **{name: name for name in review.methods if name != review.result.ranked_by}}
    columns = st.columns([2, 2, 1.6, 2.2, 2.4, 2.4], vertical_alignment="bottom")
    first, second, third, fourth, fifth, sixth = columns
    # By name: in another run the same number may be another class.
    given = first.selectbox(
        "Given label", review.classes, index=None, key="given", bind="query-params", placeholder="any"
    )
    suggested = second.selectbox(
        "Suggested label", review.classes, index=None, key="suggested", bind="query-params", placeholder="any"
    )
    status = third.selectbox("Status", STATUSES, key="status", bind="query-params")
    sort = fourth.selectbox(
        "Sort by", list(sorts), format_func=sorts.__getitem__, key="sort", bind="query-params"
    )
    counts = {name: int(images.sum()) for name, images in review.findings.items()}
    finding = fifth.selectbox(
        "Picture",
        [name for name, count in counts.items() if count],
        index=None,
        key="finding",
        bind="query-params",
        placeholder="any",
        format_func=lambda name: f"{name} ({counts[name]:,})",
        help="; ".join(f"{name}: {meaning}" for name, meaning in FINDINGS.items()),
    )
    low, high = sixth.slider(
        "Suspicion, percentile", 0.0, 100.0, (0.0, 100.0), key="suspicion", bind="query-params"
    )
    chosen = None
    if (selection := st.query_params.get("selection")) and selection.isalnum():
        path = review.folder.selection(selection)
        if path.exists():
            chosen = tuple(json.loads(path.read_text()))
            left, right = st.columns([5, 1], vertical_alignment="center")
            left.info(f"Only the {len(chosen):,} images chosen on the map, or on Compare.")
            if right.button("Show all images"):
                del st.query_params["selection"]
                st.rerun()
    before, after = (None if name is None else review.classes.index(name) for name in (given, suggested))
    return Filters(
        before, after, status, (low, high), st.session_state["differing"], finding, sort or "", chosen
    )


def frozen_rows(review: Review, filters: Filters) -> np.ndarray:
    """Rows of this view as they were when its filters were set, so that a decided card does not jump away."""
    wanted = (review.run, filters)
    if st.session_state.get("view") != wanted:
        changed = "view" in st.session_state
        st.session_state["view"], st.session_state["rows"] = wanted, matching(review, filters)
        if changed:
            st.session_state["page"] = 1
    return st.session_state["rows"]


def page_of(rows: np.ndarray, size: int) -> tuple[int, int, np.ndarray]:
    """Number of the page that is shown, how many there are, and the rows on it."""
    pages = max(1, -(-len(rows) // size))
    page = min(max(1, st.session_state.get("page", 1)), pages)
    return page, pages, rows[(page - 1) * size : page * size]


@st.dialog("Accept many suggestions")
def accept_many(run: str, page_rows: np.ndarray, view_rows: np.ndarray) -> None:
    """Accept the suggestions of a page, or of the whole view above a confidence.

    One undo takes them all back.
    """
    review = read_review(run)
    scope = st.radio("Which", ["This page", "All pages of this view"], horizontal=True)
    confidence = st.slider("At least this sure, in percent", 0, 100, 90) / 100
    rows = acceptable(review, page_rows if scope == "This page" else view_rows, confidence)
    st.write(
        f"**{len(rows):,}** open images would get the label suggested for them. Of these, about "
        f"{float((1 - review.confidence[rows]).sum()):,.0f} suggestions are expected to be wrong. One undo "
        "takes them all back."
    )
    if st.button(f"Accept {len(rows):,} suggestions", type="primary", disabled=len(rows) == 0):
        with store(workspace()) as connection:
            review.decide(connection, [review.decision(row, "accept") for row in rows])
        st.toast(f"Accepted {len(rows):,} suggestions; U takes them back.")
        st.rerun()


def bring_over(review: Review) -> None:
    """Offer the decisions made on another state of the source, where they still fit."""
    earlier = review.still_fitting()
    if not earlier:
        return
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.info(
        "Decisions made when this source had other files or columns, on images that are still there under "
        "the same label and "
        f"open here: {len(earlier):,}."
    )
    if right.button("Bring them over", help="One undo takes them all back."):
        with store(workspace()) as connection:
            review.decide(connection, earlier)
        st.toast(f"Decisions brought over: {len(earlier):,}. U takes them back.")
        st.rerun()


def pick_pair(classes: list[str]) -> None:
    """A cell of the confusion matrix was clicked: show its images, where there are any."""
    points = st.session_state["confusion"]["selection"]["points"]
    if points and points[0]["customdata"][2]:
        st.session_state["given"], st.session_state["suggested"] = (
            classes[number] for number in points[0]["customdata"][:2]
        )


def turn() -> None:
    """The gallery asked for another page."""
    st.session_state["page"] = max(
        1, st.session_state.get("page", 1) + int(st.session_state["gallery"]["turn"] or 0)
    )


def shown_findings(review: Review, row: int) -> tuple[str, ...]:
    """What is wrong with an image apart from its label; a conflict says that it stands there twice."""
    names = tuple(name for name, images in review.findings.items() if images[row])
    return tuple(name for name in names if name != DUPLICATE or CONFLICT not in names)


def show_page(run: str, rows: np.ndarray, size: int) -> None:
    """One page of cards; runs alone when a page is turned, so it reads what is decided by then."""
    review = read_review(run)
    page, pages, shown = page_of(rows, size)
    st.session_state["page"] = st.session_state["page_in_address"] = page
    address(page=str(page))
    cards = [
        Card(
            row=int(row),
            picture=picture_url(review.decoded, int(review.image_row[row])),
            id=str(review.ids[row]),
            given=int(review.given[row]),
            suggested=int(review.suggested[row]),
            top=100.0 * int(review.rank[row]) / len(review),
            confidence=float(review.confidence[row]),
            wrong=float(review.wrong[row]),
            truth=-1
            if review.truth is None or not st.session_state.get("benchmark")
            else int(review.truth[row]),
            verdict=STATES[review.verdict[row]],
            label=int(review.label[row]),
            findings=shown_findings(review, int(row)),
        )
        for row in shown
    ]
    content = Page(review.run, review.classes, review.head, page, pages, cards, review.summary())
    gallery(content, "gallery", turn)


asked_page = st.query_params.get("page", "")
if asked_page.isdigit() and int(asked_page) != st.session_state.get("page_in_address"):
    st.session_state["page"] = int(asked_page)  # a link, or the browser's Back button
head, tools = st.columns([2, 5], vertical_alignment="center")
with head:
    review = chosen_review()
bar = tools.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center")
with bar:
    size = st.selectbox(
        "Cards a page",
        PAGE_SIZES,
        index=1,
        key="size",
        bind="query-params",
        format_func="{} a page".format,
        width=140,
        label_visibility="collapsed",
    )
    st.toggle(
        "Only changes",
        key="differing",
        bind="query-params",
        help="Only images whose suggestion is not the given label",
    )
    if review.truth is not None:
        st.toggle(
            "True labels", key="benchmark", bind="query-params", help="Show the true labels of this benchmark"
        )
filters = ask_filters(review)
bring_over(review)
rows = frozen_rows(review, filters)
with bar:
    if st.button("Accept many…", icon=":material/done_all:"):
        accept_many(review.run, page_of(rows, size)[2], rows)
    if st.button(
        "Refresh", icon=":material/refresh:", help="Apply the filters again, to what is decided by now"
    ):
        st.session_state.pop("view")
        st.rerun()
confused = st.expander(
    f"{len(rows):,} images in this view · which classes are confused",
    icon=":material/grid_on:",
    key="confused",
    bind="query-params",
)
if confused.open:  # plotly is heavy, and few reviews need it
    with confused:
        figure = data_plots.confusion(review.classes, review.given, review.suggested, "given", "suggested")
        st.plotly_chart(
            figure,
            key="confusion",
            on_select=partial(pick_pair, review.classes),
            selection_mode="points",
            alt="Given against suggested labels",
        )
        st.caption("Click a cell to see those images.")
if len(rows) == 0:
    st.info("No image matches these filters. Widen them to see more.")
else:
    st.fragment(show_page)(review.run, rows, size)
