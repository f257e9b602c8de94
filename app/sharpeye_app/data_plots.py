"""The app's plots; each takes plain data and returns a plotly figure."""

import html
import itertools
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sharpeye.runs.review import STATES, Review

MANY_CLASSES = 30
LONGEST_NAME = 20
MOST_TICKS = 60
COLOURS = (
    "#0f8a7e",
    "#d9622b",
    "#5b6ee1",
    "#b8860b",
    "#c2417c",
    "#4d9221",
    "#7b5ea7",
    "#0e7fb8",
    "#8c564b",
    "#6b7280",
    "#e0a100",
    "#2f9e8f",
    "#a23b72",
    "#3a7d44",
    "#d1495b",
    "#30638e",
    "#9c6644",
    "#8338ec",
    "#588157",
    "#e07a5f",
)
VERDICT_COLOURS = {
    "open": "#9aa3ad",
    "accept": "#0f8a7e",
    "keep": "#5b6ee1",
    "relabel": "#d9622b",
    "skip": "#b8860b",
}
# From this share of the images on, in percent of the ranking: a name, and a colour.
BANDS = (
    (0.0, "top 1 %", "#d1343a"),
    (1.0, "top 5 %", "#e8743b"),
    (5.0, "top 10 %", "#e0a100"),
    (10.0, "top 20 %", "#c9bb8f"),
    (20.0, "others", "#8b949e"),
)
MARGIN = {"l": 8, "r": 8, "t": 8, "b": 8}


def short(name: str) -> str:
    """A class name as plotly shows it: not too long, and nothing in it taken for markup."""
    return html.escape(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…", quote=False)


def class_axis(classes: Sequence[str]) -> dict[str, list[int] | list[str] | str]:
    """An axis over class numbers that shows their names.

    Numbers, so that names may be alike or look like numbers.
    """
    every = -(-len(classes) // MOST_TICKS)
    return {
        "tickvals": list(range(0, len(classes), every)),
        "ticktext": [short(name) for name in classes[::every]],
        # Else the name of the last class is left out where it is long.
        "ticklabeloverflow": "allow",
    }


def class_counts(
    classes: Sequence[str], counts: dict[str, tuple[int, ...]], counted: str = "images"
) -> go.Figure:
    """Images a class, or what else is `counted`, one bar for each split."""
    numbers = list(range(len(classes)))
    figure = go.Figure(
        [
            go.Bar(
                x=numbers,
                y=values,
                name=name,
                marker_color=COLOURS[i],
                customdata=[short(c) for c in classes],
                hovertemplate=f"%{{customdata}}: %{{y:,}} {name}<extra></extra>",
            )
            for i, (name, values) in enumerate(counts.items())
        ]
    )
    figure.update_xaxes(**class_axis(classes))
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}
    return figure.update_layout(height=280, margin={**MARGIN, "t": 32}, yaxis_title=counted, legend=legend)


def confusion(
    classes: list[str], rows: np.ndarray, columns: np.ndarray, row_title: str, column_title: str
) -> go.Figure:
    """How many images carry label `rows` and would carry label `columns`.

    The diagonal is left blank so that the rest shows.
    """
    count = len(classes)
    table = np.bincount(rows * count + columns, minlength=count**2).reshape(count, count).astype(float)
    table[np.diag_indices(count)] = np.nan
    text = np.where(np.nan_to_num(table) > 0, np.nan_to_num(table).astype(int).astype(str), "")
    heat = go.Heatmap(
        z=table,
        text=text if count <= MANY_CLASSES else None,
        texttemplate="%{text}",
        showscale=False,
        hoverinfo="skip",
        colorscale=[[0, "rgba(15,138,126,0.03)"], [1, "#0f8a7e"]],
    )
    # Clicks select points, which heat maps have none of: an invisible one lies on every cell, and answers the
    # pointer too.
    ys, xs = np.nonzero(~np.isnan(table) if count <= MANY_CLASSES else np.nan_to_num(table))
    cells = go.Scatter(
        x=xs,
        y=ys,
        mode="markers",
        customdata=[
            [int(y), int(x), int(table[y, x]), short(classes[y]), short(classes[x])]
            for y, x in zip(ys, xs, strict=True)
        ],
        marker={"size": max(8, 420 // count), "symbol": "square", "opacity": 0.001},
        showlegend=False,
        hovertemplate=f"{row_title} %{{customdata[3]}} → {column_title} %{{customdata[4]}}: "
        "%{customdata[2]:,}<extra></extra>",
    )
    figure = go.Figure([heat, cells])
    figure.update_layout(hovermode="closest", hoverdistance=-1)
    figure.update_xaxes(
        title=column_title, side="top", showgrid=False, range=[-0.5, count - 0.5], **class_axis(classes)
    )
    figure.update_yaxes(title=row_title, showgrid=False, range=[count - 0.5, -0.5], **class_axis(classes))
    return figure.update_layout(height=max(360, min(900, 26 * count + 150)), margin=MARGIN)


def transition(classes: list[str], true: np.ndarray, given: np.ndarray, probability: np.ndarray) -> go.Figure:
    """How often a true label turns into each other label, in percent.

    The diagonal is left blank so that the rest shows.
    """
    count = len(classes)
    table = np.full((count, count), 0.0)
    table[true, given] = 100 * probability
    right = table.diagonal().copy()
    table[np.diag_indices(count)] = np.nan
    names = [[f"{short(t)} → {short(y)}" for y in classes] for t in classes]
    heat = go.Heatmap(
        z=table,
        text=np.where(np.nan_to_num(table) >= 0.5, np.nan_to_num(table).round().astype(int).astype(str), ""),
        texttemplate="%{text}" if count <= MANY_CLASSES else None,
        colorscale=[[0, "rgba(15,138,126,0.03)"], [1, "#0f8a7e"]],
        showscale=False,
        customdata=names,
        hovertemplate="%{customdata}: %{z:.1f} %<extra></extra>",
    )
    labelled_right = go.Bar(
        x=right,
        y=list(range(count)),
        orientation="h",
        marker_color="#0f8a7e",
        showlegend=False,
        customdata=[short(c) for c in classes],
        hovertemplate="%{customdata}: %{x:.1f} % are labelled right<extra></extra>",
    )
    figure = make_subplots(
        rows=1, cols=2, column_widths=[0.75, 0.25], shared_yaxes=True, horizontal_spacing=0.02
    )
    figure.add_trace(heat, row=1, col=1)
    figure.add_trace(labelled_right, row=1, col=2)
    figure.update_xaxes(title="given label", side="top", showgrid=False, row=1, col=1, **class_axis(classes))
    figure.update_xaxes(title="labelled right, %", side="top", range=[0, 102], row=1, col=2)
    figure.update_yaxes(showgrid=False, zeroline=False, range=[count - 0.5, -0.5], **class_axis(classes))
    figure.update_yaxes(title="true label", row=1, col=1)
    return figure.update_layout(height=max(360, min(900, 26 * count + 150)), margin=MARGIN)


def feature_map(review: Review, coordinates: np.ndarray, colour: str) -> go.Figure:
    """Images in feature space, coloured by `given`, `suggested`, `suspicion` or `decision`.

    Customdata holds their rows of the review.
    """
    rows = np.flatnonzero(np.isfinite(coordinates[:, 0]))
    figure = go.Figure()

    def points(chosen: np.ndarray, name: str, **marker: object) -> None:
        figure.add_scattergl(
            x=coordinates[chosen, 0],
            y=coordinates[chosen, 1],
            mode="markers",
            name=name,
            customdata=chosen.astype(np.int32),
            hoverinfo="none",
            marker={"size": 5 if len(rows) < 20_000 else 3, "opacity": 0.75, **marker},
        )

    if colour == "suspicion":
        # Bands rather than a colour for each point, which the browser would need half a second for; the top
        # ones lie above.
        share = 100.0 * review.rank[rows] / len(review)
        for (above, name, shade), (up_to, _, _) in itertools.pairwise([*BANDS, (100.0, "", "")]):
            some = rows[(share > above) & (share <= up_to)]
            if len(some):
                points(some, name, color=shade)
        figure.data = figure.data[::-1]
    else:
        values, names = {
            "given": (review.given, review.classes),
            "suggested": (review.suggested, review.classes),
            "decision": (review.verdict, list(STATES)),
        }[colour]
        for number in np.unique(values[rows]):
            shade = VERDICT_COLOURS[names[number]] if colour == "decision" else COLOURS[number % len(COLOURS)]
            points(rows[values[rows] == number], short(names[number]), color=shade)
    axis = {"visible": False, "showgrid": False, "zeroline": False}
    return figure.update_layout(
        height=620,
        margin=MARGIN,
        xaxis=axis,
        yaxis={**axis, "scaleanchor": "x"},
        dragmode="lasso",
        legend={
            "itemsizing": "constant",
            "title": {"text": colour},
            "traceorder": "reversed" if colour == "suspicion" else "normal",
        },
        uirevision="map",
    )
