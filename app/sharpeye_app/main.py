"""Navigation; every page is a file of its own."""

import streamlit as st

from sharpeye.runs.store import FINISHED
from sharpeye_app.readers import all_runs

# The folder is not called pages: Streamlit would take its files for pages of their own, and serve them
# without this one.
# An icon before the navigation: else the browser fetches that of the page from elsewhere.
st.set_page_config(page_icon="👁", layout="wide")
data = st.Page("views/data.py", title="Data", icon=":material/folder_open:", default=True)
run = st.Page("views/run.py", title="Run", icon=":material/play_circle:", url_path="run")
chosen = st.navigation(
    [
        data,
        run,
        st.Page("views/review.py", title="Review", icon=":material/grid_view:", url_path="review"),
        st.Page("views/team.py", title="Team", icon=":material/group:", url_path="team"),
        st.Page("views/map.py", title="Map", icon=":material/scatter_plot:", url_path="map"),
        st.Page(
            "views/diagnostics.py", title="Diagnostics", icon=":material/insights:", url_path="diagnostics"
        ),
        st.Page("views/compare.py", title="Compare", icon=":material/compare_arrows:", url_path="compare"),
        st.Page("views/text.py", title="Text", icon=":material/notes:", url_path="text"),
        st.Page("views/learn.py", title="Learn", icon=":material/school:", url_path="learn"),
        st.Page("views/export.py", title="Export", icon=":material/download:", url_path="export"),
    ],
    position="top",
)
if "arrived" not in st.session_state:
    st.session_state["arrived"] = True
    if chosen is data and not st.query_params and any(row.state not in FINISHED for row in all_runs()):
        st.switch_page(run)  # whoever opens the app while it computes wants to see that first
st.set_page_config(page_title=f"{chosen.title} · Sharpeye")
chosen.run()
