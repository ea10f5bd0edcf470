"""Who may ask: a browser on this machine that was led to the page itself, not another site or another port's page.

Streamlit checks Host and Origin of its WebSocket only. This checks every request, as an ASGI middleware, and tells the
browser that the page may be put in no frame and may ask no other machine for anything.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from streamlit import config

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'none'; object-src 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def refusal(headers: Mapping[str, str], hosts: Collection[str]) -> str:
    """Why a request is refused, in a sentence; "" where it is not. headers: by lower-case name.

    hosts: names under which the page is asked for; none stands for any, as `--unsafe-expose` wants it. An Origin has
    to be the page's own, port included: a page of another port of this machine is a stranger, too.
    """
    host = headers.get("host", "")
    if hosts and _name(host) not in hosts:
        return "This page answers on the loopback address only."
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return "This page answers to itself only, not to another site or port."
    led_here = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not led_here:
        return "This page is not to be used inside another one."
    return ""


def _name(host: str) -> str:
    """The name in a Host header, without its port; "" for one that is no host."""
    try:
        parsed = urlsplit(f"//{host}")
        return "" if parsed.username or parsed.path else (parsed.hostname or "").rstrip(".")
    except ValueError:
        return ""


class ThisMachine:
    """ASGI middleware that refuses what `refusal` refuses, with 403, and adds HEADERS to all other answers."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        why = refusal(headers, config.get_option("server.allowedHosts"))
        if why and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": why})
            return
        if why:
            told = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": told})
            await send({"type": "http.response.body", "body": why.encode()})
            return

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await self.app(scope, receive, answered)
