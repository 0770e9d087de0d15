"""`processes`: ranks on this machine, forked from one clean process that has imported torch (docs/adr/0011).

That process is Python's own fork server. It is started as soon as a run knows that it will train, so that torch is
imported while the data step works; a fork takes hundredths of a second, and nothing of Ray runs inside a rank.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import secrets
import signal
import sys
import time
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayml.errors import RaymlError
from rayml.process import die_with_parent
from rayml.stages.api import Emit
from rayml.stages.train.failures import Died, explain
from rayml.stages.train.launchers.base import Order

if TYPE_CHECKING:
    from rayml.stages.train.strategies.base import Seat

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["rayml.stages.train.launchers.preloaded"])

LAST_WORDS_S = 5.0
"""How long the other ranks get to say what they saw once one has failed."""


def warm_up() -> None:
    """Let the process that ranks are forked from import torch, beside whatever else goes on."""
    forkserver.ensure_running()


def fit(order: Order, emit: Emit) -> None:
    """Fork the ranks, hand on their events, and see to it that none is left."""
    order.storage.mkdir(parents=True, exist_ok=True)
    meeting = order.storage / f"meeting-{secrets.token_hex(4)}"
    ranks = [Rank(order, number, meeting) for number in range(order.resources.workers)]
    try:
        failures = watch(ranks, emit)
    finally:
        for rank in ranks:
            rank.end()
        meeting.unlink(missing_ok=True)
    if failures:
        raise explain(failures, len(ranks), order.logs)


class Rank:
    """A rank's process, and the pipe on which it speaks."""

    def __init__(self, order: Order, number: int, meeting: Path) -> None:
        self.number = number
        self.voice, theirs = SERVER.Pipe(duplex=False)
        self.process = SERVER.Process(target=run_rank, args=(order, number, meeting, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.done = False

    def hear(self, emit: Emit) -> Exception | None:
        """Take one message; the failure where it is one or the process is gone."""
        try:
            kind, content = self.voice.recv()
        except EOFError:
            self.process.join()
            self.done = True
            return Died(f"its process ended, {exit_words(self.process.exitcode)}")
        if kind == "event":
            emit(content.pop("kind"), **content)
            return None
        self.done = True
        assert content is None or isinstance(content, Exception), "a rank ends with nothing or with what it raised"
        return content

    def end(self) -> None:
        """Let no process behind."""
        if not self.done:
            self.process.kill()
        self.process.join()
        self.voice.close()


def watch(ranks: list[Rank], emit: Emit) -> dict[int, Exception]:
    """Listen until every rank is done, or for a moment after the first that failed. The failures by rank."""
    failures: dict[int, Exception] = {}
    deadline: float | None = None
    while speaking := {rank.voice: rank for rank in ranks if not rank.done}:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = wait(list(speaking), timeout=left)
        if not ready:
            break
        for voice in ready:
            assert isinstance(voice, Connection), "only pipes were waited for"
            failure = speaking[voice].hear(emit)
            if failure is not None:
                failures[speaking[voice].number] = failure
                deadline = deadline or time.monotonic() + LAST_WORDS_S
    return failures


def run_rank(order: Order, number: int, meeting: Path, voice: Connection) -> None:
    """What the forked process does. It ends without the interpreter's farewell, which waits for peers that are gone."""
    die_with_parent()
    # Imported before the fork.
    from rayml.stages.train.memory import keep_freed_memory
    from rayml.stages.train.rank import log_to_file, work

    keep_freed_memory()
    log = log_to_file(order.logs, number)
    try:
        work(order.loop, take_seat(order, number, meeting), partial(tell, voice), log)
        last: Exception | None = None
    except Exception as error:
        last = error if isinstance(error, RaymlError) else RuntimeError(f"{type(error).__name__}: {error}")
    voice.send(("end", last))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def take_seat(order: Order, number: int, meeting: Path) -> Seat:
    """Join the other ranks, over loopback where gloo is what they speak."""
    import torch
    import torch.distributed as dist

    from rayml.stages.train.strategies.base import Seat

    gpus = order.resources.gpus_per_worker
    if platform.system() == "Linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = torch.device("cuda", number) if gpus else torch.device("cpu")
    dist.init_process_group(
        "nccl" if gpus else "gloo",
        init_method=f"file://{meeting}",
        rank=number,
        world_size=order.resources.workers,
        device_id=device if gpus else None,
    )
    return Seat(number, order.resources.workers, device)


def tell(voice: Connection, kind: str, **fields: Any) -> None:
    """Send an event to the driver."""
    voice.send(("event", {"kind": kind, **fields}))


def exit_words(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
