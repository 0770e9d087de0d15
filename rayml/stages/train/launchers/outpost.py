"""A rank on a host that does not see the driver's folders: what it reads is brought there, and its log is sent back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rayml.errors import BackendError
from rayml.observe.meanwhile import meanwhile
from rayml.stages.train.launchers.base import Order
from rayml.stages.train.rank import log_path

TRACE_FILE = "trace.json.gz"
SEND_EVERY_S = 2.0
"""Between two looks at the log; no more than so much is lost with a host."""


def arrive(order: Order, rank: int) -> None:
    """Have on this host what the order speaks of, and the rank's log so far. The first rank of a host brings it."""
    if not order.hosts.apart():
        return
    for artifact in order.inputs:
        order.hosts.bring(artifact)
    for folder in (Path(order.loop["checkpoints"]), *order.folders):
        order.hosts.fetch(folder)
    order.hosts.fetch(order.logs, lambda name: name == log_path(order.logs, rank).name)


@contextlib.contextmanager
def logs_sent(order: Order, rank: int) -> Iterator[None]:
    """Send the rank's log while it is written, and at the end, however that is; the first sends torch's trace too."""
    own = {log_path(order.logs, rank).name} | ({TRACE_FILE} if rank == 0 else set())
    if not order.hosts.apart():
        yield
        return

    def send() -> None:
        # The storage may be away for a while: what was not sent then is sent later.
        with contextlib.suppress(BackendError):
            order.hosts.send(order.logs, lambda name: name in own)

    try:
        with meanwhile(send, SEND_EVERY_S, "log-sender"):
            yield
    finally:
        send()
