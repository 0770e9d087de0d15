"""Handing a plan to a Ray cluster: create or resume by the run's name, follow it, and tell how it ended."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from rayml.backends.ray.client import OVER, JobsClient
from rayml.backends.ray.follow import exit_code, follow
from rayml.backends.ray.packing import Package
from rayml.backends.ray.request import Request, render, run_name
from rayml.backends.ray.token import find_token
from rayml.errors import BackendError, PlanError
from rayml.plan.build import cut_after
from rayml.plan.plan import Plan
from rayml.run.sending import outline, send_files
from rayml.run.storage import ended_with
from rayml.run.submitted import record, submission
from rayml.spec.cluster import Cluster, RayCluster

WITHOUT_RAYML = "No module named 'rayml'"


def target(cluster: Cluster | None, address: str | None, storage: str | None) -> RayCluster:
    """The cluster to submit to: that of a file, or the one at an address. PlanError where something is missing."""
    if address is not None and not address.startswith(("http://", "https://")):
        raise PlanError(
            f"{address!r} is no address of a dashboard", where="--address", hint="write http://HOST:PORT, usually 8265"
        )
    if isinstance(cluster, RayCluster):
        found = cluster.model_copy(
            update={"address": address or cluster.address, "storage": storage or cluster.storage}
        )
    elif cluster is None and address and storage:
        cpus, gpus = JobsClient(address, find_token()).cpus_and_gpus()
        if not cpus:
            raise PlanError("the cluster has no CPUs to give", where=address, hint="write a cluster file of kind: ray")
        found = RayCluster(kind="ray", address=address, storage=storage, cpus=cpus, gpus=gpus)
    else:
        raise PlanError(
            "rayml submit hands a job to a cluster that runs elsewhere",
            where="--cluster",
            hint="name a cluster file of kind: ray, or --address http://HEAD:8265 with --storage",
        )
    if found.address is None:
        raise PlanError("the cluster has no address", where="address", hint="add --address http://HEAD:8265")
    return found


def without_endpoint(plan: Plan) -> Plan:
    """The plan up to its last step that ends: an endpoint belongs to whoever runs the cluster."""
    if plan.steps[-1].name != "serve":
        return plan
    if len(plan.steps) == 1:
        raise PlanError("the job only serves", where="serve", hint="rayml serve RUN starts an endpoint")
    return cut_after(plan, plan.steps[-2].name)


def dry_run(plan: Plan, cluster: RayCluster, run: str | None) -> dict[str, Any]:
    """Exactly what would be sent."""
    name = run or run_name(plan)
    request, package = render(plan, cluster.storage, name)
    return {
        "run": name,
        "address": cluster.address,
        "files": outline(plan),
        "package": {"name": package.name, "bytes": len(package.content), "files": package.files()},
        "request": request.model_dump(),
    }


def submit(plan: Plan, cluster: RayCluster, run: str | None, wait: bool, console: Console) -> dict[str, Any]:
    """Start the run, or join the one that goes on already; its document.

    Raises:
        BackendError: the cluster cannot be reached, or refuses.
    """
    assert cluster.address is not None, "target() has seen to it"
    name = run or run_name(plan)
    client = JobsClient(cluster.address, find_token())
    client.check_version()
    known = client.find(name)
    if known is not None and known["status"] not in OVER:
        job = str(known["submission_id"])
        console.print(f"run {name} goes on already, as job {job}", highlight=False)
    else:
        request, package = render(plan, cluster.storage, name)
        send_files(plan, console)
        record(submission(plan, name, cluster.kind, cluster.storage, None, request.model_dump(mode="json")), console)
        job = start(client, request, package)
        console.print(f"run {name} is job {job} at {cluster.address}", highlight=False)
    document = {"run": name, "job": job, "address": cluster.address, "storage": cluster.storage}
    if not wait:
        return {**document, "status": "submitted", "exit_code": 0}
    try:
        about = follow(client, job, lambda text: console.out(text, end="", highlight=False))
    except KeyboardInterrupt:
        console.print(f"\nthe run goes on; rayml stop {name} --address {cluster.address} ends it", highlight=False)
        return {**document, "status": "submitted", "exit_code": 0}
    kept = ended_with(cluster.storage, name)
    status, code = kept if kept is not None else (str(about["status"]).lower(), exit_code(about))
    if kept is None and WITHOUT_RAYML in str(about.get("message")):
        raise BackendError(
            "the cluster's Python has no rayml",
            where=cluster.address,
            hint=f"start it with an image, or in an environment, that has rayml {plan.rayml}",
        )
    return {**document, "status": status, "exit_code": code}


def start(client: JobsClient, request: Request, package: Package) -> str:
    """Send the package and the request; the job's id."""
    client.upload(package)
    return client.submit(request)


def stop(address: str, run: str) -> str:
    """End a run's job; its id. PlanError where no job of that run goes on."""
    client = JobsClient(address, find_token())
    known = client.find(run)
    if known is None or known["status"] in OVER:
        what = "has no job on this cluster" if known is None else f"is over: {known['status'].lower()}"
        raise PlanError(f"the run {what}", where=f"{run} at {address}", hint="rayml runs lists the runs of a storage")
    job = str(known["submission_id"])
    client.stop(job)
    return job
