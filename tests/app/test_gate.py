"""Who is let in, and what pages may load; see also the journey with a token in tests/browser."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from sharpeye.commands.options import ServerOptions
from sharpeye.errors import InputError
from sharpeye_app.access import HEADERS, Gate, is_loopback
from sharpeye_app.server import serve

TOKEN = "0123456789abcdef"
HOST = "127.0.0.1:8501"


def app(token: str | None) -> TestClient:
    async def page(request: Request) -> Response:
        return PlainTextResponse(str(request.url.query))

    async def stream(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("in")
        await socket.close()

    routes = [
        Route("/{path:path}", page, methods=["GET", "POST", "PUT", "DELETE"]),
        WebSocketRoute("/_stcore/stream", stream),
    ]
    return TestClient(
        Gate(Starlette(routes=routes), token), base_url=f"http://{HOST}", follow_redirects=False
    )


def connects(client: TestClient, **headers: str) -> bool:
    try:
        with client.websocket_connect(f"ws://{HOST}/_stcore/stream", headers=headers) as socket:
            return socket.receive_text() == "in"
    except WebSocketDisconnect:
        return False


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    ("origin", "own"),
    [
        (f"http://{HOST}", True),
        (f"https://{HOST}", True),
        ("http://127.0.0.1:9999", False),
        ("http://localhost:8501", False),
        ("http://127.0.0.1", False),
        ("https://example.org", False),
        (f"http://{HOST}.example.org", False),
        ("null", False),
        ("", False),
    ],
)
def test_only_the_app_s_own_pages_send_and_connect(token: str | None, origin: str, own: bool) -> None:
    client = app(token)
    if token:
        assert client.get(f"/?token={token}").status_code == 303
    assert connects(client, origin=origin) is own
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, "/decisions/a", headers={"origin": origin}).status_code == (
            200 if own else 403
        )
    assert client.get("/", headers={"origin": origin}).status_code == 200


def test_nobody_comes_in_without_the_token() -> None:
    client = app(TOKEN)
    for path in ("/", "/review", "/pictures/0123456789abcdef/0", "/?token=wrong", "/?token=", "/?token=é"):
        answer = client.get(path)
        assert answer.status_code == 403, path
        assert "asks for its token" in answer.text
    assert client.post("/decisions/a").status_code == 403
    assert client.post(f"/decisions/a?token={TOKEN}").status_code == 403
    assert not connects(client)
    assert not connects(client, cookie=f"sharpeye_token_8501={TOKEN[:-1]}")
    assert not connects(client, cookie="=;;\x00")
    assert client.get("/_stcore/health").status_code == 200


def test_the_token_becomes_a_cookie_that_no_script_reads() -> None:
    client = app(TOKEN)
    answer = client.get(f"/review?run=1a&token={TOKEN}&page=2")
    assert (answer.status_code, answer.headers["location"]) == (303, "/review?run=1a&page=2")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "sharpeye_token_8501=" in cookie
    assert client.get("/review").status_code == 200
    assert client.post("/decisions/a").status_code == 200
    assert connects(client)


def test_a_link_from_another_site_asks_again_before_it_asks_for_the_token() -> None:
    client = app(TOKEN)
    arriving = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert 'http-equiv="refresh"' in client.get("/oauth2callback?code=1", headers=arriving).text
    for header, other in (("site", "same-origin"), ("mode", "cors"), ("dest", "iframe")):
        answer = client.get("/", headers=arriving | {f"sec-fetch-{header}": other})
        assert answer.status_code == 403
        assert "asks for its token" in answer.text
    assert client.post("/decisions/a", headers=arriving).status_code == 403


def test_a_token_leads_to_no_other_host() -> None:
    answer = app(TOKEN).get(f"http://{HOST}//example.org/?token={TOKEN}")
    assert answer.headers["location"] == "/example.org/"


def test_every_answer_keeps_pages_to_this_server() -> None:
    client = app(TOKEN)
    for answer in (client.get("/"), client.get(f"/?token={TOKEN}"), client.get("/")):
        for name, value in HEADERS.items():
            assert answer.headers[name] == value


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("roots", "token", "message"), [((), True, "give --root DIR"), (("/",), False, "--no-token: only where")]
)
def test_others_reach_the_app_by_token_and_within_roots_alone(
    roots: tuple[str, ...], token: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        serve("/nowhere", ServerOptions("0.0.0.0", None, roots, (), token, False))
