"""What follows a failure, decided as a value; the runner acts on it."""

from __future__ import annotations

from dataclasses import dataclass

from rayml.errors import WorkerLost

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class Retry:
    """Start the step again; it goes on from what it left in its work folder."""

    after_s: float


@dataclass(frozen=True)
class Raise:
    """Give up and tell."""


Decision = Retry | Raise


def decide(error: Exception, attempt: int, retries: int) -> Decision:
    """What to do after attempt number `attempt` (from 1) failed.

    Only a lost worker is worth another attempt: any other failure would come back, and cost the user another wait.
    """
    if not isinstance(error, WorkerLost) or attempt > retries:
        return Raise()
    return Retry(after_s=min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)))
