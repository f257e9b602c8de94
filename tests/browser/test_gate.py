"""A server that others may reach: what a page of another address, or another person, can do to it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from sharpeye.runs.decisions import read_log
from sharpeye.runs.store import list_runs, store
from sharpeye.runs.workspace import Workspace
from sharpeye_app.access import token_of
from tests.app.synthetic import synthetic_workspace
from tests.browser.driving import App, reviewing, served
from tests.engine.runs.watching import kill_all

# A page of another port that tries the app's doors.
ATTACK = """<script>
const results = {};
const socket = new Promise((done) => {
  const opened = new WebSocket("ws://HOST/_stcore/stream");
  opened.onopen = () => done("open");
  opened.onerror = () => done("closed");
});
const post = fetch("http://HOST/decisions/RUN", {
  method: "POST", mode: "no-cors", credentials: "include", body: "{}",
}).then((answer) => answer.type, () => "failed");
const framed = new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.src = "http://HOST/review";
  frame.onload = () => { done(frame.contentDocument === null ? "elsewhere" : "blank"); };
  document.documentElement.append(frame);
});
Promise.all([socket, post, framed]).then((all) => { document.title = JSON.stringify(all); });
</script>"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[tuple[App, Workspace, str]]:
    workspace, run = synthetic_workspace(tmp_path / "synthetic", 100)
    with served(workspace.root, None, "--token") as running:
        yield running, workspace, run
    kill_all(workspace)


def test_the_token_opens_the_app_and_stays_with_the_browser(
    browser: Browser, app: tuple[App, Workspace, str]
) -> None:
    running, workspace, _ = app
    context = reviewing(browser, "ann")
    page = context.new_page()
    page.goto(f"{running.url}/review")
    expect(page.get_by_role("heading", name="This app asks for its token")).to_be_visible()
    page.get_by_label("Token").fill("guessed")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("heading", name="This app asks for its token")).to_be_visible()
    page.get_by_label("Token").fill(token_of(workspace.secret()))
    page.get_by_role("button", name="Open").click()
    page.locator(".card.focus img").wait_for()
    assert "token" not in page.url
    page.keyboard.press("r")
    expect(page.locator(".card .badge")).to_have_count(1)
    other = context.new_page()
    other.goto(f"{running.url}/team")
    expect(other.get_by_text("Share out work")).to_be_visible()
    assert "sharpeye_token" not in other.evaluate("document.cookie")
    context.close()


def test_a_link_from_another_site_leads_in(browser: Browser, app: tuple[App, Workspace, str]) -> None:
    """As from a mail, or back from a log-in elsewhere: strict cookies are not sent with such a request."""
    running, workspace, _ = app
    link = f'<a href="{running.url}/review">review</a>'.encode()
    context = reviewing(browser, "ann")
    page = context.new_page()
    with site(link) as elsewhere:
        page.goto(f"{running.url}/?token={token_of(workspace.secret())}")
        page.goto(elsewhere.replace("127.0.0.1", "localhost"))
        page.get_by_role("link", name="review").click()
        page.locator(".card.focus img").wait_for()
        stranger = browser.new_page()
        stranger.goto(elsewhere.replace("127.0.0.1", "localhost"))
        stranger.get_by_role("link", name="review").click()
        expect(stranger.get_by_role("heading", name="This app asks for its token")).to_be_visible()
        stranger.close()
    context.close()


@contextmanager
def site(content: bytes) -> Iterator[str]:
    """A server with one page; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_page_of_another_port_reaches_nothing(browser: Browser, app: tuple[App, Workspace, str]) -> None:
    running, workspace, run = app
    host = running.url.removeprefix("http://")

    attack = ATTACK.replace("HOST", host).replace("RUN", run).encode()
    with site(attack) as attacker:
        context = reviewing(browser, "ann")
        page = context.new_page()
        # Whoever visits it is logged in to the app.
        page.goto(f"{running.url}/?token={token_of(workspace.secret())}")
        page.goto(attacker)
        page.wait_for_function("document.title.startsWith('[')")
        socket, _, framed = json.loads(page.title())
        assert socket == "closed"
        assert framed == "elsewhere"
        assert page.frames[1].evaluate("document.body.innerText.includes('decided')") is False
        with store(workspace) as connection:
            assert [row.id for row in list_runs(connection)] == [run]
            assert read_log(connection, "dataset").empty
        context.close()
