"""Asking an application from within its own process, before anybody else can: one ASGI call for each request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rayml.stages.serve.client import Answer
from rayml.stages.serve.wire import App, Message


class Inside:
    """An Asker of an application that listens nowhere yet."""

    def __init__(self, app: App, key: str | None) -> None:
        self._app = app
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """What the application answers."""
        given = {**self._headers, **(headers or {}), "Content-Length": str(len(body or b""))}
        # A replica is built inside a running event loop, which another one cannot run in.
        with ThreadPoolExecutor(1, thread_name_prefix="asks-inside") as thread:
            return thread.submit(asyncio.run, self._call(method, path, body or b"", given)).result()

    async def _call(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        sent: list[dict[str, Any]] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._app({"type": "http", "method": method, "path": path, "headers": encoded}, receive, send)
        first, *rest = sent
        found = {name.decode(): value.decode() for name, value in first["headers"]}
        return Answer(first["status"], found, b"".join(each["body"] for each in rest))
