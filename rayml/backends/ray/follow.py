"""A job that was handed over: what it prints, as it prints it, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rayml.backends.ray.client import OVER, JobsClient
from rayml.errors import BackendError

POLL_S, SLOWEST_POLL_S = 0.05, 1.0
"""Between two looks at a job's status: short at first, for trivial jobs."""
EXIT_OF = {"SUCCEEDED": 0, "FAILED": 4, "STOPPED": 130}
RECONNECTS = 20


def follow(client: JobsClient, job: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Hand on what the job prints until it is over; what the head knows of it then.

    A connection that breaks is made again, and what was told is not told twice.
    """
    return asyncio.run(_follow(client, job, say))


async def _follow(client: JobsClient, job: str, say: Callable[[str], None]) -> dict[str, Any]:
    told, pause, failures = 0, POLL_S, 0
    while True:
        try:
            about = await asyncio.to_thread(client.job, job)
            if about["status"] != "PENDING":
                told = await _tail(client, job, told, say)
                about = await asyncio.to_thread(client.job, job)
            failures = 0
        except BackendError:
            failures += 1
            if failures > RECONNECTS:
                raise
            await asyncio.sleep(SLOWEST_POLL_S)
            continue
        if about["status"] in OVER:
            whole = await asyncio.to_thread(client.logs, job)
            say(whole[told:])
            return about
        await asyncio.sleep(pause)
        pause = min(SLOWEST_POLL_S, 1.5 * pause)


async def _tail(client: JobsClient, job: str, told: int, say: Callable[[str], None]) -> int:
    """Hand on what comes over the head's websocket until it closes; how many characters were told in all."""
    import aiohttp

    heard = 0
    address = f"{client.address}/api/jobs/{job}/logs/tail"
    try:
        async with (
            aiohttp.ClientSession(headers=client.headers()) as session,
            session.ws_connect(address, heartbeat=30.0, max_msg_size=0) as stream,
        ):
            async for message in stream:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                heard += len(message.data)
                fresh = message.data[max(0, len(message.data) - max(0, heard - told)) :]
                say(fresh)
                told = max(told, heard)
    except (aiohttp.ClientError, OSError):
        return told
    return told


def exit_code(about: dict[str, Any]) -> int:
    """Of a job that is over, as its head tells it: the driver's own, or what its status means."""
    code = about.get("driver_exit_code")
    return int(code) if code is not None else EXIT_OF[about["status"]]
