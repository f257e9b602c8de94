"""The plots of the Learn page; each takes what its experiment measured and returns a plotly figure."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sharpeye.runs.lesson import Checkpoint, Histogram, Lesson, Member, RiskUnderNoise
from sharpeye.runs.pair_lesson import PairLesson
from sharpeye_app.data_plots import MARGIN, class_axis
from sharpeye_app.diagnostic_plots import CAPTION, add_gradient


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
    add_gradient(figure, epochs, [one.gradient for one in checkpoints], "mean validation gradient (right)")
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
