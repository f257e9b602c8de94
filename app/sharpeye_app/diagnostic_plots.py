"""The plots of the Diagnostics and Compare pages; each takes plain tables and returns a plotly figure."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from sharpeye.quality import Estimate, Reliability
from sharpeye_app.data_plots import COLOURS, MARGIN

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


def methods_in(checkpoints: pd.DataFrame) -> list[str]:
    """Methods whose AUC was measured."""
    return [name for name in METHOD_NAMES if f"auc {name}" in checkpoints]


def against_measures(checkpoints: pd.DataFrame, measures: Sequence[str]) -> go.Figure:
    """Figure 2: each method's AUC over the checkpoints, against measures such as accuracy and sharpness, side
    by side.

    A column `NAME error` beside a measure gives its bars.
    """
    figure = make_subplots(rows=1, cols=len(measures), shared_yaxes=True, horizontal_spacing=0.04)
    for column, measure in enumerate(measures, 1):
        for method in methods_in(checkpoints):
            for phase, rows in checkpoints.groupby("phase", sort=False):
                figure.add_scatter(
                    x=rows[measure],
                    y=rows[f"auc {method}"],
                    error_x=bars(rows, measure),
                    error_y=bars(rows, f"auc {method}"),
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


def bars(rows: pd.DataFrame, measure: str) -> dict[str, Any] | None:
    """Error bars of a measure, where its error is known."""
    if f"{measure} error" not in rows:
        return None
    return {"array": rows[f"{measure} error"], "thickness": 1, "width": 2}


def add_band(figure: go.Figure, rows: pd.DataFrame, measure: str, colour: str) -> None:
    """A band of one standard deviation around a measure over epochs, where it is known."""
    if f"{measure} error" not in rows:
        return
    known = rows[rows[f"{measure} error"].notna()]
    low, high = (known[measure] + sign * known[f"{measure} error"] for sign in (-1, 1))
    red, green, blue = hex_to_rgb(colour)
    figure.add_scatter(
        x=[*known["epoch"], *known["epoch"][::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.18)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def along_flat_training(checkpoints: pd.DataFrame) -> go.Figure:
    """Figure 3a: AUC while training on the validation split goes on, from the network trained on the given
    labels at epoch 0; with bands, where it is a mean over seeds."""
    start = checkpoints[checkpoints["phase"] == "pretrain"].tail(1).assign(epoch=0)
    rows = pd.concat([start, checkpoints[checkpoints["phase"] == "flat"]])
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    for method in methods_in(rows):
        if rows[f"auc {method}"].notna().sum() > 1:
            add_band(figure, rows, f"auc {method}", METHOD_COLOURS[method])
            figure.add_scatter(
                x=rows["epoch"],
                y=rows[f"auc {method}"],
                mode="lines+markers",
                name=METHOD_NAMES[method],
                line={"color": METHOD_COLOURS[method]},
            )
    add_gradient(figure, rows["epoch"], rows["gradient"], "validation gradient (right)")
    figure.update_xaxes(title="epoch of flat training on the validation split")
    return figure.update_layout(height=420, margin={**MARGIN, "t": 60}, legend=CAPTION)


def add_gradient(figure: go.Figure, epochs: Iterable[float], lengths: Iterable[float], name: str) -> None:
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
