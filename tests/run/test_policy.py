"""What follows a failure, as a table."""

from __future__ import annotations

import pytest

from rayml.errors import GateError, StageError, WorkerLost
from rayml.run.policy import LONGEST_WAIT_S, Raise, Retry, decide


@pytest.mark.parametrize(
    ("error", "attempt", "retries", "expected"),
    [
        (WorkerLost("gone"), 1, 2, Retry(after_s=0.5)),
        (WorkerLost("gone"), 2, 2, Retry(after_s=1.0)),
        (WorkerLost("gone"), 3, 2, Raise()),
        (WorkerLost("gone"), 1, 0, Raise()),
        (WorkerLost("gone"), 20, 50, Retry(after_s=LONGEST_WAIT_S)),
        (StageError("the loss became nan"), 1, 2, Raise()),
        (GateError("accuracy"), 1, 2, Raise()),
        (ValueError("a bug"), 1, 2, Raise()),
    ],
)
def test_decide(error, attempt, retries, expected):
    assert decide(error, attempt, retries) == expected
