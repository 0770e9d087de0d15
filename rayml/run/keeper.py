"""The process above a Ray head and its nodes: they end when it ends, and it ends with the run.

`python -m rayml.run.keeper COMMAND...`, as the leader of a process session. Ray lets the nodes of an autoscaler that
was killed live for another minute; here everything that is left in the session is killed with the head.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

from rayml.backends.local import session_members
from rayml.process import die_with_parent, interrupt_on_signals


def main(command: list[str]) -> int:
    """The exit code of the command, or 0 where the run was over first."""
    die_with_parent()
    interrupt_on_signals()
    try:
        return subprocess.call(command, stdin=subprocess.DEVNULL)
    except KeyboardInterrupt:
        return 0
    finally:
        end_others(os.getpid())


def end_others(leader: int) -> None:
    """Kill every process of a session but its leader, and those that they start meanwhile."""
    while others := [pid for pid in session_members(leader) if pid != leader]:
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
