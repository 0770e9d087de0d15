"""A rank on a host that does not see the driver's folders: what it reads is brought there, and its log is sent back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from rayml.errors import BackendError
from rayml.stages.train.launchers.base import Order

SEND_EVERY_S = 2.0
"""Between two looks at the log; no more than so much is lost with a host."""


def arrive(order: Order) -> None:
    """Have on this host what the order speaks of. Of the ranks of a host the first one brings it."""
    if not order.hosts.apart():
        return
    for artifact in order.inputs:
        order.hosts.bring(artifact)
    for folder in (Path(order.loop["checkpoints"]), *order.folders):
        order.hosts.fetch(folder)
    order.hosts.make(order.logs)


@contextlib.contextmanager
def logs_sent(order: Order) -> Iterator[None]:
    """Send what ranks of this host write to the folder of logs, and once more at the end, however that is."""
    if not order.hosts.apart():
        yield
        return
    over = threading.Event()

    def send() -> None:
        # The storage may be away for a while: what was not sent then is sent later.
        with contextlib.suppress(BackendError):
            order.hosts.send(order.logs)

    def keep_sending() -> None:
        while not over.wait(SEND_EVERY_S):
            send()

    thread = threading.Thread(target=keep_sending, name="log-sender", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        send()
