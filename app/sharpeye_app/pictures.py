"""Pictures in pages: their addresses, and grids of them."""

import html
from collections.abc import Sequence

import streamlit as st

WRONG_COLOUR = "#d1343a"


def picture_url(dataset: str, row: int) -> str:
    """Where the browser finds an image: by decoded data set and number, never by path."""
    return f"/pictures/{dataset}/{row}"


def picture_tag(dataset: str, row: int, alt: str, frame: str = "transparent") -> str:
    """An image as HTML: square, as wide as its place, with a frame in a colour."""
    return (
        f'<img src="{picture_url(dataset, row)}" alt="{html.escape(alt)}" loading="lazy" '
        'style="width:100%;aspect-ratio:1;'
        f'object-fit:contain;border-radius:4px;border:3px solid {frame};box-sizing:border-box">'
    )


def picture_grid(
    dataset: str, rows: Sequence[int], alt: str, wrong: Sequence[bool] = (), columns: int = 12
) -> None:
    """Small pictures side by side; those with a wrong label in a red frame, where that is told.

    Args:
        dataset: name of the decoded data set.
        rows: of the images in it.
        alt: what each picture shows.
        wrong: whether the label of each is wrong, or empty.
        columns: pictures in a row of the grid.
    """
    frames = [WRONG_COLOUR if bad else "transparent" for bad in wrong] or ["transparent"] * len(rows)
    tags = "".join(picture_tag(dataset, row, alt, frame) for row, frame in zip(rows, frames, strict=True))
    style = f"display:grid;grid-template-columns:repeat({columns},1fr);gap:4px;max-width:1000px"
    st.html(f'<div style="{style}">{tags}</div>')
