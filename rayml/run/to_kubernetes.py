"""Handing a plan to Kubernetes: rendered, linted, sent to the API server, followed to its end."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from rayml.backends.kuberay.following import exit_code, follow
from rayml.backends.kuberay.request import Request, What, render, steps_that_end
from rayml.backends.kuberay.text import to_yaml
from rayml.backends.ray.request import run_name
from rayml.errors import BackendError, PlanError
from rayml.lint.lint import lint_documents
from rayml.plan.plan import Plan
from rayml.run.sending import send_files
from rayml.run.storage import ended_with
from rayml.run.stored_events import StoredEvents
from rayml.run.submitted import record, submission
from rayml.spec.kuberay import KubeRayCluster


def requests(plan: Plan, cluster: KubeRayCluster, run: str) -> list[Request]:
    """What is sent: the job and, where it has one, its endpoint, in this order.

    Raises:
        PlanError: the plan is too large, or rayml's own lint refuses what was rendered.
    """
    kinds: tuple[What, ...] = ("job", "service") if plan.steps[-1].name == "serve" else ("job",)
    rendered = [render(plan, cluster, run, kind) for kind in kinds]
    for request in rendered:
        gates = dict.fromkeys(request.gates, True)
        refused = [each for each in lint_documents(list(request.documents), gates=gates) if each.severity == "error"]
        if refused:
            raise PlanError(f"what was rendered is not sound: {refused[0]}", where="--cluster", hint="please report it")
    return rendered


def dry_run(plan: Plan, cluster: KubeRayCluster, run: str | None) -> str:
    """Exactly what would be applied, as one YAML stream."""
    rendered = requests(plan, cluster, run or run_name(plan))
    return to_yaml([document for request in rendered for document in request.documents])


def submit(plan: Plan, cluster: KubeRayCluster, run: str | None, wait: bool, console: Console) -> dict[str, Any]:
    """Send the run, or join the one that goes on already; its document.

    Raises:
        BackendError: the API server cannot be reached, or refuses.
    """
    from rayml.backends.kuberay.api import connect
    from rayml.backends.kuberay.sending import send

    name = run or run_name(plan)
    job, *endpoint = requests(plan, cluster, name)
    api = connect()
    send_files(plan, console)
    walked, documents = steps_that_end(plan), list(job.documents)
    record(submission(walked, name, cluster.kind, cluster.storage, cluster.image, documents), console)
    sent = send(job, api, cluster.namespace)
    console.print(f"run {name}: {sent.kind} {sent.name} in {sent.namespace} ({sent.how})", highlight=False)
    document = {"run": name, "job": sent.name, "namespace": sent.namespace, "storage": cluster.storage}
    if not wait or sent.kind != "RayJob":
        return {**document, "status": "submitted", "exit_code": 0}
    try:
        printed = None
        if cluster.submission == "http":  # no pod hands it over whose log could be read
            printed = StoredEvents(cluster.storage, name, console, anew=sent.how != "joined")
        end = follow(api, sent.namespace, sent.name, lambda line: console.out(line, highlight=False), printed=printed)
    except KeyboardInterrupt:
        console.print(f"\nthe run goes on; rayml stop {name} --cluster FILE ends it", highlight=False)
        return {**document, "status": "submitted", "exit_code": 0}
    kept = terminal_status(cluster.storage, name)
    code = exit_code(end, kept and kept[1])
    for request in endpoint if code == 0 else ():
        served = send(request, api, cluster.namespace)
        console.print(f"endpoint: {served.kind} {served.name} ({served.how})", highlight=False)
        if plan.step("serve").config["auth"] == "bearer":
            console.print(f"its key is `key` of the secret {cluster.endpoint_key}", highlight=False)
    return {**document, "status": kept[0] if kept else str(end), "exit_code": code}


def terminal_status(storage: str, run: str) -> tuple[str, int] | None:
    """What the run wrote at its end; None where this machine does not see the storage."""
    try:
        return ended_with(storage, run)
    except BackendError:
        return None
