"""Who may use the app: whoever knows its token, from its own pages."""

import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Answers whether the server lives, and nothing else.
OPEN_PATHS = ("/_stcore/health",)
TOKEN, COOKIE = "token", "sharpeye_token"
COOKIE_SECONDS = 365 * 24 * 3600
# Scripts and styles come from this server alone. Streamlit's pages have some of both within them, its
# components are loaded from blobs, and plotly compiles.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
}
ASK = """<!doctype html><html lang="en"><title>Sharpeye</title>
<body style="font: 16px/1.5 system-ui, sans-serif; max-width: 36em; margin: 4em auto; padding: 0 1em">
<h1 style="font-size: 1.4em">This app asks for its token</h1>
<p>Open the whole address that <code>sharpeye serve</code> printed; it ends in <code>?token=…</code>.
Or type the token:</p>
<form><label>Token <input name="token" autofocus autocomplete="off"></label> <button>Open</button></form>
</body></html>"""

# Asked for again by this server's own page, it comes with the cookie.
COME_AGAIN = (
    """<!doctype html><html lang="en"><title>Sharpeye</title><meta http-equiv="refresh" content="0"></html>"""
)


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_of(secret: bytes) -> str:
    """The token of a workspace: it stays the same, so that open pages outlast a restart."""
    return hmac.new(secret, b"token", hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True)
class Asked:
    """What a request brings that decides over it."""

    headers: dict[bytes, bytes]
    method: str
    path: str
    query: str
    port: int

    @classmethod
    def of(cls, scope: Scope) -> "Asked":
        return cls(
            headers=dict(scope["headers"]),
            method=scope.get("method", "WEBSOCKET"),
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            port=(scope.get("server") or ("", 0))[1] or 0,
        )

    def is_foreign(self) -> bool:
        """Whether a page of another address sends it; the port counts too."""
        origin = self.headers.get(b"origin")
        if origin is None or self.method in ("GET", "HEAD", "OPTIONS"):
            return False
        return urlsplit(origin.decode("latin-1")).netloc != self.headers.get(b"host", b"").decode("latin-1")

    def arrives(self) -> bool:
        """Whether somebody comes in from a page of another site, by a link or from a log-in there: browsers
        leave out strict cookies then."""
        names = (b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest")
        coming = [self.headers.get(name) for name in names]
        return self.method == "GET" and coming == [b"cross-site", b"navigate", b"document"]

    def cookie_name(self) -> str:
        """Browsers do not tell cookies of one host apart by its ports."""
        return f"{COOKIE}_{self.port}"

    def cookie(self) -> str:
        try:
            known = SimpleCookie(self.headers.get(b"cookie", b"").decode("latin-1"))
        except CookieError:
            return ""
        morsel = known.get(self.cookie_name())
        return morsel.value if morsel else ""


class Gate:
    """Middleware: refuses what pages of other addresses send, and whoever does not know the token; adds
    headers that keep pages to this server.

    A token in the address becomes a cookie that no script reads and no other site sends. Who follows a link
    from another site is let ask again.
    """

    def __init__(self, app: ASGIApp, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        answer = self.answer(Asked.of(scope))
        if answer is None:
            await self.app(scope, receive, with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, with_headers(send))

    def answer(self, asked: Asked) -> Response | None:
        """What a request is answered in the place of the app; None lets it through."""
        if asked.is_foreign():
            return PlainTextResponse("not from this app", 403)
        if self.token is None or asked.path in OPEN_PATHS:
            return None
        words = parse_qsl(asked.query, keep_blank_values=True)
        given = dict(words).get(TOKEN, "")
        if given and hmac.compare_digest(given.encode(), self.token.encode()) and asked.method == "GET":
            rest = urlencode([(name, value) for name, value in words if name != TOKEN])
            # A path of two slashes would be another host.
            answer = RedirectResponse("/" + asked.path.lstrip("/") + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(
                asked.cookie_name(),
                self.token,
                max_age=COOKIE_SECONDS,
                path="/",
                httponly=True,
                samesite="strict",
            )
            return answer
        if hmac.compare_digest(asked.cookie().encode(), self.token.encode()):
            return None
        return HTMLResponse(COME_AGAIN) if asked.arrives() else HTMLResponse(ASK, 403)


def with_headers(send: Send) -> Send:
    """A way to send answers with HEADERS."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
