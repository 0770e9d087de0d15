"""A Ray cluster that others run: joined when a step needs it, and left as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from rayml.errors import BackendError
from rayml.process import interrupt_on_signals

DRIVER_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1.0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}
"""As in rayml.run.session, what the driver itself reads; the rest is for whoever starts a cluster."""


class JoinedSession:
    """The part of a cluster that a run uses."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._joined = False

    def start(self, note: Callable[..., None]) -> None:
        """Join the cluster that this process runs on. BackendError where there is none."""
        if self._joined:
            return
        import ray

        note(text="joins the Ray cluster")
        os.environ.update(DRIVER_ENVIRONMENT)
        try:
            ray.init(address="auto", namespace=self._run, log_to_driver=False, logging_level=logging.WARNING)
        except Exception as error:
            raise BackendError(
                f"no Ray cluster could be joined: {str(error).strip().splitlines()[0]}",
                where="this node",
                hint="a plan for a cluster is walked on one of its nodes: hand it over with rayml submit",
            ) from error
        self._joined = True
        interrupt_on_signals()  # ray.init puts handlers of its own, which end the process without a clean-up

    def begin(self) -> None:
        """Nothing has to be started beforehand."""

    def stop(self) -> None:
        """Leave the cluster."""
        if self._joined:
            import ray

            ray.shutdown()
            self._joined = False
