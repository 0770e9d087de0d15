"""Requests and responses as values, and how they come from and go to ASGI. What a client did wrong is a Refusal."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
_DIGITS = re.compile(rb"[0-9]{1,18}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")


class Refusal(Exception):
    """An answer of 4xx with `{"error": message}`."""

    def __init__(self, status: int, message: str, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or []


class Disconnected(Exception):
    """The client went away before its request was whole; nobody is there to be answered."""


@dataclass(frozen=True)
class Request:
    """A whole request."""

    path: str
    headers: dict[bytes, bytes]
    """Names in lower case; of a repeated header the last."""
    body: bytes

    def media_type(self) -> str:
        """`image/png` of `image/png; name=x`, in lower case; empty where the client named none."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")


@dataclass(frozen=True)
class Response:
    """A whole response."""

    body: bytes
    status: int = 200
    headers: Headers = field(default_factory=lambda: [(b"content-type", JSON)])


def json_response(document: object, status: int = 200, headers: Headers | None = None) -> Response:
    """A JSON document. Characters beyond ASCII are escaped, so a lone surrogate that a client sent cannot break it."""
    body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
    return Response(body, status, [(b"content-type", JSON), *(headers or [])])


def refuse(refusal: Refusal) -> Response:
    return json_response({"error": refusal.message}, refusal.status, refusal.headers)


def load_json(data: bytes | memoryview) -> Any:
    """Strict JSON: no NaN, no Infinity; too deep or not UTF-8 is refused.

    Raises:
        Refusal: 400.
    """
    if not data:
        raise Refusal(400, "the body is empty; a JSON document was expected")
    try:
        return json.loads(str(data, "utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise Refusal(400, "the JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the JSON is not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def declared_length(headers: dict[bytes, bytes], max_body: int) -> int | None:
    """Content-Length, or None for a chunked body.

    Raises:
        Refusal: 400 for what is no length, 411 where the client names neither, 413 beyond `max_body`.
    """
    length = headers.get(b"content-length")
    if length is None:
        if b"transfer-encoding" not in headers:
            raise Refusal(411, "Content-Length is missing")
        return None
    if not _DIGITS.fullmatch(length):
        raise Refusal(400, "Content-Length is not a number of bytes")
    if int(length) > max_body:
        raise too_large(max_body)
    return int(length)


async def read_body(receive: Receive, max_body: int) -> bytes:
    """The body, counted while it arrives.

    Raises:
        Refusal: 413 as soon as more than `max_body` bytes came.
        Disconnected: the client left.
    """
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        only: bytes = message.get("body", b"")
        if len(only) > max_body:
            raise too_large(max_body)
        return only
    chunks, size = [], 0
    while message["type"] == "http.request":
        chunk = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > max_body:
            raise too_large(max_body)
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()
    raise Disconnected


def too_large(max_body: int) -> Refusal:
    return Refusal(413, f"the body is larger than {max_body} bytes")


def decompress(encoding: bytes, body: bytes, max_body: int) -> bytes:
    """The body without its Content-Encoding, never holding more than `max_body` bytes of it.

    Raises:
        Refusal: 415 for an encoding other than gzip and deflate, 400 for damaged data, 413 beyond `max_body`.
    """
    name = encoding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name not in (b"gzip", b"x-gzip", b"deflate"):
        raise Refusal(
            415, "Content-Encoding is none of gzip, deflate and identity", [(b"accept-encoding", b"gzip, deflate")]
        )
    inflater = zlib.decompressobj(zlib.MAX_WBITS if name == b"deflate" else zlib.MAX_WBITS | 16)
    try:
        plain = inflater.decompress(body, max_body + 1)
    except zlib.error:
        raise Refusal(400, f"the body is not {name.decode()} data") from None
    if len(plain) > max_body:
        raise too_large(max_body)
    if not inflater.eof or inflater.unused_data:
        raise Refusal(400, f"the {name.decode()} data of the body is cut off or has something behind its end")
    return plain


def request_id(headers: dict[bytes, bytes]) -> bytes | None:
    """The client's X-Request-Id where it is harmless in a log: at most 64 of letters, digits and `._:-`."""
    given = headers.get(b"x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else None


async def send_response(send: Send, response: Response, extra: Headers) -> None:
    length = (b"content-length", b"%d" % len(response.body))
    await send(
        {"type": "http.response.start", "status": response.status, "headers": [*response.headers, length, *extra]}
    )
    await send({"type": "http.response.body", "body": response.body})
