"""Map: the images in the model's feature space; a lasso takes some of them to Review."""

import numpy as np
import pandas as pd
import streamlit as st

from sharpeye_app import data_plots
from sharpeye_app.gallery.hover import hover_picture
from sharpeye_app.parts import chosen_review, keep_selection


@st.cache_data(max_entries=2)
def coordinates_of(run: str, written: int, path: str) -> np.ndarray:
    """Places on the map, (N, 2), NaN where an image has none."""
    return pd.read_parquet(path, columns=["x", "y"]).to_numpy(np.float32)


head, tools = st.columns([3, 4], vertical_alignment="center")
with head:
    review = chosen_review()
path = review.folder.embedding
if not path.exists():
    st.info("The map of this run is still being drawn; the review need not wait for it.")
    st.page_link("views/review.py", label="Go to Review", icon=":material/grid_view:")
    st.stop()
with tools:
    colour = st.segmented_control(
        "Colour by",
        ["given", "suggested", "suspicion", "decision"],
        default="suspicion",
        key="colour",
        bind="query-params",
        required=True,
    )
coordinates = coordinates_of(review.run, path.stat().st_mtime_ns, str(path))
placed = int(np.isfinite(coordinates[:, 0]).sum())
figure = data_plots.feature_map(review, coordinates, colour or "suspicion")
# Above the map, yet known only after it: what is chosen there.
choice = st.container(horizontal=True, vertical_alignment="center")
picked = st.plotly_chart(
    figure,
    key="map",
    on_select="rerun",
    selection_mode=("lasso", "box"),
    alt="Images in feature space, coloured by " + str(colour),
)
hover_picture(review.run)
rows = sorted({int(point["customdata"]) for point in picked["selection"]["points"] if "customdata" in point})
with choice:
    if st.button(
        f"Review these {len(rows):,} images" if rows else "Review the chosen images",
        type="primary",
        disabled=not rows,
    ):
        st.session_state["page"] = 1
        st.switch_page(
            "views/review.py", query_params={"run": review.run, "selection": keep_selection(review, rows)}
        )
    some = (
        ""
        if placed == len(review)
        else f" {placed:,} of {len(review):,} images are placed, all of the most suspicious among them."
    )
    st.caption(
        "Draw a lasso or a box around images to review them; point at one to see it. Alike images lie "
        "together." + some
    )
