"""The Ray cluster of one run on this machine: started when a step needs it, gone with all its processes at the end."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rayml.errors import BackendError
from rayml.plan.plan import Plan
from rayml.run.process import interrupt_on_signals
from rayml.stages.serve.haproxy import reap, serve_environment

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # 2 s by default: a finished or dead worker is noticed 1.8 s sooner
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


class Session:
    """Ray, for as long as a run needs it."""

    def __init__(self, plan: Plan, run_folder: Path) -> None:
        self._plan = plan
        self._run_folder = run_folder
        self._temporary: Path | None = None

    def start(self, note: Callable[..., None]) -> None:
        """Start Ray if it is not running. BackendError where it does not come up."""
        if self._temporary is not None:
            return
        # Ray puts sockets below this folder, and a socket's path may have 107 characters: the run folder can be deeper.
        # Ray opens its folder to everybody, so it stands inside one that only this user can enter.
        self._temporary = Path(tempfile.mkdtemp(prefix="rayml-"))
        os.environ.update(RAY_ENVIRONMENT)
        os.environ.update(serve_environment(self._run_folder))
        # A token of this run's own: Ray would write one to the home folder, readable by everybody.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        note(text="starts Ray")
        import ray

        cluster = self._plan.cluster
        try:
            ray.init(
                address="local",
                num_cpus=cluster.cpus,
                num_gpus=cluster.gpus,
                object_store_memory=cluster.object_store,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _temp_dir=str(self._temporary / "ray"),
            )
        except Exception as error:
            raise BackendError(
                f"Ray did not start: {str(error).strip().splitlines()[0]}",
                where="this machine",
                hint=f"its own words are in {self._run_folder / 'driver.log'} and below {self._run_folder / 'logs'}",
            ) from error
        interrupt_on_signals()  # ray.init puts handlers of its own, which end the process without a clean-up

    def stop(self) -> None:
        """End Ray and what it started, and keep its logs in the run folder."""
        if self._temporary is None:
            return
        import ray

        ray.shutdown()
        reap(self._run_folder)
        self._keep_logs(self._temporary)
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary = None

    def _keep_logs(self, temporary: Path) -> None:
        for session in temporary.glob("ray/session_2*"):
            if not session.is_symlink():
                shutil.copytree(
                    session / "logs",
                    self._run_folder / "logs" / "ray" / session.name,
                    ignore_dangling_symlinks=True,
                    dirs_exist_ok=True,
                )
