"""How a process that a command line started ends: with its parent, and in good order."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the command line that started this process is killed."""
    if platform.system() == "Linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt once in the main thread, on SIGTERM or SIGINT; a second must not cut the clean-up short.

    KeyboardInterrupt and no class of our own: it is the one that Ray hands on from inside `ray.get`.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def end_at_once(code: int) -> None:
    """End this process without the interpreter's farewell, once all is written.

    Ray 2.60's own threads can lock each other while an interpreter ends: a run that was done would never end.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
