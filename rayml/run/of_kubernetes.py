"""A run that was sent to Kubernetes: read from its storage, and from the API server while it is not over.

What the driver wrote is preferred: it outlives the cluster, and tells a gate from a failed step. The API server knows
what the storage cannot: a queue, a pod without a node, a cluster that is made anew.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from rayml.backends.kuberay.api import KubeApi, connect
from rayml.backends.kuberay.following import RunStatus, exit_code, follow, logs, status
from rayml.backends.kuberay.names import resource_name
from rayml.backends.kuberay.sending import is_ours, name_of, run_of
from rayml.errors import BackendError, RaymlError
from rayml.observe.runs import NoSuchRun
from rayml.run import records
from rayml.spec.kuberay import KubeRayCluster

LAST_STARTS = 5
"""Of a schedule that are told."""


def describe(cluster: KubeRayCluster, home: Path, run: str, aside: Console) -> dict[str, Any]:
    """What `rayml status` says: the run's records, and `kubernetes` with what the API server says of it.

    Args:
        aside: hears why one of the two could not be read.
    Raises:
        NoSuchRun: neither knows it.
        BackendError: the storage does not know it, and the API server cannot be asked.
    """
    kept = kept_of(cluster, home, run, aside)
    if kept is not None and kept["exit_code"] == 0:
        return kept
    try:
        api = connect()
        found = on_cluster(api, cluster.namespace, kept["run"]) if kept else None
        found = found or on_cluster(api, cluster.namespace, run)  # the schedule that started it
    except RaymlError as error:
        if kept is None:
            raise
        aside.print(f"Kubernetes could not be asked: {error}", highlight=False, markup=False)
        return kept
    if kept is None and found is None:
        raise NoSuchRun(
            f"no run {run!r} in {cluster.storage}, nor in the namespace {cluster.namespace}",
            hint=f"rayml runs --storage {cluster.storage} lists what there is",
        )
    if found is None:
        assert kept is not None, "one of the two knows it"
        return kept
    return {**(kept or unknown_to_the_storage(run, found)), "kubernetes": found}


def kept_of(cluster: KubeRayCluster, home: Path, run: str, aside: Console) -> dict[str, Any] | None:
    """The run's records; None where the storage has none, or cannot be read from here."""
    try:
        return records.describe_run(cluster.storage, home, run)
    except NoSuchRun:
        return None
    except BackendError as error:
        aside.print(f"the storage could not be read: {error}", highlight=False, markup=False)
        return None


def unknown_to_the_storage(run: str, found: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record for a run whose driver has not written yet."""
    phase = RunStatus(found["phase"])
    return {
        "run": run,
        "job": found["job_name"],
        "status": found["phase"],
        "step": None,
        "started": None,
        "seconds": None,
        "exit_code": exit_code(phase) if phase.is_over else None,
        "error": None,
        "steps": [],
        "logs": [],
    }


def on_cluster(api: KubeApi, namespace: str, run: str) -> dict[str, Any] | None:
    """How the RayJob of a run stands, or its schedule; None where there is neither."""
    job = ours(api, "RayJob", namespace, run)
    if job is not None:
        found = status(api, namespace, name_of(job))
        return {"kind": "RayJob", "name": name_of(job), "job_name": job_of(job), **asdict(found), "told": str(found)}
    schedule = ours(api, "RayCronJob", namespace, run)
    return None if schedule is None else of_schedule(api, namespace, schedule)


def ours(api: KubeApi, kind: Any, namespace: str, run: str) -> dict[str, Any] | None:
    """The object of a run, where rayml has made it."""
    there = api.get(kind, namespace, resource_name(run, kind))
    return there if there is not None and is_ours(there) and run_of(there) == run else None


def job_of(document: dict[str, Any]) -> str:
    """The name of the job as it was typed."""
    return str((document["metadata"].get("annotations") or {}).get("rayml.io/job", ""))


def of_schedule(api: KubeApi, namespace: str, schedule: dict[str, Any]) -> dict[str, Any]:
    """A schedule, and how its last starts stand."""
    uid = schedule["metadata"]["uid"]
    started = [job for job in api.list("RayJob", namespace) if uid in owners(job)]
    started.sort(key=lambda job: str(job["metadata"].get("creationTimestamp", "")))
    lines = [f"{name_of(job)}: {status(api, namespace, name_of(job))}" for job in started[-LAST_STARTS:]]
    last = (schedule.get("status") or {}).get("lastScheduleTime") or "never"
    told = "\n".join([f"scheduled: `{schedule['spec']['schedule']}`, last start: {last}", *lines])
    phase = {"phase": "scheduled", "job": "", "why": "", "trouble": (), "cluster": ""}
    return {"kind": "RayCronJob", "name": name_of(schedule), "job_name": job_of(schedule), **phase, "told": told}


def owners(document: dict[str, Any]) -> list[str]:
    """Uids of what it was made for."""
    return [str(each.get("uid")) for each in document["metadata"].get("ownerReferences") or []]


def print_status(console: Console, run: dict[str, Any]) -> None:
    """The records as `rayml status` prints them, then what the API server says."""
    on_kubernetes = run.get("kubernetes")
    if run["steps"] or on_kubernetes is None:
        records.print_run(console, run)
    if on_kubernetes is not None:
        line = f"{on_kubernetes['kind']} {on_kubernetes['name']}: {on_kubernetes['told']}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_logs(
    console: Console, cluster: KubeRayCluster, home: Path, run: str, file: str | None, following: bool, aside: Console
) -> None:
    """The run's events or one of its logs; what its job prints, where the storage has no word of it.

    Raises:
        NoSuchRun: neither the storage nor the namespace knows it.
        PlanError: there is no such log, or nobody who has what the job prints.
    """
    if file is not None:
        records.print_log(console, cluster.storage, home, run, file)
    elif kept_of(cluster, home, run, aside) is not None:
        records.print_events(console, cluster.storage, home, run, following)
    else:
        print_job(console, cluster, run, following)


def print_job(console: Console, cluster: KubeRayCluster, run: str, following: bool) -> None:
    """What the pod that handed the job over prints."""
    api = connect()
    job = ours(api, "RayJob", cluster.namespace, run)
    if job is None:
        raise NoSuchRun(
            f"no run {run!r} in {cluster.storage}, nor in the namespace {cluster.namespace}",
            hint=f"rayml runs --storage {cluster.storage} lists what there is",
        )

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    if following:
        follow(api, cluster.namespace, name_of(job), say)
        return
    for line in logs(api, cluster.namespace, name_of(job)):
        say(line)
