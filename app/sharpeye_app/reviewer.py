"""Who reviews: a name that is asked once and kept by the browser, or an OpenID account where `st.login` is
configured."""

import hashlib
import hmac
from urllib.parse import unquote

import streamlit as st

from sharpeye.errors import InputError
from sharpeye.runs.review import current_user
from sharpeye.runs.store import store
from sharpeye.runs.team import NAME_LENGTH, Role, join, people, valid_name
from sharpeye_app.readers import workspace

COOKIE = "sharpeye_reviewer"
# The cookie can only be set by a script, and not by Streamlit.
_remember = st.components.v2.component(
    "sharpeye_reviewer",
    html="<span></span>",
    js=f"""export default ({{ data }}) => {{
      const name = encodeURIComponent(data.name);
      document.cookie = "{COOKIE}=" + name + ";path=/;max-age=31536000;SameSite=Strict";
    }}""",
)


def has_accounts() -> bool:
    """Whether log-in is configured, by the section `auth` of Streamlit's secrets."""
    return "is_logged_in" in st.user.to_dict()


def account() -> str | None:
    """The name of the account that a person is logged in with; None without."""
    person = st.user.to_dict()
    known = person.get("email") or person.get("name") or person.get("sub")
    return str(known) if person.get("is_logged_in") and known else None


def known_name() -> str | None:
    """The name of whoever looks at the page, where it is known by now; where there are accounts, only that of
    one counts."""
    kept = unquote(st.context.cookies.get(COOKIE, ""))
    name = account() if has_accounts() else st.session_state.get("reviewer") or kept
    try:
        return valid_name(name or "")
    except InputError:
        return None


def reviewer() -> str:
    """The name of whoever looks at the page; the page ends here, with a question, where it is not known."""
    name = known_name()
    if name is None and has_accounts():
        st.info("Decisions are kept under the name of an account.")
        st.button("Log in", type="primary", on_click=st.login)
        st.stop()
    if name is None:
        ask_name()
        st.info("Decisions are kept under a name. Load this page again to be asked once more.")
        st.stop()
    if "reviewer" in st.session_state:
        _remember(data={"name": name}, key="remember")
    return name


def role_of(name: str) -> Role:
    """A person's role; whoever comes first leads."""
    with store(workspace()) as connection:
        return people(connection).get(name) or join(connection, name)


@st.dialog("Who reviews?")
def ask_name() -> None:
    """Ask for a name; this browser keeps it."""
    st.write(
        "Decisions are kept under a name, so that several people can review together, each with an undo of "
        "their own. This browser remembers it."
    )
    with st.form("reviewer-form", border=False):
        name = st.text_input("Your name", known_name() or current_user(), max_chars=NAME_LENGTH)
        if st.form_submit_button("Start", type="primary"):
            try:
                st.session_state["reviewer"] = valid_name(name)
                st.rerun()
            except InputError as error:
                st.error(str(error))


def signature(name: str) -> str:
    """What shows to the routes that a page gave this name to its reader."""
    return hmac.new(workspace().secret(), name.encode(), hashlib.sha256).hexdigest()


def is_signed(name: str, signed: str) -> bool:
    """Whether a page of this workspace's app signed a name."""
    return hmac.compare_digest(signature(name), signed)
