"""Compare: the methods of one run side by side, and the images on which they disagree."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from sharpeye.errors import InputError
from sharpeye.quality import METRIC_TITLES
from sharpeye.runs.estimates import CanaryEstimates, read_estimates
from sharpeye.runs.review import Review
from sharpeye.runs.scores import read_influence
from sharpeye.runs.store import get_run, store
from sharpeye_app import diagnostic_plots
from sharpeye_app.parts import chosen_review, keep_selection, plain
from sharpeye_app.pictures import picture_grid
from sharpeye_app.readers import review as read_review
from sharpeye_app.readers import reviewable_runs, workspace
from sharpeye_app.submission import submit

TITLES = {**METRIC_TITLES, "score_seconds": "seconds", "memory_mb": "memory, MB"}
DISAGREEMENTS = 24
# In AUC; less than this is within what canaries can tell.
CLEARLY_BETTER = 0.005


@st.cache_data(max_entries=2)
def all_scores(run: str, written: int, methods: tuple[str, ...], path: str) -> pd.DataFrame:
    """The influence of every method."""
    return read_influence(Path(path), methods)


def show_canaries(review: Review, estimates: CanaryEstimates) -> None:
    """Quality as estimated without true labels, and another ranking where it is clearly better."""
    st.subheader("Estimated without true labels")
    methods = estimates.methods
    left, right = st.columns([2, 3])
    table = [
        {"method": name, "estimated AUC": one.auc, "estimated AP": one.ap} for name, one in methods.items()
    ]
    formats = {
        name: st.column_config.NumberColumn(format="%.4f") for name in ("estimated AUC", "estimated AP")
    }
    left.dataframe(table, height="content", hide_index=True, column_config=formats)
    right.plotly_chart(
        diagnostic_plots.precision_recall(methods),
        alt="Estimated precision and recall",
        key="precision_recall",
    )
    st.caption(
        f"From canaries: each of the {estimates.images:,} validation images is scored by a network that "
        "never trained on "
        "it. It counts under every label that it might have been given, weighted by how labels seem to be "
        "confused here."
    )
    left, right = st.columns([2, 3])
    left.plotly_chart(
        diagnostic_plots.reliability(estimates.suggestions),
        alt="Confidence and accuracy of suggestions",
        key="reliability",
    )
    right.markdown(
        "**Can the confidence be believed?** On the dotted line, suggestions are right as often as they say. "
        f"The expected calibration error on canaries is {estimates.suggestions.error:.3f}."
    )
    ranked, best = review.result.ranked_by, max(methods, key=lambda name: methods[name].auc)
    if ranked in methods and methods[best].auc - methods[ranked].auc > CLEARLY_BETTER:
        st.info(f"On this data `{best}` seems to rank clearly better than `{ranked}`.")
        if st.button(f"Rank by {best} instead", icon=":material/swap_vert:"):
            rank_by(review, best)


def rank_by(review: Review, best: str) -> None:
    """The same run ranked by another method; nothing is trained again."""
    with store(workspace()) as connection:
        config = get_run(connection, review.run).run_config()
    methods = (best, *(name for name in config.methods if name != best))
    try:
        st.switch_page("views/run.py", query_params={"run": submit(replace(config, methods=methods))})
    except InputError as error:
        st.error(plain(str(error)))


def disagreements(review: Review, scores: pd.DataFrame) -> None:
    """The images whose ranks under two methods differ most."""
    first, second = st.columns(2)
    methods = list(scores.columns)
    one = first.selectbox("Suspicious to", methods, 0)
    other = second.selectbox("but not to", methods, min(1, len(methods) - 1))
    if one == other:
        st.info("Choose two different methods.")
        return
    ranks = scores[[one, other]].rank(pct=True)
    rows = np.argsort(-(ranks[one] - ranks[other]).to_numpy(), kind="stable")[:DISAGREEMENTS]
    picture_grid(review.decoded, review.image_row[rows].tolist(), "Image on which the methods disagree")
    if st.button(f"Review these {len(rows)} images", type="primary"):
        st.session_state["page"] = 1
        selection = keep_selection(review, sorted(int(row) for row in rows))
        st.switch_page("views/review.py", query_params={"run": review.run, "selection": selection})


def compare_runs(review: Review) -> None:
    """This run beside another one of the same images: what is expected, and which images changed."""
    others = {row.id: row.title for row in reviewable_runs() if row.dataset == review.dataset}
    others.pop(review.run, None)
    if not others:
        return
    st.subheader("Another run on the same images")
    chosen = st.selectbox("Compare with", list(others), index=None, format_func=others.__getitem__)
    if chosen is None:
        return
    try:
        other = read_review(chosen)
    except InputError as error:
        st.error(plain(str(error)))
        return
    st.dataframe([run_facts(review, "this run"), run_facts(other, others[chosen])], hide_index=True)
    at = other.ids.get_indexer(review.ids)
    both = np.flatnonzero(at >= 0)
    names, other_names = (np.array(one.classes, dtype=object) for one in (review, other))
    differing = names[review.suggested[both]] != other_names[other.suggested[at[both]]]
    now, then = review.wrong[both] > 0.5, other.wrong[at[both]] > 0.5
    changes = {
        "other suggestion": both[differing],
        "suspicious here alone (P(wrong) > 50 %)": both[now & ~then],
        "suspicious there alone": both[~now & then],
    }
    st.caption(f"{len(both):,} images are judged by both.")
    with st.container(horizontal=True):
        for title, rows in changes.items():
            if st.button(f"{title}: {len(rows):,}", disabled=not len(rows), icon=":material/grid_view:"):
                st.session_state["page"] = 1
                selection = keep_selection(review, sorted(int(row) for row in rows))
                st.switch_page("views/review.py", query_params={"run": review.run, "selection": selection})


def run_facts(review: Review, title: str) -> dict[str, object]:
    """A run in a row of a table."""
    result = review.result
    low, high = result.expected_wrong_interval
    first = result.methods[result.ranked_by]
    facts: dict[str, object] = {
        "run": title,
        "images": result.n,
        "expected wrong": round(result.expected_wrong),
        "interval": f"{low:,.0f}–{high:,.0f}",
        "ranked by": result.ranked_by,
    }
    if first.auc is not None:
        facts |= {"AUC": round(first.auc, 4), "suggestions right": round(first.suggestion_accuracy or 0, 4)}
    return facts


left, _ = st.columns([3, 4])
with left:
    review = chosen_review()
compare_runs(review)
methods = review.result.methods
table = pd.DataFrame(
    [{"method": name} | {TITLES[key]: getattr(one, key) for key in TITLES} for name, one in methods.items()]
)
table = table.dropna(axis=1, how="all")
st.subheader("Methods of this run")
formats = dict.fromkeys(TITLES, "%.4f") | {"score_seconds": "%.1f", "memory_mb": "%.0f"}
st.dataframe(
    table,
    height="content",
    hide_index=True,
    column_config={
        title: st.column_config.NumberColumn(format=formats[key]) for key, title in TITLES.items()
    },
)
ranked_by = review.result.ranked_by
if review.truth is not None:
    best = max(methods, key=lambda name: methods[name].auc or 0)
    detects = (
        ", which detects best."
        if best == ranked_by
        else f"; on this data `{best}` detects wrong labels better ({methods[best].auc or 0:.4f})."
    )
    st.caption(
        f"Measured on the true labels, which no method is given. The run ranks by `{ranked_by}`{detects} "
        f"The whole run needed {review.result.peak_memory_mb:,.0f} MB at its peak."
    )
else:
    st.caption(
        "Without true labels only speed can be measured here; a run with figures estimates the quality too."
    )
estimates = read_estimates(review.folder)
if estimates is not None and estimates.methods:
    show_canaries(review, estimates)
if len(methods) < 2:
    st.info("Choose more than one method on the Run page to compare their rankings.")
    st.stop()
scores = all_scores(
    review.run, review.folder.scores.stat().st_mtime_ns, tuple(review.methods), str(review.folder.scores)
)
st.subheader("How alike the rankings are")
st.plotly_chart(
    diagnostic_plots.rank_correlation(scores), alt="Rank correlations between methods", key="correlation"
)
st.caption("Spearman's rank correlation over all images: 1 means the same order.")
st.subheader("Where two methods disagree most")
disagreements(review, scores)
