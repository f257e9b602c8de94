"""A dialog to find a folder or a file on the machine that the app runs on, and uploads to it."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from sharpeye.data.archives import ARCHIVE_SUFFIXES
from sharpeye.data.images import SUFFIXES
from sharpeye.data.remote import is_address
from sharpeye.data.tables import kind_of
from sharpeye.errors import InputError
from sharpeye.files import replacing_folder
from sharpeye_app.parts import plain
from sharpeye_app.readers import workspace
from sharpeye_app.roots import check_place, roots

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

# In the dialog; who has more types the path.
SHOWN = 200
UPLOADED = ("zip", "tar", "tgz", "gz", "csv", "tsv", "jsonl", "json", "xml", "parquet", "arrow")
IMAGES = tuple(suffix.removeprefix(".") for suffix in sorted(SUFFIXES))


def is_source(path: Path) -> bool:
    """Whether a file can be a source by its name."""
    return bool(kind_of(path)) or path.name.lower().endswith((*ARCHIVE_SUFFIXES, ".arrow"))


def start_browsing(kept: str, typed: str) -> None:
    """Begin in the folder that is typed, where there is one, else where it was left."""
    try:
        place = Path(typed).expanduser()
        place = place if place.is_dir() else place.parent
        if typed and place.is_dir():
            st.session_state[kept] = str(place.resolve())
    except (OSError, ValueError, RuntimeError):
        return


@st.dialog("Choose on this machine", width="large")
def browse(key: str, kept: str) -> None:
    """Go through folders; what is chosen is put into the text field of this key.

    Args:
        key: of the text field.
        kept: where in the session the folder that is shown is kept.
    """
    kept_to = [root for root in roots() if not is_address(root)]
    folder = Path(st.session_state.get(kept) or (kept_to[0] if kept_to else Path.home()))
    try:
        check_place(str(folder))
    except InputError:
        folder = Path(kept_to[0]) if kept_to else workspace().uploads
    if len(kept_to) > 1:
        other = st.selectbox("Folders of this app", kept_to, index=None, key=f"{kept}-root")
        if other and not folder.is_relative_to(other):
            folder = Path(other)
    st.markdown(f"**{plain(str(folder))}**")
    with st.container(horizontal=True):
        if st.button("Use this folder", type="primary", key=f"{kept}-use"):
            st.session_state[f"{key}-found"] = str(folder)
            st.rerun()
        upward = folder != folder.parent and str(folder) not in kept_to
        if upward and st.button("Up", icon=":material/arrow_upward:", key=f"{kept}-up"):
            st.session_state[kept] = str(folder.parent)
            st.rerun(scope="fragment")
    try:
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        st.error(plain(f"{folder}: {error.strerror}"))
        return
    folders, files = [path for path in inside if path.is_dir()], [path for path in inside if is_source(path)]
    for path in folders[:SHOWN]:
        if st.button(plain(path.name), icon=":material/folder:", type="tertiary", key=f"{kept}-{path}"):
            st.session_state[kept] = str(path)
            st.rerun(scope="fragment")
    for path in [path for path in files if path.is_file()][:SHOWN]:
        if st.button(plain(path.name), icon=":material/table:", type="tertiary", key=f"{kept}-{path}"):
            st.session_state[f"{key}-found"] = str(path)
            st.rerun()
    if not folders and not files:
        st.caption("No folders, tables or archives in here.")
    others = sum(path.suffix.lower() in SUFFIXES for path in inside)
    if others:
        st.caption(f"{others:,} images lie in this folder itself.")


def stored(files: "Sequence[UploadedFile]") -> str:
    """Put uploaded files into the workspace; the path of the source that they make.

    Raises:
        InputError: they are no source: images without a table or an archive, say.
    """
    sources = [file for file in files if is_source(Path(file.name))]
    if len(sources) != 1:
        raise InputError(
            "Upload one archive of class folders, or one table with the images that it names."
            if sources
            else "Images alone have no labels: upload an archive of class folders, or a table beside them."
        )
    content = blake2b(digest_size=8)
    for file in sorted(files, key=lambda file: file.name):
        content.update(file.name.encode())
        content.update(file.getbuffer())
    folder = workspace().uploads / content.hexdigest()
    if not folder.exists():
        with replacing_folder(folder) as temporary:
            for file in files:
                (temporary / Path(file.name).name).write_bytes(file.getbuffer())
    return str(folder / Path(sources[0].name).name)
