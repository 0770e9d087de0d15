"""A job that was handed over: what it prints, as it prints it, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from rayml.backends.ray.client import OVER, JobsClient
from rayml.errors import BackendError

POLL_S, SLOWEST_POLL_S, GROWTH = 0.05, 1.0, 1.1
"""Seconds between two looks at a job's status: short at first, for trivial jobs."""
EXIT_OF = {"SUCCEEDED": 0, "FAILED": 4, "STOPPED": 130}
RECONNECTS = 20


def follow(client: JobsClient, job: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Hand on what the job prints until it is over; what the head knows of it then.

    A connection that breaks is made again, and what was told is not told twice.
    """
    return asyncio.run(_follow(client, job, say))


async def _follow(client: JobsClient, job: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Ask for the status beside the log: Ray hands the log out in batches of seconds, and says late that it is over."""
    told = Told(say)
    hearing: asyncio.Task[None] | None = None
    pause, failures = POLL_S, 0
    try:
        while True:
            try:
                about = await asyncio.to_thread(client.job, job)
                failures = 0
            except BackendError:
                failures += 1
                if failures > RECONNECTS:
                    raise
                await asyncio.sleep(SLOWEST_POLL_S)
                continue
            if about["status"] in OVER:
                break
            if about["status"] != "PENDING" and (hearing is None or hearing.done()):
                hearing = asyncio.create_task(_tail(client, job, told))
            await asyncio.sleep(pause)
            pause = min(SLOWEST_POLL_S, GROWTH * pause)
    finally:
        if hearing is not None:
            hearing.cancel()
            await asyncio.wait([hearing])
    told.part(0, await asyncio.to_thread(client.logs, job))
    return about


class Told:
    """What was handed on of a log that is heard from its beginning with each connection."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._characters = 0

    def part(self, begin: int, text: str) -> None:
        """Hand on what is new in a piece of the log that begins at this character."""
        if begin + len(text) > self._characters:
            self._say(text[max(0, self._characters - begin) :])
            self._characters = begin + len(text)


async def _tail(client: JobsClient, job: str, told: Told) -> None:
    """Hand on what comes over the head's websocket until it closes."""
    import aiohttp

    heard = 0
    address = f"{client.address}/api/jobs/{job}/logs/tail"
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with (
            aiohttp.ClientSession(headers=client.headers()) as session,
            session.ws_connect(address, heartbeat=30.0, max_msg_size=0) as stream,
        ):
            async for message in stream:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                told.part(heard, message.data)
                heard += len(message.data)


def exit_code(about: dict[str, Any]) -> int:
    """Of a job that is over, as its head tells it: the driver's own, or what its status means."""
    code = about.get("driver_exit_code")
    return int(code) if code is not None else EXIT_OF[about["status"]]
