"""The page that Streamlit serves, told where its server is, and with a style of its own."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Else its script asks for the server below the address of each page first, and the console shows two errors.
SCRIPT = b"<script>window.__streamlit = { BACKEND_BASE_URL: location.origin };</script>"
# Streamlit's captions, and a chosen part of a control, have less contrast than WCAG AA asks for.
STYLE = b"""<style>
.stMainBlockContainer { padding-top: 4.5rem !important; padding-bottom: 2rem !important; }
[data-testid="stCaptionContainer"] { opacity: .82 !important; }
[data-testid="stCaptionContainer"], [data-testid="stCaptionContainer"] :is(p, code) {
  color: inherit !important; }
[data-testid="stButtonGroup"] [data-selected="true"] p, [data-testid="stSliderThumbValue"] p {
  color: light-dark(#0b4f49, #c9ece7) !important; }
</style>"""
HEAD = b"</head>"


class IndexPage:
    """Middleware that puts SCRIPT and STYLE into the head of HTML pages."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # So that the page comes as text, not packed.
        if b"text/html" in dict(scope["headers"]).get(b"accept", b""):
            asked = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
            scope = {**scope, "headers": asked}
        start: Message = {}
        body = bytearray()

        async def changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {name.lower(): value for name, value in message["headers"]}
                if headers.get(b"content-type", b"").startswith(b"text/html"):
                    start.update(message)
                    return
            if not start:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            page = bytes(body).replace(HEAD, SCRIPT + STYLE + HEAD, 1) if body else b""
            own = (b"content-length", b"etag")
            headers_left = [(name, value) for name, value in start["headers"] if name.lower() not in own]
            length = str(len(page)).encode() if body else None
            sized = [*headers_left, (b"content-length", length)] if length else headers_left
            await send({**start, "headers": sized})
            await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, changed)
