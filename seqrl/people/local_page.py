"""Pages in the browser, served to this machine alone. Gradio is imported here and nowhere else.

A page asks nothing of any other host: no analytics, no fonts or scripts from elsewhere, no link to share; a policy in
every answer has the browser refuse what would. It answers only what asks for 127.0.0.1 or localhost, and no page of
another site. What people and models say is escaped: no markup, Markdown or formula of it is interpreted.
"""

import contextlib
import html
import os
import socket
from typing import Any

from seqrl.data.dialogues import shown
from seqrl.errors import UserError

for _name in [name for name in os.environ if name.startswith("GRADIO_")]:
    del os.environ[_name]  # they would share, trace or watch this page as they do others
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}

try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
except ImportError:
    raise UserError("the page (--web) needs Gradio: pip install 'seqrl[chat]', or go on in the terminal") from None

__all__ = ["HOST", "bound", "escaped", "gr", "guarded", "serve_until_interrupted"]

HOST = "127.0.0.1"
MOST_SHOWN = 10_000
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""What the browser may load: of this page's own server alone. Gradio itself needs scripts in the page, and eval."""


def escaped(text: object) -> str:
    """Text for a page: HTML stands there as it was written, characters that cannot be seen are visible escapes.

    Braces and dollars are escaped too, since components have templates that mean something by them.
    """
    lines = (html.escape(shown(line, MOST_SHOWN)) for line in str(text).split("\n"))
    return "<br>".join(line.replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;") for line in lines)


class _Guard:
    """Answers requests of this page alone, and tells the browser to load nothing of other hosts.

    A page of another site could else have the browser speak to this one: by its address, which the browser says in
    Origin, or by a name of its own that leads to 127.0.0.1, which it says in Host.
    """

    def __init__(self, app: Any, port: int) -> None:
        self.app = app
        self.hosts = {f"{name}:{port}".encode() for name in (HOST, "localhost")}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        foreign = origin is not None and origin.removeprefix(b"http://") not in self.hosts
        if foreign or headers.get(b"host") not in self.hosts or scope["type"] == "websocket":
            start = {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            await send(start)
            return await send({"type": "http.response.body", "body": b"this page is for this machine alone\n"})

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        return await self.app(scope, receive, with_policy)


def guarded(blocks: gr.Blocks, port: int, css: str = "", head: str = "") -> Any:
    """The page as an ASGI application, for a server on `port`; `head` stands in its <head>."""
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), blocks, "/",
        server_name=HOST, server_port=port, footer_links=[], run_history=False, root_path="", show_error=False,
        max_file_size="1kb", ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, css=css,
        head=head or None,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )  # fmt: skip
    return _Guard(app, port)


def bound(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1, at `port` or one that is free. Raises UserError where it is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(f"cannot serve on {HOST}:{port} ({error.strerror}): choose another --port, or 0") from None
    return listening


def serve_until_interrupted(app: Any, listening: socket.socket) -> None:
    """Answer on a socket until Ctrl-C."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False,
        proxy_headers=False, ws="none",
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        uvicorn.Server(config).run(sockets=[listening])
