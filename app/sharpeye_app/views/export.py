"""Export: what the decisions change, and the files that leave the workspace."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from sharpeye.errors import InputError
from sharpeye.runs.decision_import import import_log
from sharpeye.runs.decisions import VERDICTS
from sharpeye.runs.export import (
    EXPORTED_FILES,
    ExportedFile,
    cleaned_labels,
    export,
    exported_content,
    write_for_peer,
)
from sharpeye.runs.peers import PEERS
from sharpeye.runs.review import STATES
from sharpeye.runs.review_report import review_report
from sharpeye.runs.store import dataset_source, get_run, store
from sharpeye_app import data_plots
from sharpeye_app.parts import chosen_review, plain
from sharpeye_app.pictures import picture_url
from sharpeye_app.readers import workspace
from sharpeye_app.roots import check_place

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile


def peer_content_of(run: str, name: str) -> bytes:
    """Content of a download for another tool."""
    with store(workspace()) as connection, TemporaryDirectory() as folder:
        row, path = get_run(connection, run), Path(folder) / PEERS[name].file
        labels = cleaned_labels(connection, workspace(), row)
        write_for_peer(connection, workspace(), row, labels, name, path)
        return path.read_bytes()


def content_of(run: str, file: ExportedFile) -> bytes:
    """Content of a download."""
    with store(workspace()) as connection:
        return exported_content(connection, workspace(), get_run(connection, run), file)


def report_of(run: str) -> bytes:
    """Content of the report."""
    with store(workspace()) as connection:
        return review_report(connection, workspace(), get_run(connection, run)).encode()


def offer(title: str, name: str, content: Callable[[], bytes]) -> None:
    """A download; its content is made only when it is asked for."""
    st.download_button(title, content, file_name=name, icon=":material/download:", on_click="ignore")


def bring_back(run: str, file: "UploadedFile") -> None:
    """Add the decisions in an uploaded file to a run's data set; raises InputError as `import_log` does."""
    with store(workspace()) as connection, TemporaryDirectory() as folder:
        path = Path(folder) / Path(file.name).name
        path.write_bytes(file.getbuffer())
        try:
            added = import_log(connection, workspace(), get_run(connection, run), path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), path.name)) from error
    st.session_state["added"] = f"Actions added: {added:,}."
    st.rerun()


left, _ = st.columns([3, 4])
with left:
    review = chosen_review()
if added := st.session_state.pop("added", None):
    st.success(added)
decided = review.verdict > 0
final = np.where(review.label >= 0, review.label, review.given)
changed = final != review.given
with st.container(horizontal=True):
    st.metric("Images", f"{len(review):,}")
    st.metric("Decided", f"{int(decided.sum()):,}")
    st.metric("Labels that change", f"{int(changed.sum()):,}")
    st.metric("Wrong labels expected among the rest", f"≈ {float(review.wrong[~decided].sum()):,.0f}")
made = Counter(STATES[state] for state in review.verdict[decided])
if made:
    st.caption(" · ".join(f"{plain(VERDICTS[name].title)}: {count:,}" for name, count in made.most_common()))
if not decided.any():
    st.info("Nothing is decided yet, so every image keeps its label. Decide on some suspects first.")
    st.page_link("views/review.py", label="Go to Review", icon=":material/grid_view:")
if changed.any():
    st.subheader("What changes")
    before_after, table = st.columns([3, 2])
    figure = data_plots.confusion(review.classes, review.given[changed], final[changed], "before", "after")
    before_after.plotly_chart(figure, alt="Labels before and after", key="before_after")
    rows = np.flatnonzero(changed)[:1000]
    names = np.array(review.classes, dtype=object)
    pictures = [picture_url(review.decoded, int(review.image_row[row])) for row in rows]
    table.dataframe(
        pd.DataFrame(
            {
                "picture": pictures,
                "image": review.ids[rows],
                "before": names[review.given[rows]],
                "after": names[final[rows]],
            }
        ),
        column_config={"picture": st.column_config.ImageColumn("", width="small")},
        hide_index=True,
        height=figure.layout.height,
    )
st.subheader("Download")
st.caption(
    "Only decided changes are applied: an image nobody decided on keeps its label. Trusted images of the "
    "same source are there too."
)
with st.container(horizontal=True):
    for file in EXPORTED_FILES:
        offer(file.title, file.name, partial(content_of, review.run, file))
st.caption(
    "For other tools. Label Studio shows suggestions as predictions, and decided labels as annotations; "
    "FiftyOne tags suspects as “mistake”. What people annotate there comes back below."
)
with st.container(horizontal=True):
    for name, peer in PEERS.items():
        offer(peer.title, Path(peer.file).name, partial(peer_content_of, review.run, name))
st.caption("To send or print: one page with counts, pictures and agreement.")
offer("Report, HTML", f"review-{review.run}.html", partial(report_of, review.run))
st.subheader("Bring decisions back")
brought = st.file_uploader(
    "A decision log (decisions.csv), or annotations of Label Studio, FiftyOne, CVAT or COCO",
    ["csv", "json", "xml"],
)
if brought is not None and st.button("Add these decisions", icon=":material/upload:"):
    try:
        bring_back(review.run, brought)
    except InputError as error:
        st.error(f"Nothing was added: {plain(str(error))}")
st.subheader("Write to a folder")
with store(workspace()) as connection:
    source = Path(dataset_source(connection, review.dataset)[0])
with st.form("folder", border=False):
    target = st.text_input("Folder", placeholder=str(Path.home() / "cleaned"))
    copy = st.checkbox(
        "Also a cleaned copy of the image folder",
        disabled=not source.is_dir(),
        help="Hard links where possible; only for a folder of class folders.",
    )
    if st.form_submit_button("Write files"):
        if not target.strip():
            st.error("Give a folder to write to.")
        else:
            try:
                check_place(target.strip())
                with store(workspace()) as connection, st.spinner("Writing…"):
                    export(
                        connection,
                        workspace(),
                        get_run(connection, review.run),
                        Path(target.strip()).expanduser(),
                        copy,
                    )
                st.success(
                    f"Wrote labels.csv, labels.parquet and decisions.csv{' and images/' if copy else ''} to "
                    f"{plain(target)}."
                )
            except InputError as error:
                st.error(f"Nothing was written: {plain(str(error))}")
            except OSError as error:
                st.error(f"The files could not be written: {plain(str(error))}")
