"""The Ray cluster of one run on this machine: started when a step needs it, gone with all its processes at the end."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from rayml.artifacts.durable import write_atomic
from rayml.backends import local
from rayml.errors import BackendError
from rayml.observe.runs import RunFolder
from rayml.plan.plan import ClusterPlan, Plan
from rayml.process import interrupt_on_signals
from rayml.run.autoscaling import AutoscalingHead
from rayml.stages.serve.endpoint import RECORD as ENDPOINT_RECORD
from rayml.stages.serve.haproxy import reap, serve_environment

RECORD = "session.json"
"""In the run folder for as long as Ray's own folder exists: whoever finds it after a crash can clean up."""

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1.0",  # 2 by default; each check takes the workers' attention
    # What follows is read by nobody in a cluster of one run, and cost 3 of 200 % of CPU beside the training workers.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_raylet_report_resources_period_milliseconds": "1000",  # 100 by default
    "RAY_worker_niceness": "0",  # 15 by default: the work would give way to anything else on the machine
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # 2 by default, and a trial that takes longer to stop would fail the next
}


class Head(Protocol):
    """What is started before the driver calls `ray.init`."""

    def launch(self) -> int | None:
        """Start it and return at once; the process session that it has of its own."""

    def join(self) -> dict[str, Any]:
        """Wait for it; what `ray.init` takes to join it. BackendError where it does not come up."""

    def stop(self) -> None:
        """End it with all that it started."""


class NoHead:
    """`ray.init` starts Ray on its own: one node, which ends with the driver."""

    def __init__(self, cluster: ClusterPlan) -> None:
        self._cluster = cluster

    def launch(self) -> None:
        pass

    def join(self) -> dict[str, Any]:
        cluster = self._cluster
        return {
            "address": "local",
            "num_cpus": cluster.cpus,
            "num_gpus": cluster.gpus,
            "object_store_memory": cluster.object_store,
        }

    def stop(self) -> None:
        pass


class Session:
    """Ray, for as long as a run needs it."""

    def __init__(self, plan: Plan, run_folder: Path) -> None:
        self._plan = plan
        self._run_folder = run_folder
        self._head: Head = NoHead(plan.cluster)
        self._started = False
        # Ray's processes are told to end with the thread that started them, so this one lives as long as they may.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-start")
        self._beginning: Future[None] | None = None

    def start(self, note: Callable[..., None]) -> None:
        """Start Ray if it is not running, and wait for it. BackendError where it does not come up."""
        if not self._started:
            self._prepare()
            note(text="starts Ray")
            self._init()
        elif self._beginning is not None:
            beginning, self._beginning = self._beginning, None
            beginning.result()
        interrupt_on_signals()  # ray.init puts handlers of its own, which end the process without a clean-up

    def begin(self) -> None:
        """Let Ray start beside what this thread goes on with; `start` waits for it."""
        if not self._started:
            self._prepare()
            self._beginning = self._starter.submit(self._init)

    def _prepare(self) -> None:
        """The folder and the environment that Ray starts in, and the record of them."""
        self._started = True
        clean_dead_runs(self._run_folder)
        # Ray puts sockets below this folder, and a socket's path may have 107 characters: the run folder can be deeper.
        # Ray opens its folder to everybody, so it stands inside one that only this user can enter.
        self._temporary = Path(tempfile.mkdtemp(prefix="rayml-"))
        self._write_record(head=None)
        os.environ.update(RAY_ENVIRONMENT)
        os.environ.update(serve_environment(self._run_folder))
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=process_token())
        self._head = self._choose_head()
        self._write_record(head=self._head.launch())

    def _choose_head(self) -> Head:
        cluster = self._plan.cluster
        if cluster.nodes is None:
            return NoHead(cluster)
        return AutoscalingHead(cluster, self._temporary, log=self._run_folder / "logs" / "ray-head.log")

    def _write_record(self, head: int | None) -> None:
        record = {"temporary": str(self._temporary), "session": os.getsid(0), "head": head, "boot": boot_id()}
        write_atomic(self._run_folder / RECORD, json.dumps(record).encode())

    def _init(self) -> None:
        import ray

        joining = self._head.join()
        try:
            ray.init(
                **joining,
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

    def stop(self) -> None:
        """End Ray and what it started, and keep its logs in the run folder."""
        if self._started:
            if self._beginning is not None:
                wait([self._beginning])
                self._beginning = None
            import ray

            ray.shutdown()
            self._head.stop()
            clean(self._run_folder)
            self._started = False


@functools.cache
def process_token() -> str:
    """A token of this run's own: Ray would write one to the home folder, readable by everybody.

    Ray reads it once in a process, so a second cluster of the same process has the same.
    """
    return secrets.token_hex(32)


def clean_dead_runs(run_folder: Path) -> None:
    """Clean up after the runs beside this one whose process was killed."""
    for record in run_folder.parent.glob(f"*/{RECORD}"):
        if record.parent == run_folder:
            continue
        with RunFolder(record.parent).held() as is_dead:
            if is_dead:
                clean(record.parent)


def clean(run_folder: Path) -> None:
    """End the processes that a run left, move Ray's logs to the run folder, remove Ray's own folder."""
    reap(run_folder)
    (run_folder / ENDPOINT_RECORD).unlink(missing_ok=True)
    record = run_folder / RECORD
    if not record.exists():
        return
    left = json.loads(record.read_text())
    if left["boot"] == boot_id():
        # Ray's agents outlive a driver and a raylet that were killed together. The sessions were made for them.
        for session in {left["session"], left.get("head")} - {os.getsid(0), None}:
            local.end_session(session)
    temporary = Path(left["temporary"])
    for session in temporary.glob("ray/session_2*"):
        if not session.is_symlink():
            kept = run_folder / "logs" / "ray" / session.name
            with contextlib.suppress(OSError):  # a full disk must not keep Ray's folder from being removed
                shutil.copytree(session / "logs", kept, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    record.unlink()


def boot_id() -> str:
    """Which start of this machine it is: process ids mean nothing after the next one (Linux)."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""
