"""A TCP proxy that fails on demand: it refuses new connections, cuts those that are open, or holds bytes back."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class FaultProxy:
    """Stands between a client and a server of this machine. Its knobs may be turned from any thread.

    Attributes:
        delay_s: seconds that each piece of the server's answers is held back.
        longest_answer_bytes: a connection is cut once so much was answered on it.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.longest_answer_bytes = sys.maxsize
        self._target_port = target_port
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()

    def cut(self) -> None:
        """Close every connection, and each new one at once, until `mend`."""
        self._refusing = True
        self._loop.call_soon_threadsafe(self._close_all)

    def mend(self) -> None:
        """Let connections through again."""
        self._refusing = False

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
            await asyncio.gather(self._pipe(reader, to_server, False), self._pipe(from_server, writer, True))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        self._writers.add(writer)
        passed = 0
        try:
            while piece := await reader.read(65536):
                passed += len(piece)
                if answers and passed > self.longest_answer_bytes:
                    writer.transport.abort()
                    return
                if answers and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


@contextmanager
def fault_proxy(target_port: int) -> Iterator[FaultProxy]:
    """A proxy in front of a port, in a thread of its own."""
    proxy, ready = FaultProxy(target_port), threading.Event()
    thread = threading.Thread(target=proxy._loop.run_until_complete, args=(proxy._serve(ready),), daemon=True)
    thread.start()
    assert ready.wait(10), "the proxy did not start"
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(proxy._stop.set)
        thread.join(10)
        proxy._loop.close()
