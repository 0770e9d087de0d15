"""The failures of several ranks as one error: which rank, why, and that one's last lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rayml.errors import RaymlError, StageError, WorkerLost

LOG_LINES = 20

LOST_PEER = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|peer", re.IGNORECASE)
"""How torch.distributed speaks of a rank that went away; the ranks that stay say this."""


class Died(Exception):
    """A rank's process is gone without a word."""


def speaks_of_a_lost_peer(error: Exception) -> bool:
    """Whether a rank failed only because another one went away."""
    return LOST_PEER.search(str(error)) is not None


def explain(failures: Mapping[int, Exception], world_size: int, logs: Path) -> RaymlError:
    """The error to raise for what each failed rank ended with."""
    for cause in failures.values():
        if isinstance(cause, RaymlError):
            return cause
    followers = {rank: speaks_of_a_lost_peer(cause) for rank, cause in failures.items()}
    rank, cause = min(failures.items(), key=lambda item: (followers[item[0]], item[0]))
    lost = all(isinstance(cause, Died) or followers[rank] for rank, cause in failures.items())
    first_line = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    log = logs / f"train-rank-{rank}.log"
    what = first_line if isinstance(cause, Died) else f"{type(cause).__name__}: {first_line}"
    return (WorkerLost if lost else StageError)(
        f"worker {rank} of {world_size} failed: {what}",
        where="train",
        hint=f"its last lines ({log}):\n{last_lines(log)}",
    )


def last_lines(log: Path) -> str:
    """The end of a worker's log, indented."""
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else ["(it wrote nothing)"]
    return "\n".join(f"    {line}" for line in lines)
