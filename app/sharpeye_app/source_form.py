"""The form of a source: where the images are, and how they are read."""

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from sharpeye.config import DEMO_METHODS, RunConfig, RunOptions
from sharpeye.data.tables import LABEL_COLUMNS, PATH_COLUMNS, PICTURE, first_rows, found
from sharpeye.errors import InputError
from sharpeye_app.file_browser import IMAGES, UPLOADED, browse, start_browsing, stored
from sharpeye_app.parts import in_page_words
from sharpeye_app.roots import check_place

TEXT = "text"
SOURCES = {
    "demo": "Demo",
    "files": "Files on this machine",
    "upload": "Upload",
    "torchvision": "torchvision dataset",
    "cifar-n": "CIFAR-10N / 100N",
    TEXT: "Prompts and completions",
}
EXPLAINED = {
    "demo": "6,000 Fashion-MNIST images; a fifth of the labels are wrong, on purpose. 1,500 more are the "
    "clean validation split.",
    "files": "A folder (or a zip or tar file) with one folder a class: `photos/cat/1.jpg`, or `train/` and "
    "`validation/` folders of these. Or a table of paths and labels. Or one of these elsewhere, as `s3://…`.",
    "upload": "An archive of class folders, or a table with its images. They are kept in the workspace.",
    "torchvision": "A classification data set of torchvision by its class name, such as `CIFAR10`. "
    "Downloaded where possible.",
    "cifar-n": "torchvision's CIFAR with the official file of human labels beside it.",
    TEXT: "What a language model is to say: which examples taught it that, and which of them are wrong?",
}
READ = (
    "Tables are CSV, TSV, JSON lines or Parquet; a data set of Hugging Face; annotations of Label Studio, "
    "FiftyOne, COCO or CVAT. Addresses are s3://, gs://, az:// and https://, and hf:NAME."
)
CHECKED = (
    "Another source of clean images",
    "A share of the training labels can be trusted",
    "Its own split",
    "None: judge every image by the others",
)
BY_NAME = "by its name"
# Larger tables are read, but not shown here first.
PREVIEW_BYTES = 10**8


def ask_kind() -> str:
    """One of SOURCES."""
    kind: str = st.selectbox(
        "Source", list(SOURCES), format_func=SOURCES.__getitem__, key="kind", bind="query-params"
    )
    st.caption(EXPLAINED[kind])
    return kind


def ask_source(kind: str) -> RunConfig | None:
    """The form of a source of images; a configuration when it is sent."""
    if kind == "demo":
        demo = RunConfig.of("demo", validation="demo", methods=DEMO_METHODS)
        return demo if st.button("Inspect", type="primary") else None
    options = RunOptions()
    validation, how = None, CHECKED[2]
    try:
        if kind in ("torchvision", "cifar-n"):
            train = ask_torchvision(kind, options)
        else:
            train = (
                ask_upload()
                if kind == "upload"
                else ask_path("Training images", "train", "/data/photos", READ)
            )
            ask_columns(train, options)
            validation, how = ask_validation(options)
    except InputError as error:
        st.error(in_page_words(str(error)))
        return None
    limit = st.number_input("Use at most this many images", 1, None, None, placeholder="all")
    if not st.button("Inspect", type="primary"):
        return None
    if not train:
        st.error("Say where the training images are.")
        return None
    if how == CHECKED[0] and validation is None:
        st.error("Say where the clean images are, or choose another kind of validation split.")
        return None
    options["validation"] = validation
    options["limit"] = int(limit) if limit else None
    return RunConfig.of(train, **options)


def ask_torchvision(kind: str, options: RunOptions) -> str:
    """A torchvision data set; puts what else is asked into the options."""
    choices = ("CIFAR10", "CIFAR100") if kind == "cifar-n" else None
    name = st.selectbox("Dataset", choices) if choices else st.text_input("Dataset", placeholder="CIFAR10")
    root = st.text_input("Folder of torchvision's files", placeholder="~/.cache/torchvision")
    options["torchvision_root"] = typed(root)
    if kind == "cifar-n":
        human = st.text_input("File of human labels", placeholder="/data/CIFAR-10_human.pt")
        options["human_labels"] = typed(human)
        usual = "worse_label" if name == "CIFAR10" else "noisy_label"
        options["label_column"] = typed(st.text_input("Which labels", usual))
    return f"torchvision:{name.strip()}" if name else ""


def ask_path(title: str, key: str, example: str, about: str | None = None) -> str:
    """A path that is typed, pasted with quotes around it, or found in the dialog."""
    # A text field takes a value from elsewhere only before it is drawn.
    if (chosen := st.session_state.pop(f"{key}-found", None)) is not None:
        st.session_state[key] = chosen
    with st.container(horizontal=True, vertical_alignment="bottom"):
        path = st.text_input(title, placeholder=example, key=key, help=about)
        if st.button("Browse", icon=":material/folder_open:", key=f"{key}-browse"):
            start_browsing(f"{key}-folder", typed(path) or "")
            browse(key, f"{key}-folder")
    return typed(path) or ""


def ask_upload() -> str:
    """Files from the browser's machine."""
    files = st.file_uploader("Files", [*UPLOADED, *IMAGES], accept_multiple_files=True)
    return stored(files) if files else ""


def ask_columns(train: str, options: RunOptions) -> None:
    """Show the first rows of a table, and ask for its columns; puts these into the options."""
    rows = preview(train)
    if rows is None:
        return
    st.dataframe(rows, hide_index=True)
    columns = [str(column) for column in rows.columns]
    first, second = st.columns(2)
    options["label_column"] = ask_column(first, "Label column", columns, LABEL_COLUMNS, "choose one")
    options["true_label_column"] = ask_column(
        second,
        "True label column",
        columns,
        ("true_label",),
        "none",
        "Only to measure quality; no method reads it",
    )
    if not (rows == PICTURE).any(axis=None):
        options["path_column"] = ask_column(st, "Image path column", columns, PATH_COLUMNS, "choose one")
        root = ask_path("Folder of the images", "root", "that of the table", "No path may lead out of it.")
        options["image_root"] = root or None


def ask_column(
    where: Any,
    title: str,
    columns: list[str],
    usual: tuple[str, ...],
    without: str,
    about: str | None = None,
) -> str | None:
    """A column of a table; None leaves it to the usual names.

    Args:
        where: the page, or a part of it.
        title: of the field.
        columns: to choose from.
        usual: names that are taken by themselves.
        without: what the field says where there is no such column.
        about: the help.
    """
    own = next((column for name in usual if (column := found(name, columns))), None)
    rest = f"{own}, {BY_NAME}" if own else without
    chosen = where.selectbox(title, [rest, *columns], help=about)
    return None if chosen == rest else chosen


def preview(path: str) -> pd.DataFrame | None:
    """The first rows of a table; None where a path is none, or a large one.

    Raises:
        InputError: it lies outside the roots.
    """
    if path:
        check_place(path)
    try:
        state = Path(path).expanduser().stat()
    except (OSError, RuntimeError, ValueError):
        return None
    return _first_rows(path, state.st_mtime_ns) if path and state.st_size <= PREVIEW_BYTES else None


@st.cache_data(max_entries=4, show_spinner="Reading the table…")
def _first_rows(path: str, changed: int) -> pd.DataFrame | None:
    return first_rows(Path(path).expanduser())


def ask_validation(options: RunOptions) -> tuple[str | None, str]:
    """The validation split, and which of CHECKED it is."""
    how = st.radio("Clean validation split", CHECKED, index=len(CHECKED) - 1)
    if how == CHECKED[0]:
        validation = ask_path(
            "Clean images", "check", "/data/checked", "Its labels are trusted. It should cover every class."
        )
        if (rows := preview(validation)) is not None:
            columns = [str(column) for column in rows.columns]
            options["validation_label_column"] = ask_column(
                st, "Column of the trusted labels", columns, LABEL_COLUMNS, "choose one"
            )
        return validation or None, how
    if how == CHECKED[1]:
        return f"share:{st.slider('Share to trust, in percent', 1, 50, 10) / 100:g}", how
    if how == CHECKED[3]:
        st.caption(
            "Sharpeye then judges every image by a model that learned from the others. It finds "
            "scattered errors nearly as well, but cannot see where a class is mislabelled as a whole."
        )
        return "none", how
    return "split", how


def typed(text: str | None) -> str | None:
    """What was typed, without spaces and the quotes that a file manager puts around a path."""
    return (text or "").strip().strip("\"'").strip() or None
