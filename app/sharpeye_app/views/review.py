"""Review: the suspects, most suspicious first, to accept, keep or relabel."""

import json
from functools import partial

import numpy as np
import streamlit as st

from sharpeye.data.findings import CONFLICT, DUPLICATE, FINDINGS
from sharpeye.runs.review import Review
from sharpeye.runs.store import store
from sharpeye.runs.team import assigned, disagreements
from sharpeye_app import data_plots
from sharpeye_app.filters import STATUSES, Filters, acceptable, matching, same_picture
from sharpeye_app.gallery import Card, Page, gallery
from sharpeye_app.parts import address, chosen_review
from sharpeye_app.pictures import picture_url
from sharpeye_app.readers import review as read_review
from sharpeye_app.readers import workspace
from sharpeye_app.reviewer import ask_name, has_accounts, reviewer, role_of, signature
from sharpeye_app.routes import state_of

SECOND_OPINIONS, DISAGREEMENTS = "second opinions for me", "disagreements"
QUEUES = ("all images", "assigned to me", SECOND_OPINIONS, DISAGREEMENTS)
QUEUE_HELP = (
    "Images are assigned on the Team page. Disagreements: a second opinion differs, and nobody decided again "
    "since."
)
PAGE_SIZES = (30, 60, 120)
SORTS = {
    "": "suspicion (the run's ranking)",
    "wrong": "P(wrong)",
    "confidence": "confidence of the suggestion",
}


def ask_filters(review: Review, queue: str, find: str, who: str) -> Filters:
    """The filter row; every choice is in the address, so that a link restores the view."""
    sorts = {**SORTS, **{name: name for name in review.methods if name != review.result.ranked_by}}
    first, second, third, fourth, fifth = st.columns([2, 2, 1.6, 2.2, 1], vertical_alignment="bottom")
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
    with fifth.popover("More", icon=":material/tune:", width="stretch"):
        counts = {name: int(images.sum()) for name, images in review.findings.items()}
        finding = st.selectbox(
            "Picture",
            [name for name, count in counts.items() if count],
            index=None,
            key="finding",
            bind="query-params",
            placeholder="any",
            format_func=lambda name: f"{name} ({counts[name]:,})",
            help="; ".join(f"{name}: {meaning}" for name, meaning in FINDINGS.items()),
        )
        low, high = st.slider(
            "Suspicion, percentile", 0.0, 100.0, (0.0, 100.0), key="suspicion", bind="query-params"
        )
        st.toggle(
            "Only changes",
            key="differing",
            bind="query-params",
            help="Only images whose suggestion is not the given label",
        )
        st.toggle(
            "Group duplicates",
            key="grouped",
            bind="query-params",
            help="Pictures that show the same, under the same label, on one card: decided together",
        )
        if review.truth is not None:
            st.toggle(
                "True labels",
                key="benchmark",
                bind="query-params",
                help="Show the true labels of this benchmark",
            )
        st.selectbox(
            "Cards a page",
            PAGE_SIZES,
            index=1,
            key="size",
            bind="query-params",
        )
    chosen = rows_of_queue(review, queue, who)
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
        given=before,
        suggested=after,
        status=status,
        suspicion=(low, high),
        differing=st.session_state["differing"],
        finding=finding,
        sort=sort or "",
        find=find.strip(),
        grouped=st.session_state["grouped"],
        chosen=chosen,
    )


def rows_of_queue(review: Review, queue: str, who: str) -> tuple[int, ...] | None:
    """The rows of a queue; None for all."""
    if queue == QUEUES[0]:
        return None
    with store(workspace()) as connection:
        if queue == DISAGREEMENTS:
            images = disagreements(connection, review.dataset)
        else:
            table = assigned(connection, review.dataset)
            mine = table[(table["who"] == who) & (table["blind"] == (queue == SECOND_OPINIONS))]
            images = mine["image"].tolist()
    return tuple(sorted(review.rows_of(images).tolist()))


def frozen_rows(review: Review, filters: Filters, size: int, linked: bool) -> np.ndarray:
    """Rows of this view as they were when its filters were set, so that a decided card does not jump away.

    A new view opens at the page of its first open image, unless a link names a page.
    """
    wanted = (review.run, filters)
    if st.session_state.get("view") != wanted:
        changed = "view" in st.session_state
        rows = matching(review, filters)
        st.session_state["view"], st.session_state["rows"] = wanted, rows
        if changed or not linked:
            is_open = np.flatnonzero(review.verdict[rows] == 0)
            st.session_state["page"] = int(is_open[0]) // size + 1 if len(is_open) else 1
    return st.session_state["rows"]


def page_of(rows: np.ndarray, size: int) -> tuple[int, int, np.ndarray]:
    """Number of the page that is shown, how many there are, and the rows on it."""
    pages = max(1, -(-len(rows) // size))
    page = min(max(1, st.session_state.get("page", 1)), pages)
    return page, pages, rows[(page - 1) * size : page * size]


@st.dialog("Accept many suggestions")
def accept_many(run: str, page_rows: np.ndarray, view_rows: np.ndarray, who: str) -> None:
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
            review.decide(connection, [review.decision(row, "accept") for row in rows], who)
        st.toast(f"Accepted {len(rows):,} suggestions; U takes them back.")
        st.rerun()


def bring_over(review: Review, who: str) -> None:
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
            review.decide(connection, earlier, who)
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


def show_page(
    run: str, rows: np.ndarray, size: int, who: str, lead: bool, blind: bool, grouped: bool
) -> None:
    """One page of cards; runs alone when a page is turned, so it reads what is decided by then."""
    review = read_review(run)
    with store(workspace()) as connection:
        summary = review.summary(connection, who)
        own = review.second_opinions(connection, who) if blind else None
    page, pages, shown = page_of(rows, size)
    st.session_state["page"] = st.session_state["page_in_address"] = page
    address(page=str(page))
    states = [state_of(review, int(row), own) for row in shown]
    cards = [
        Card(
            row=int(row),
            picture=picture_url(review.decoded, int(review.image_row[row])),
            id=str(review.ids[row]),
            given=int(review.given[row]),
            suggested=int(review.suggested[row]),
            rank=int(review.rank[row]),
            confidence=float(review.confidence[row]),
            wrong=float(review.wrong[row]),
            truth=-1
            if review.truth is None or not st.session_state.get("benchmark")
            else int(review.truth[row]),
            verdict=states[number][0],
            label=states[number][1],
            findings=shown_findings(review, int(row)),
            same=tuple(same_picture(review, int(row)).tolist()) if grouped else (),
        )
        for number, row in enumerate(shown)
    ]
    content = Page(
        run=review.run,
        images=len(review),
        classes=review.classes,
        who=who,
        signature=signature(who),
        lead=lead,
        blind=blind,
        head=review.head,
        page=page,
        pages=pages,
        cards=cards,
        summary=summary,
    )
    gallery(content, "gallery", turn)


asked_page = st.query_params.get("page", "")
if asked_page.isdigit() and int(asked_page) != st.session_state.get("page_in_address"):
    st.session_state["page"] = int(asked_page)  # a link, or the browser's Back button
first, second, third, bar = st.columns([3, 2, 2.4, 3.4], vertical_alignment="bottom")
with first:
    review = chosen_review()
who = reviewer()
lead = role_of(who) == "lead"
queue = second.selectbox("Queue", QUEUES, key="queue", bind="query-params", help=QUEUE_HELP)
find = third.text_input(
    "Find", key="find", bind="query-params", placeholder="a part of the id or path", max_chars=200
)
blind = queue == SECOND_OPINIONS
filters = ask_filters(review, queue, find, who)
size = st.session_state["size"]
if blind:
    st.info(
        "Second opinions: you do not see what others decided, and your answers change nothing by themselves."
    )
bring_over(review, who)
rows = frozen_rows(review, filters, size, asked_page.isdigit())
with bar.container(horizontal=True, horizontal_alignment="right"):
    if not blind and st.button("Accept many…", icon=":material/done_all:"):
        accept_many(review.run, page_of(rows, size)[2], rows, who)
    if st.button(
        "Refresh", icon=":material/refresh:", help="Apply the filters again, to what is decided by now"
    ):
        st.session_state.pop("view")
        st.rerun()
    if not has_accounts() and st.button(who, icon=":material/person:", help="Review under another name"):
        ask_name()
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
    st.fragment(show_page)(review.run, rows, size, who, lead, blind, filters.grouped)
