"""The endpoint as a plain ASGI application: Open Inference Protocol v2 and `POST /predict`.

No framework stands on the way of a request: one dictionary finds its route, one function turns it into a response. A
request that takes long to answer runs in a thread, so that health checks are answered meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote as quote_path

import numpy as np

from rayml import __version__
from rayml.stages.serve.keys import KeyCheck
from rayml.stages.serve.model import ServedModel
from rayml.stages.serve.protocol import infer, model_metadata
from rayml.stages.serve.records import FORM, predict
from rayml.stages.serve.wire import (
    App,
    Body,
    Disconnected,
    Headers,
    Receive,
    Refusal,
    Request,
    Response,
    Scope,
    Send,
    declared_length,
    decompress,
    json_response,
    refuse,
    request_id,
    send_response,
)

log = logging.getLogger(__name__)

EXTENSIONS = ("binary_tensor_data",)
ECHOED = "rayml.request_id_echoed"
"""Set in a scope by who stands before the application and answers X-Request-Id itself."""

_BLOCKING_S = 0.003
"""A request expected to take longer than this is answered in a thread; handing it over costs about 0.05 ms."""
_DIRECT_BYTES = 128 * 1024
"""A larger body is parsed in a thread: JSON of this size takes about a millisecond."""

Handler = Callable[[Request], Response]


@dataclass(frozen=True)
class Route:
    """What answers a path."""

    methods: tuple[str, ...]
    handler: Handler
    media_types: tuple[str, ...] = ()
    """Content types that a POST may have; one that ends in `/` stands for all below it."""
    open: bool = False
    """Answered without a key."""
    direct_bytes: int = 0
    """A body up to this size is answered on the event loop."""


def create_app(model: ServedModel, *, key_hash: str | None, max_body: int, max_rows: int) -> App:
    """The application that serves one model.

    Args:
        key_hash: `hash_key` of the bearer key, or None for an endpoint without one.
        max_body: bytes of the largest request body, compressed or not.
        max_rows: most rows of one request.
    """
    routes = _routes(model, max_rows)
    authorized = KeyCheck(key_hash) if key_hash is not None else None
    executor = ThreadPoolExecutor(1, thread_name_prefix="infer")
    named = [(b"x-model-version", model.version.encode())]

    async def answer(scope: Scope, headers: dict[bytes, bytes], incoming: Body) -> Response:
        route = routes.get(scope["path"])
        if (
            authorized is not None
            and (route is None or not route.open)
            and not authorized(headers.get(b"authorization"))
        ):
            raise Refusal(
                401, "this endpoint asks for its key: Authorization: Bearer KEY", [(b"www-authenticate", b"Bearer")]
            )
        if route is None:
            raise _not_found(scope["path"], model)
        if scope["method"] not in route.methods:
            allow = ", ".join(route.methods)
            raise Refusal(405, f"{scope['path']} takes {allow}", [(b"allow", allow.encode())])
        if not route.media_types:
            return route.handler(Request(scope["path"], headers, b""))
        _check_media_type(headers, route)
        declared_length(headers, max_body)
        body = await incoming.read(max_body)
        encoding = headers.get(b"content-encoding", b"")
        if len(body) <= route.direct_bytes and not encoding:
            return route.handler(Request(scope["path"], headers, body))

        def work() -> Response:
            return route.handler(Request(scope["path"], headers, decompress(encoding, body, max_body)))

        return await asyncio.get_running_loop().run_in_executor(executor, work)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _decline(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        incoming = Body(receive)
        # Without these two there is no body, and nothing to wait for.
        incoming.whole = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        try:
            response = await answer(scope, headers, incoming)
        except Refusal as refusal:
            response = refuse(refusal)
        except Disconnected:
            return
        except Exception:
            log.exception("a request to %s failed inside rayml", scope["path"])
            response = json_response({"error": "the endpoint failed; its log says why"}, 500)
        extra: Headers = named
        if ECHOED not in scope:
            extra = [*named, (b"x-request-id", request_id(headers) or secrets.token_hex(8).encode())]
        await send_response(send, response, extra, incoming)

    return app


def _routes(model: ServedModel, max_rows: int) -> dict[str, Route]:
    """Every path that exists."""
    read = ("GET", "HEAD")
    bodies = ("", "application/json", "application/octet-stream", "application/x-www-form-urlencoded")
    images = ("image/", FORM) if model.schema.feature.kind == "image" else ()
    direct = _direct_bytes(model)

    def fixed(document: Mapping[str, Any], *, open_to_all: bool = False) -> Route:
        response = json_response(document)
        return Route(read, lambda _: response, open=open_to_all)

    routes = {
        "/v2": fixed({"name": "rayml", "version": __version__, "extensions": list(EXTENSIONS)}),
        "/v2/health/live": fixed({"live": True}, open_to_all=True),
        "/v2/health/ready": fixed({"ready": True}, open_to_all=True),
        "/predict": Route(
            ("POST",),
            lambda request: predict(model, request, max_rows),
            (*bodies, *images),
            # A small image file can take long to decode.
            direct_bytes=0 if images else direct,
        ),
    }
    for path in (f"/v2/models/{model.name}", f"/v2/models/{model.name}/versions/{model.version}"):
        routes[path] = fixed(model_metadata(model))
        routes[f"{path}/ready"] = fixed({"name": model.name, "ready": True})
        routes[f"{path}/infer"] = Route(
            ("POST",), lambda request: infer(model, request, max_rows), bodies, direct_bytes=direct
        )
    return routes


def _direct_bytes(model: ServedModel) -> int:
    """Largest body that is answered on the event loop, from the time that this model takes on this machine.

    For a small model the loop is the faster place: nothing else can use the processor meanwhile, and the hand-over to a
    thread and back costs more than the inference.
    """
    row = np.zeros((1, *model.schema.feature.shape), model.schema.feature.dtype)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        model.infer(row)
        seconds.append(time.perf_counter() - started)
    rows = int(_BLOCKING_S / min(seconds))
    return min(rows * (model.row_bytes + 1) + 1024, _DIRECT_BYTES) if rows else 0


def _not_found(path: str, model: ServedModel) -> Refusal:
    if path.startswith("/v2/models/") and path.split("/")[3:4] != [model.name]:
        return Refusal(404, f"no model {quote_path(path.split('/')[3][:64])}; this endpoint serves {model.name}")
    return Refusal(404, f"nothing at {quote_path(path[:128])}; try /v2, /v2/models/{model.name}/infer or /predict")


def _check_media_type(headers: dict[bytes, bytes], route: Route) -> None:
    kind = Request("", headers, b"").media_type()
    if kind in route.media_types or (kind.partition("/")[0] + "/") in route.media_types:
        return
    accepted = ", ".join(name for name in route.media_types if name)
    raise Refusal(415, f"Content-Type is none of {accepted}", [(b"accept", accepted.replace("/,", "/*,").encode())])


async def _decline(scope: Scope, receive: Receive, send: Send) -> None:
    """What is not HTTP: a websocket is refused (403), the server's start and end are acknowledged."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    elif scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
