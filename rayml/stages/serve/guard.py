"""What stands before Ray Serve in a replica: headers that Ray would choke on, or obey, never reach it.

Ray decodes some headers as UTF-8 and answers 500 where they are not, lets a client set its own timeout, and repeats
whatever X-Request-Id it is given. Loaded by Ray through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

import secrets
from typing import Any

from rayml.stages.serve.app import ECHOED
from rayml.stages.serve.wire import App, Headers, Receive, Scope, Send, request_id

_RAY_HEADERS = frozenset(
    [
        b"x-request-id",
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve-multiplexed-model-id",
        b"x-session-id",
        b"traceparent",
        b"tracestate",
    ]
)
# Without this Ray starts two tasks for each request, only to notice that the client left while it was answered.
_NO_DISCONNECT_TASK = (b"x-request-disconnect-disabled", b"?1")


class Guard:
    """ASGI middleware, the outermost of a replica."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] == "http":
            headers: Headers = scope["headers"]
            identity = request_id(dict(headers)) or secrets.token_hex(8).encode()
            kept = [header for header in headers if header[0].replace(b"_", b"-") not in _RAY_HEADERS]
            scope["headers"] = [*kept, (b"x-request-id", identity), _NO_DISCONNECT_TASK]
            scope[ECHOED] = True
        await self._app(scope, receive, send)


def middlewares() -> list[Any]:
    """What Ray Serve asks for, once per replica and proxy."""
    from starlette.middleware import Middleware

    return [Middleware(Guard)]
