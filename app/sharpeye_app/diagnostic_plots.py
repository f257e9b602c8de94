"""The plots of the Diagnostics and Compare pages; each takes plain tables and returns a plotly figure."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sharpeye.quality import Estimate, Reliability
from sharpeye.runs.lesson import Checkpoint, Histogram, Lesson, Member, RiskUnderNoise
from sharpeye.runs.pair_lesson import PairLesson
from sharpeye_app.data_plots import COLOURS, MARGIN, class_axis

METHOD_NAMES = {
    "influence": "influence at θ (new)",
    "val_loss": "loss at θ (baseline)",
    "lissa": "LiSSA",
    "tracin": "TracIn",
    "datainf": "DataInf",
    "gex": "GEX",
}
METHOD_COLOURS = dict(zip(METHOD_NAMES, COLOURS, strict=False))
PHASES = {
    "pretrain": "training on the given labels",
    "erm": "plain training on the validation split",
    "flat": "flat training on it",
}
SYMBOLS = {"pretrain": "circle", "erm": "x", "flat": "diamond"}
MEASURES = {
    "accuracy": "validation accuracy",
    "loss": "validation loss R, nats",
    "sharpness": "sharpness R^γ − R, nats",
    "noisy sharpness": "sharpness under noise, nats",
    "top eigenvalue": "largest eigenvalue of the Hessian of R",
    "trace": "trace of the Hessian of R",
    "gradient": "length of the gradient of R",
}
LOGARITHMIC = ("sharpness", "noisy sharpness", "top eigenvalue", "trace", "loss", "gradient")
CAPTION = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Trajectory rows as one row a checkpoint, in the order of training: phase, epoch and every measure."""
    rows = table[table["figure"] == "trajectory"]
    result = rows.pivot_table(index=["phase", "epoch"], columns="name", values="value").reset_index()
    return result.sort_values(
        ["phase", "epoch"], key=lambda c: c.map(list(PHASES).index) if c.name == "phase" else c
    )


def methods_in(checkpoints: pd.DataFrame) -> list[str]:
    """Methods whose AUC was measured."""
    return [name for name in METHOD_NAMES if f"auc {name}" in checkpoints]


def against_measures(checkpoints: pd.DataFrame, measures: Sequence[str]) -> go.Figure:
    """Figure 2: each method's AUC over the checkpoints, against measures such as accuracy and sharpness, side
    by side."""
    figure = make_subplots(rows=1, cols=len(measures), shared_yaxes=True, horizontal_spacing=0.04)
    for column, measure in enumerate(measures, 1):
        for method in methods_in(checkpoints):
            for phase, rows in checkpoints.groupby("phase", sort=False):
                figure.add_scatter(
                    x=rows[measure],
                    y=rows[f"auc {method}"],
                    error_x={"array": rows[f"{measure} error"], "thickness": 1, "width": 2}
                    if f"{measure} error" in rows
                    else None,
                    mode="lines+markers",
                    name=METHOD_NAMES[method],
                    legendgroup=method,
                    showlegend=column == 1 and phase == checkpoints["phase"].iloc[0],
                    line={"color": METHOD_COLOURS[method], "width": 1},
                    marker={"symbol": SYMBOLS[str(phase)], "size": 9},
                    customdata=rows[["epoch"]].assign(phase=PHASES[str(phase)]).to_numpy(),
                    hovertemplate="%{customdata[1]}, epoch %{customdata[0]}: %{x:.3g}, AUC %{y:.3f}<extra>"
                    + METHOD_NAMES[method]
                    + "</extra>",
                    row=1,
                    col=column,
                )
        scale = "log" if measure in LOGARITHMIC else "linear"
        figure.update_xaxes(title=MEASURES[measure], type=scale, row=1, col=column)
    for phase in checkpoints["phase"].unique():
        marker = {"symbol": SYMBOLS[phase], "size": 9, "color": "#8b949e"}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=PHASES[phase], marker=marker)
    figure.update_yaxes(title="detection AUC", col=1)
    return figure.update_layout(height=460, margin={**MARGIN, "t": 80}, legend=CAPTION)


def along_flat_training(checkpoints: pd.DataFrame) -> go.Figure:
    """Figure 3a: AUC while training on the validation split goes on, from the network trained on the given
    labels at epoch 0."""
    start = checkpoints[checkpoints["phase"] == "pretrain"].tail(1).assign(epoch=0)
    rows = pd.concat([start, checkpoints[checkpoints["phase"] == "flat"]])
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    for method in methods_in(rows):
        if rows[f"auc {method}"].notna().sum() > 1:
            figure.add_scatter(
                x=rows["epoch"],
                y=rows[f"auc {method}"],
                mode="lines+markers",
                name=METHOD_NAMES[method],
                line={"color": METHOD_COLOURS[method]},
            )
    _add_gradient(figure, rows["epoch"], rows["gradient"], "validation gradient (right)")
    figure.update_xaxes(title="epoch of flat training on the validation split")
    return figure.update_layout(height=420, margin={**MARGIN, "t": 60}, legend=CAPTION)


def _add_gradient(figure: go.Figure, epochs: Iterable[float], lengths: Iterable[float], name: str) -> None:
    """The length of the gradient on a second axis, beside AUCs on the first."""
    figure.add_scatter(
        x=epochs,
        y=lengths,
        mode="lines",
        name=name,
        secondary_y=True,
        line={"color": "#8b949e", "dash": "dot"},
    )
    figure.update_yaxes(title="detection AUC", secondary_y=False)
    figure.update_yaxes(title="gradient length", rangemode="tozero", showgrid=False, secondary_y=True)


def distributions(table: pd.DataFrame, name: str) -> go.Figure:
    """Figure 3b: how influence is distributed among right and wrong labels, at every checkpoint of flat
    training."""
    rows = table[(table["figure"] == "distribution") & table["name"].str.startswith(f"{name} ")]
    start = rows[rows["phase"] == "pretrain"]
    rows = pd.concat(
        [start[start["epoch"] == start["epoch"].max()].assign(epoch=0), rows[rows["phase"] == "flat"]]
    )
    epochs = sorted(rows["epoch"].unique())
    titles = [f"epoch {epoch}" if epoch else "before" for epoch in epochs]
    figure = make_subplots(
        rows=1, cols=max(len(epochs), 1), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.02
    )
    for column, epoch in enumerate(epochs, 1):
        for kind, colour in (("right", "#0f8a7e"), ("wrong", "#d1343a")):
            some = rows[(rows["epoch"] == epoch) & (rows["name"] == f"{name} {kind}")]
            figure.add_scatter(
                x=some["x"],
                y=some["value"],
                mode="lines",
                fill="tozeroy",
                line={"color": colour, "shape": "hvh"},
                name=f"{kind} labels",
                legendgroup=kind,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(title="log₁₀ influence" if name == "influence" else "influence / mean size")
    return figure.update_layout(height=320, margin={**MARGIN, "t": 60}, legend={**CAPTION, "y": 1.12})


def landscapes(table: pd.DataFrame) -> go.Figure:
    """The validation risk around the plain and around the flat minimum, on one scale."""
    rows = table[table["figure"] == "landscape"]
    phases = [phase for phase in ("erm", "flat") if (rows["phase"] == phase).any()]
    titles = {"erm": "plain minimum", "flat": "flat minimum"}
    figure = make_subplots(
        rows=1, cols=max(len(phases), 1), subplot_titles=[titles[p] for p in phases], horizontal_spacing=0.08
    )
    values = np.log10(rows["value"].clip(lower=1e-4))
    for column, phase in enumerate(phases, 1):
        grid = rows[rows["phase"] == phase].pivot_table(index="y", columns="x", values="value")
        figure.add_contour(
            x=grid.columns,
            y=grid.index,
            z=np.log10(grid.clip(lower=1e-4)),
            zmin=values.min(),
            zmax=values.max(),
            colorscale="Viridis",
            contours={
                "start": values.min(),
                "end": values.max(),
                "size": max((values.max() - values.min()) / 16, 1e-3),
            },
            colorbar={"title": "log₁₀ R", "thickness": 12},
            showscale=column == len(phases),
            row=1,
            col=column,
            hovertemplate="log₁₀ risk %{z:.2f}<extra></extra>",
        )
    return figure.update_layout(height=400, margin={**MARGIN, "t": 40})


def rank_correlation(scores: pd.DataFrame) -> go.Figure:
    """Spearman's correlation between the methods' rankings."""
    table = scores.rank().corr()
    others = table.to_numpy()[~np.eye(len(table), dtype=bool)]
    figure = go.Figure(
        go.Heatmap(
            z=table.mask(np.eye(len(table), dtype=bool)),
            x=table.columns,
            y=table.index,
            # From the least to the most alike, so that differences between close methods show.
            zmin=min(others.min(initial=1.0), 0.99),
            zmax=1.0,
            colorscale="Viridis",
            text=table.round(3),
            texttemplate="%{text}",
            hovertemplate="%{y} and %{x}: %{z:.4f}<extra></extra>",
            colorbar={"title": "Spearman's ρ", "thickness": 12},
        )
    )
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(height=max(320, 36 * len(table) + 120), margin=MARGIN)


def precision_recall(methods: dict[str, Estimate]) -> go.Figure:
    """Estimated precision against recall of every method."""
    figure = go.Figure()
    for number, (name, one) in enumerate(methods.items()):
        figure.add_scatter(
            x=one.recall,
            y=one.precision,
            mode="lines",
            name=name,
            line={"color": COLOURS[number % len(COLOURS)]},
        )
    figure.update_xaxes(title="share of the wrong labels found", range=[0, 1])
    figure.update_yaxes(title="share of wrong ones among those looked at", range=[0, 1.02])
    return figure.update_layout(height=300, margin={**MARGIN, "t": 40}, legend=CAPTION)


def reliability(suggestions: Reliability) -> go.Figure:
    """How often suggestions are right, against their confidence.

    A marker's area is its share of the images.
    """
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        line={"color": "#8b949e", "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=suggestions.confidence,
        y=suggestions.accuracy,
        mode="lines+markers",
        line={"color": "#0f8a7e"},
        showlegend=False,
        marker={"size": suggestions.share, "sizemode": "area", "sizeref": 1 / 30**2, "sizemin": 4},
        customdata=suggestions.share,
        hovertemplate="sure to %{x:.0%}: %{y:.0%} are right; %{customdata:.1%} of the images<extra></extra>",
    )
    figure.update_xaxes(title="confidence of a suggestion", range=[0, 1.02])
    figure.update_yaxes(title="share of right ones", range=[0, 1.08])
    return figure.update_layout(height=300, margin=MARGIN)


def pulls(classes: Sequence[str], scores: Sequence[float], given: int) -> go.Figure:
    """How hard each label would pull at an image."""
    lowest = int(np.argmin(scores))
    colours = [
        "#0f8a7e" if c == lowest else "#d1343a" if c == given else "#8b949e" for c in range(len(classes))
    ]
    figure = go.Figure(
        go.Bar(
            x=list(range(len(classes))),
            y=scores,
            marker_color=colours,
            hovertemplate="%{y:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(**class_axis(classes))
    figure.update_yaxes(title="influence")
    return figure.update_layout(height=240, margin=MARGIN)


def risks_under_noise(risks: dict[str, RiskUnderNoise]) -> go.Figure:
    """The mean validation risk under noise, at each minimum."""
    figure = go.Figure()
    for (name, one), colour in zip(risks.items(), ("#d9622b", "#0f8a7e"), strict=True):
        figure.add_scatter(x=one.x, y=one.risk, mode="lines+markers", name=name, line={"color": colour})
    figure.update_xaxes(title="length of random noise on the weights, relative to each filter's")
    figure.update_yaxes(title="mean validation risk, nats", rangemode="tozero")
    return figure.update_layout(height=340, margin={**MARGIN, "t": 40}, legend=CAPTION)


def family(members: Sequence[Member], chosen: int) -> go.Figure:
    """AUC from influence to the loss; the chosen member is marked."""
    titles = [weight_title(member) for member in members]
    figure = go.Figure()
    figure.add_scatter(
        x=titles,
        y=[member.ranking.auc for member in members],
        mode="lines+markers",
        line={"color": "#0f8a7e"},
        marker={"size": [16 if number == chosen else 8 for number in range(len(members))]},
        hovertemplate="%{x}: AUC %{y:.4f}<extra></extra>",
    )
    figure.update_xaxes(title="weight w of the image's own curvature", type="category")
    figure.update_yaxes(title="detection AUC")
    return figure.update_layout(height=300, margin=MARGIN)


def weight_title(member: Member) -> str:
    """A member of the family, in short."""
    if member.weight is None:
        return "∞ (the loss)"
    return "0 (influence)" if member.weight == 0 else f"{member.weight:g}"


def hills(histogram: Histogram) -> go.Figure:
    """Influence of right and of wrong labels."""
    figure = go.Figure()
    for kind, colour in (("right", "#0f8a7e"), ("wrong", "#d1343a")):
        figure.add_scatter(
            x=histogram.x,
            y=getattr(histogram, kind),
            mode="lines",
            fill="tozeroy",
            line={"color": colour, "shape": "hvh"},
            name=f"{kind} labels",
        )
    figure.update_xaxes(title="log₁₀ influence")
    figure.update_yaxes(title="share of images")
    return figure.update_layout(height=280, margin={**MARGIN, "t": 40}, legend=CAPTION)


def tried_so_far(plain: Lesson, tried: dict[tuple[str, float], Lesson]) -> go.Figure:
    """Sharpness against AUC for every strength that was tried."""
    end = plain.checkpoints[-1]
    figure = go.Figure(
        go.Scatter(
            x=[end.sharpness],
            y=[end.new],
            mode="markers",
            name="plain",
            marker={"symbol": "x", "size": 11, "color": "#8b949e"},
        )
    )
    for name, colour in (("lpf-sgd", "#0f8a7e"), ("sam", "#5b6ee1")):
        some = [
            (strength, lesson.checkpoints[-1])
            for (optimizer, strength), lesson in tried.items()
            if optimizer == name
        ]
        figure.add_scatter(
            x=[last.sharpness for _, last in some],
            y=[last.new for _, last in some],
            mode="lines+markers+text",
            name=name,
            text=[f"{strength:g}" for strength, _ in some],
            textposition="top center",
            marker={"size": 10, "color": colour},
        )
    figure.update_xaxes(title="sharpness under noise")
    figure.update_yaxes(title="detection AUC")
    return figure.update_layout(height=300, margin={**MARGIN, "t": 40}, legend=CAPTION)


def fading(checkpoints: Sequence[Checkpoint]) -> go.Figure:
    """AUC of both kinds of influence, and the mean gradient, along the way to the minimum."""
    epochs = [one.epoch for one in checkpoints]
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    for values, title, colour in (
        ([one.new for one in checkpoints], "new influence", "#0f8a7e"),
        ([one.classical for one in checkpoints], "classical influence (LiSSA)", "#d9622b"),
    ):
        figure.add_scatter(x=epochs, y=values, mode="lines+markers", name=title, line={"color": colour})
    _add_gradient(figure, epochs, [one.gradient for one in checkpoints], "mean validation gradient (right)")
    figure.update_xaxes(title="epoch on the clean images")
    return figure.update_layout(height=360, margin={**MARGIN, "t": 40}, legend=CAPTION)


def pair_plane(shown: PairLesson, trusted: int) -> go.Figure:
    """Training points by their influence on one trusted point, which is a star."""
    influence = shown.influence[:, trusted]
    reach = float(np.abs(influence).max())
    figure = go.Figure()
    for label, symbol in ((0, "circle"), (1, "square")):
        of = shown.labels == label
        figure.add_scatter(
            x=shown.training[of, 0],
            y=shown.training[of, 1],
            mode="markers",
            name=f"given as {label}",
            marker={
                "symbol": symbol,
                "size": 12,
                "color": influence[of],
                "cmin": -reach,
                "cmax": reach,
                "colorscale": [[0, "#d9622b"], [0.5, "#c9ced6"], [1, "#0f8a7e"]],
                "colorbar": {"title": "influence", "thickness": 12} if label == 0 else None,
                "line": {
                    "width": np.where(shown.wrong[of], 3, 0),
                    "color": "#b3261e",
                },
            },
            text=[f"{value:+.3f}" for value in influence[of]],
            hovertemplate="influence %{text}<extra></extra>",
        )
    figure.add_scatter(
        x=[shown.trusted[trusted, 0]],
        y=[shown.trusted[trusted, 1]],
        mode="markers",
        name=f"trusted, {shown.trusted_labels[trusted]}",
        marker={"symbol": "star", "size": 20, "color": "#5b6ee1"},
    )
    figure.update_yaxes(scaleanchor="x")
    return figure.update_layout(height=400, margin={**MARGIN, "t": 40}, legend=CAPTION)


def pair_retraining(shown: PairLesson, trusted: int) -> go.Figure:
    """Influence on all trusted points against what training again does; those of one point stand out."""
    figure = go.Figure()
    others = np.delete(np.arange(len(shown.trusted)), trusted)
    for name, columns, colour, size in (
        ("on the others", others, "#c9ced6", 4),
        ("on the star", [trusted], "#5b6ee1", 8),
    ):
        figure.add_scatter(
            x=shown.influence[:, columns].ravel(),
            y=shown.retrained[:, columns].ravel(),
            mode="markers",
            name=name,
            marker={"color": colour, "size": size},
        )
    figure.update_xaxes(title="influence a(i, v)")
    figure.update_yaxes(title="fall of the loss, trained again")
    return figure.update_layout(height=400, margin={**MARGIN, "t": 40}, legend=CAPTION)
