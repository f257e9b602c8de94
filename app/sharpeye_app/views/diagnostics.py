"""Diagnostics: why influence works at a flat minimum, and when it does not, measured on one's own data."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from sharpeye.config import SHARPNESS_NOISE, SHARPNESS_RADIUS
from sharpeye.diagnostics.trajectories import mean_trajectory, trajectory
from sharpeye.errors import InputError
from sharpeye.files import file_stamp
from sharpeye.runs.review import Review
from sharpeye.runs.store import get_run, store
from sharpeye_app import data_plots, diagnostic_plots
from sharpeye_app.parts import chosen_review, in_page_words, plain
from sharpeye_app.readers import runs_over_seeds, workspace
from sharpeye_app.submission import submit

# Pairs of classes that are listed where a picture of all of them is too fine.
TOP_PAIRS = 30
# What the measures beside the accuracy are; R is the validation risk, θ the parameters, n their number.
FORMULAS = {
    "loss": r"R(\theta) = -\tfrac{1}{M}\textstyle\sum_j \log p_\theta(y_j \mid x_j)",
    "sharpness": r"R^\gamma(\theta) - R(\theta) = \max_{\lVert\delta\rVert \le \gamma} R(\theta + \delta) - "
    r"R(\theta),\qquad \gamma = "
    f"{SHARPNESS_RADIUS}",
    "noisy sharpness": r"\mathbb{E}_\varepsilon\, R(\theta + \varepsilon) - R(\theta),\qquad "
    r"\lVert\varepsilon_f\rVert = "
    f"{SHARPNESS_NOISE}"
    r"\lVert\theta_f\rVert \text{ for each filter } f",
    "top eigenvalue": r"\lambda_{\max}(\nabla^2 R(\theta)) \text{ by power iteration, with } "
    r"\lVert Hv - \lambda v\rVert",
    "trace": r"\operatorname{tr} \nabla^2 R(\theta) = \mathbb{E}\, v^\top \nabla^2 R\, v,\ v_i = \pm 1, "
    r"\text{ with its standard error}",
    "gradient": r"\lVert \nabla R(\theta) \rVert",
}


def figures_of(run: str) -> pd.DataFrame:
    """The table of a run's figures."""
    path = workspace().run(run).diagnostics
    return _figures(str(path), file_stamp(path))


@st.cache_data(max_entries=8)
def _figures(path: str, changed: tuple[str, int, int]) -> pd.DataFrame:
    return pd.read_parquet(path)


def offer(review: Review) -> None:
    """A run without figures: compute them."""
    with store(workspace()) as connection:
        row = get_run(connection, review.run)
    config = row.run_config()
    if config.figures:
        left_out = row.state == "done"
        st.info(
            "The figures of this run "
            f"{'were left out; its notes say why' if left_out else 'are not there yet'}."
        )
        st.page_link(
            "views/run.py",
            label="Go to the run",
            icon=":material/play_circle:",
            query_params={"run": review.run},
        )
        return
    st.info(
        "This run was computed without the figures. They take some minutes; training and scores are not "
        "computed again."
    )
    if st.button("Compute the figures", type="primary", icon=":material/insights:"):
        try:
            st.switch_page("views/run.py", query_params={"run": submit(replace(config, figures=True))})
        except InputError as error:
            st.error(plain(str(error)))


def from_to(rows: pd.DataFrame, column: str) -> str:
    """First and last value of a measure, for people; over seeds with its standard deviation."""
    errors = rows.get(f"{column} error")
    ends = [
        f"{rows[column].iloc[at]:.3f}" + ("" if errors is None else f" ± {errors.iloc[at]:.3f}")
        for at in (0, -1)
    ]
    return f"from {ends[0]} to {ends[1]}"


def choose_checkpoints(review: Review, table: pd.DataFrame) -> pd.DataFrame:
    """What is drawn of each checkpoint: measures of this run, or their means over runs with other seeds."""
    runs = runs_over_seeds(review.run)
    if len(runs) > 1:
        names = ", ".join(map(str, runs))
        about = "Bands and bars are one standard deviation over runs that differ in the seed alone."
        if st.toggle(f"Means over the seeds {names}", True, help=about, key="over-seeds"):
            return mean_trajectory([trajectory(figures_of(row.id)) for row in runs.values()])
    elif st.button("Compute these for two more seeds", icon=":material/add:"):
        with store(workspace()) as connection:
            config = get_run(connection, review.run).run_config()
        try:
            first, _ = (submit(replace(config, seed=config.seed + more)) for more in (1, 2))
            st.switch_page("views/run.py", query_params={"run": first})
        except InputError as error:
            st.error(in_page_words(str(error)))
    return trajectory(table)


def show(review: Review, table: pd.DataFrame) -> None:
    """All figures, each with what to see in it."""
    checkpoints = choose_checkpoints(review, table)
    flat, early = checkpoints[checkpoints["phase"] == "flat"], checkpoints[checkpoints["phase"] == "pretrain"]
    st.subheader("Figure 2: influence, accuracy and sharpness over training")
    measure = st.segmented_control(
        "Beside the accuracy",
        [name for name in diagnostic_plots.MEASURES if name != "accuracy"],
        default="sharpness",
        format_func=diagnostic_plots.MEASURES.__getitem__,
        required=True,
        key="measure",
        bind="query-params",
    )
    st.plotly_chart(
        diagnostic_plots.against_measures(checkpoints, ("accuracy", measure or "sharpness")),
        alt=f"AUC against accuracy and {measure}",
        key="figure2",
    )
    st.latex(FORMULAS[measure or "sharpness"])
    if len(early):
        st.caption(
            f"While the network learns the given labels, its validation accuracy goes "
            f"{from_to(early, 'accuracy')} and the AUC of the new influence "
            f"{from_to(early, 'auc influence')}; that of LiSSA {from_to(early, 'auc lissa')}."
        )
    st.subheader("Figure 3a: classical and new influence while flat training proceeds")
    st.plotly_chart(
        diagnostic_plots.along_flat_training(checkpoints), alt="AUC along flat training", key="figure3a"
    )
    shrinks = flat["gradient"].iloc[-1] < 0.5 * flat["gradient"].iloc[0]
    st.caption(
        f"In flat training on the validation split the new influence goes {from_to(flat, 'auc influence')}, "
        f"LiSSA {from_to(flat, 'auc lissa')}, "
        f"and the plain loss {from_to(flat, 'auc val_loss')}. Classical influence compares with the mean "
        "validation gradient, which vanishes "
        f"at a minimum, so that only its noise is left. Here its length goes {from_to(flat, 'gradient')}"
        + (
            "."
            if shrinks
            else ": with this budget, training stops before a minimum of the risk without augmentation."
        )
    )
    st.subheader("Figure 3b: influence of right and of wrong labels")
    kind = st.segmented_control(
        "Influence",
        ["influence", "lissa"],
        default="influence",
        format_func=diagnostic_plots.METHOD_NAMES.__getitem__,
        required=True,
        key="kind_of",
    )
    st.plotly_chart(
        diagnostic_plots.distributions(table, kind or "influence"),
        alt="Distributions of influence",
        key="figure3b",
    )
    st.caption(
        "The further the two hills are apart, the better a threshold separates wrong labels from right ones."
    )
    st.subheader("The loss landscape")
    st.plotly_chart(diagnostic_plots.landscapes(table), alt="Risk around both minima", key="landscape")
    plain_end, flat_end = (
        checkpoints[checkpoints["phase"] == phase].iloc[-1].to_dict() for phase in ("erm", "flat")
    )
    st.caption(
        "The validation risk in a slice of random directions, each filter as long as the network's own. "
        "Sharpness R^γ − R is "
        f"{plain_end['sharpness']:.3f} at the plain and {flat_end['sharpness']:.3f} at the flat minimum; "
        "under noise "
        f"{plain_end['noisy sharpness']:.3f} and {flat_end['noisy sharpness']:.3f}."
    )
    with st.expander("All numbers"):
        st.dataframe(checkpoints, hide_index=True)
        st.download_button(
            "CSV",
            checkpoints.to_csv(index=False),
            "figures.csv",
            icon=":material/download:",
            on_click="ignore",
        )


def show_found(review: Review) -> None:
    """What people found wrong beside what the run predicted."""
    found = [decile for decile in review.deciles() if decile.decided]
    if not found:
        return
    st.subheader("What the review found")
    table = pd.DataFrame(
        {
            "P(wrong)": [f"{decile.low:.0%} to {decile.high:.0%}" for decile in found],
            "decided": [decile.decided for decile in found],
            "predicted wrong": [decile.predicted for decile in found],
            "found wrong": [decile.found for decile in found],
        }
    )
    formats = {"predicted wrong": st.column_config.NumberColumn(format="%.1f")}
    st.dataframe(table, hide_index=True, height="content", width="content", column_config=formats)
    st.caption(
        "The number of wrong labels still expected follows what was found: the odds of the open images in a "
        "row are corrected by its decisions. Skipped images stay open."
    )


left, _ = st.columns([3, 4])
with left:
    review = chosen_review()
noise = pd.read_parquet(review.folder.transition)
st.subheader("Which classes turn into which")
true, given = (
    noise[column].cat.set_categories(review.classes).cat.codes.to_numpy()
    for column in ("true_label", "given_label")
)
picture = data_plots.transition(review.classes, true, given, noise["probability"].to_numpy())
st.plotly_chart(picture, alt="Estimated label noise", key="transition")
if len(review.classes) > data_plots.MANY_CLASSES:
    likeliest = noise[noise["true_label"].astype(str) != noise["given_label"].astype(str)]
    st.dataframe(
        likeliest.nlargest(TOP_PAIRS, "probability")[["true_label", "given_label", "probability"]],
        hide_index=True,
        column_config={"probability": st.column_config.NumberColumn(format="percent")},
    )
st.caption(
    "How often an image of one class was given each other label, in percent: estimated from the given labels "
    f"and the network's predictions, without true labels. In all, {review.result.wrong_labels}. The count "
    "holds where errors strike at random within a class, the upper end where they strike the pictures that "
    "the network doubts too. Errors that look right to the network cannot be counted."
)
show_found(review)
if review.folder.diagnostics.exists():
    if review.truth is None:
        st.info(
            "There are no true labels: all this is measured on canaries, validation images with labels "
            "flipped on purpose."
        )
    show(review, figures_of(review.run))
else:
    offer(review)
