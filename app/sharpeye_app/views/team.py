"""Team: who reviews what, how far everybody is, and how far they agree."""

import sqlite3

import numpy as np
import pandas as pd
import streamlit as st

from sharpeye.errors import InputError
from sharpeye.runs import team
from sharpeye.runs.review import Review
from sharpeye.runs.store import store
from sharpeye_app.parts import chosen_review, plain
from sharpeye_app.readers import workspace
from sharpeye_app.reviewer import reviewer, role_of

SCHEMES = {
    "by class": "Everybody gets whole classes (by the given label).",
    "by slice": "Everybody gets a part of the ranking of its own: the first the most suspicious.",
    "in turn": "Image by image, so that everybody gets as many suspicious ones.",
}
FORMATS = {
    "images a minute": st.column_config.NumberColumn(format="%.1f"),
    "right": st.column_config.NumberColumn(
        format="percent", help="Of the known answers, how many were given"
    ),
    "agree": st.column_config.NumberColumn(format="percent"),
    "kappa": st.column_config.NumberColumn(
        "Cohen's κ", format="%.2f", help="Agreement beyond chance; 1 is full"
    ),
}


def show_people(connection: sqlite3.Connection, review: Review, lead: bool) -> None:
    """Everybody's progress, and their roles."""
    st.subheader("People")
    table = team.progress(connection, review.dataset)
    st.dataframe(table, hide_index=True, column_config=FORMATS)
    st.caption(
        "The pace leaves out pauses of more than five minutes. Known answers are images whose right label a "
        "lead has set; they come among the second opinions."
    )
    if not lead:
        return
    with st.popover("Change a role", icon=":material/badge:"):
        name = str(st.selectbox("Person", table["name"].tolist()))
        role = st.radio("Role", team.ROLES, horizontal=True, help="Leads share out work, and add classes")
        if st.button("Set the role"):
            try:
                team.set_role(connection, name, role)
                st.rerun()
            except InputError as error:
                st.error(plain(str(error)))


def share_out(connection: sqlite3.Connection, review: Review, who: str) -> None:
    """Assign open images to people, and a share of them to a second one."""
    st.subheader("Share out work")
    known = list(team.people(connection))
    left, right = st.columns(2)
    names = left.multiselect(
        "People", known, known, accept_new_options=True, help="Type the name of who has not come yet"
    )
    scheme = right.radio("How", list(SCHEMES), captions=list(SCHEMES.values()))
    is_open = review.order[review.verdict[review.order] == 0]
    expected = int(np.ceil(review.summary(connection, who).expected_open))
    count = left.number_input(
        "How many of the open images, the most suspicious first",
        1,
        max(len(is_open), 1),
        min(max(expected, 1), max(len(is_open), 1)),
        help="At first, as many as are expected to be wrong",
    )
    share = left.slider("Share of them for a blind second opinion, in percent", 0, 100, 10)
    answers = team.gold(connection, review.dataset)
    with_gold = left.checkbox(
        f"Everybody also sees the {len(answers):,} images with a known answer, blind", disabled=not answers
    )
    if not st.button("Share out", type="primary", disabled=not names or not len(is_open)):
        return
    rows = is_open[: int(count)]
    groups = {
        "by class": review.given[rows].tolist(),
        "by slice": (np.arange(len(rows)) * len(names) // len(rows)).tolist(),
        "in turn": list(range(len(rows))),
    }[scheme]
    images = review.ids[rows].tolist()
    firsts = team.share_out(groups, names)
    team.assign(connection, review.dataset, images, firsts)
    rng = np.random.default_rng()
    again = np.flatnonzero(rng.random(len(images)) < share / 100)
    others = team.second_opinions_from(names, [firsts[at] for at in again], seed=0)
    team.assign(connection, review.dataset, [images[at] for at in again], others, blind=True)
    if with_gold:
        for name in names:
            team.add_second_opinions(connection, review.dataset, list(answers), name)
    st.success(
        f"{len(images):,} images shared out, {len(again):,} of them to a second person. Everybody finds "
        "theirs on the Review page, under Queue."
    )


def set_gold(connection: sqlite3.Connection, review: Review, who: str) -> None:
    """Take decided images as known answers."""
    with st.popover("Known answers…", icon=":material/school:"):
        mine = st.number_input("How many of the images that you decided", 1, 1000, 20)
        st.caption(
            "Drawn at random from your own decisions that give a label. Others meet them among their second "
            "opinions; the table above then says how often they were right."
        )
        if st.button("Set known answers"):
            own = team.decided_by(connection, review.dataset, who)
            drawn = np.random.default_rng().permutation(own)[: int(mine)].tolist()
            st.success(f"Known answers now: {team.set_gold(connection, review.dataset, drawn, who):,} more.")


def show_agreement(connection: sqlite3.Connection, review: Review) -> None:
    """How first and second opinions compare."""
    st.subheader("Agreement")
    both = team.opinions(connection, review.dataset)
    if both.empty:
        st.info(
            "No image has a decision and a second opinion yet. Share some out for a second opinion above."
        )
        return
    [everything] = team.agreement(both).to_dict("records")
    apart = team.unsettled(both)
    with st.container(horizontal=True):
        st.metric("Images with two opinions", f"{everything['opinions']:,}")
        st.metric("They agree", f"{everything['agree']:.0%}")
        kappa = everything["kappa"]
        st.metric("Cohen's κ", "–" if np.isnan(kappa) else f"{kappa:.2f}", help="Agreement beyond chance")
        st.metric("Disagreements to settle", f"{len(apart):,}")
    if apart and st.button("Review the disagreements", icon=":material/grid_view:"):
        st.switch_page("views/review.py", query_params={"run": review.run, "queue": "disagreements"})
    left, right = st.columns(2)
    for column, by, title in ((left, "pair", "people"), (right, "from_label", "given label")):
        table: pd.DataFrame = team.agreement(both, by)  # type: ignore[arg-type]
        column.dataframe(table.rename(columns={"": title}), hide_index=True, column_config=FORMATS)


head, _ = st.columns([3, 4])
with head:
    review = chosen_review()
who = reviewer()
lead = role_of(who) == "lead"
with store(workspace()) as connection:
    show_people(connection, review, lead)
    if lead:
        share_out(connection, review, who)
        set_gold(connection, review, who)
    else:
        st.caption("A lead shares out work here.")
    show_agreement(connection, review)
