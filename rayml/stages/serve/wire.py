"""Requests and responses as values, and how they come from and go to ASGI. What a client did wrong is a Refusal."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
_DRAIN_S = 2.0
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
    return Response(dump_json(document), status, [(b"content-type", JSON), *(headers or [])])


def dump_json(document: object) -> bytes:
    return _encode(document).encode("ascii")


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
        return _decode(str(data, "utf-8"))
    except RecursionError:
        raise Refusal(400, "the JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the JSON is not UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# Made once: json.dumps and json.loads with options make a new one for each call, which costs 8 microseconds a request.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


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


class Body:
    """The body of a request while it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.whole = False
        """Whether everything was read."""

    async def read(self, max_body: int) -> bytes:
        """All of it, counted while it arrives.

        Raises:
            Refusal: 413 as soon as more than `max_body` bytes came.
            Disconnected: the client left.
        """
        chunks, size = [], 0
        while not self.whole:
            chunk = await self._next()
            size += len(chunk)
            if size > max_body:
                raise too_large(max_body)
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drain(self) -> None:
        """Drop what still comes, for 2 s at most.

        A server that closes a connection with unread bytes resets it, and the client loses the answer that was sent.
        """
        with suppress(TimeoutError, Disconnected):
            async with asyncio.timeout(_DRAIN_S):
                while not self.whole:
                    await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            raise Disconnected
        self.whole = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


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


async def send_response(send: Send, response: Response, extra: Headers, body: Body) -> None:
    """Send a response; a connection whose request was not read to its end is emptied and then closed."""
    headers = [*response.headers, (b"content-length", b"%d" % len(response.body)), *extra]
    if body.whole:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
        return
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    await body.drain()
    await send({"type": "http.response.body", "body": b""})
