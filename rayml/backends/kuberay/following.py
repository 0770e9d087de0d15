"""A run on Kubernetes after it was sent: how it stands, what it prints, how it ended, and its end before time.

Sources: ray-operator/apis/ray/v1/rayjob_types.go of KubeRay (JobDeploymentStatus, JobStatus); the waiting reasons of
containers in pkg/kubelet/images/types.go and pkg/kubelet/container/sync_result.go of Kubernetes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rayml.backends.kuberay.api import KubeApi
from rayml.backends.kuberay.names import Kind, resource_name
from rayml.backends.kuberay.pods import Document
from rayml.backends.kuberay.refusals import Unanswered
from rayml.backends.kuberay.sending import ENDED, is_ours, name_of, run_of
from rayml.errors import PlanError, RaymlError

POLL_S, TICK_S = 2.0, 0.1
"""Between two looks at the status; between two looks at what was printed."""
LAST_WORDS_S = 10.0
"""How long the log of a pod may go on after the job is over."""
FAILED_LOOKS = 20
"""In a row, without an answer, before following is given up."""
BROKEN = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
)
"""Why a container waits where it will not start by itself."""
PHASES = {
    "": "sent",
    "Initializing": "starting",
    "Waiting": "waiting",
    "Running": "running",
    "Retrying": "retrying",
    "Suspending": "queued",
    "Suspended": "queued",
}
"""`jobDeploymentStatus` of a job that goes on to our word."""
EXIT_OF = {"succeeded": 0, "failed": 4, "refused": 5, "stopped": 130, "gone": 130}


@dataclass(frozen=True)
class RunStatus:
    """How a run stands."""

    phase: str
    """sent, queued, starting, waiting, running, retrying; over: one of EXIT_OF."""
    job: str = ""
    """Ray's own word: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED; nothing before there is a cluster."""
    why: str = ""
    """KubeRay's reason and message."""
    trouble: tuple[str, ...] = ()
    """Pods that do not start, and why."""
    cluster: str = ""
    """Name of its RayCluster."""

    @property
    def is_over(self) -> bool:
        """Whether it stays like this."""
        return self.phase in EXIT_OF

    def __str__(self) -> str:
        words = "queued: its queue, or whoever suspended it, has to let it go" if self.phase == "queued" else self.phase
        if self.phase == "running" and self.job == "PENDING":
            words = "running: Ray has the job, and has not started it yet"
        return "\n".join([f"{words}: {self.why}" if self.why else words, *(f"  {each}" for each in self.trouble)])


def status(api: KubeApi, namespace: str, name: str) -> RunStatus:
    """How the RayJob of that name stands, its pods included."""
    job = api.get("RayJob", namespace, name)
    if job is None:
        return RunStatus("gone")
    found = job.get("status") or {}
    cluster = str(found.get("rayClusterName") or "")
    phase = phase_of(job)
    why = ": ".join(str(found[each]) for each in ("reason", "message") if found.get(each))
    trouble = () if phase in EXIT_OF else pod_trouble(pods(api, namespace, name, cluster))
    return RunStatus(phase, str(found.get("jobStatus") or ""), why, trouble, cluster)


def phase_of(job: Document) -> str:
    """One word for a RayJob."""
    found = job.get("status") or {}
    deployment, ray = str(found.get("jobDeploymentStatus") or ""), found.get("jobStatus")
    if deployment == "ValidationFailed":
        return "refused"
    if deployment in ENDED:
        ends = {"SUCCEEDED": "succeeded", "STOPPED": "stopped"}
        return "failed" if deployment == "Failed" else ends.get(str(ray), "failed")
    if not deployment and (job.get("spec") or {}).get("suspend"):
        return "queued"
    return PHASES.get(deployment, deployment.lower())


def pods(api: KubeApi, namespace: str, name: str, cluster: str) -> list[Document]:
    """Those of the run's cluster, and the one that hands the job to its head."""
    found = submitters(api, namespace, name)
    return [*found, *(api.list("Pod", namespace, labels=f"ray.io/cluster={cluster}") if cluster else [])]


def submitters(api: KubeApi, namespace: str, name: str) -> list[Document]:
    """Pods of the Job that has the RayJob's name, the oldest first. There are none with `submission: http`."""
    found = api.list("Pod", namespace, labels=f"job-name={name}")
    return sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))


def pod_trouble(found: list[Document]) -> tuple[str, ...]:
    """Why pods do not start, each reason once."""
    counted = Counter(reason for pod in found if (reason := reason_of_waiting(pod)))
    return tuple(f"{count} pod{'s' * (count > 1)}: {reason}" for reason, count in sorted(counted.items()))


def reason_of_waiting(pod: Document) -> str:
    """Why a pod has no node, or a container of it no process; nothing where it runs or is about to."""
    found = pod.get("status") or {}
    for condition in found.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"no node for it: {condition.get('message') or condition.get('reason')}"
    for container in [*(found.get("initContainerStatuses") or []), *(found.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in BROKEN:
            message = waiting.get("message")
            return f"{container['name']} waits, {waiting['reason']}" + (f": {message}" if message else "")
    return ""


class Printed(Protocol):
    """What a job says while it runs."""

    def look(self) -> None:
        """Find where to read it; called once Ray knows the job, and again and again."""

    def hand_on(self, say: Callable[[str], None], for_s: float, *, until_closed: bool) -> None:
        """Say what comes for that long; no longer than there is more to come, where that is asked for."""


def follow(
    api: KubeApi,
    namespace: str,
    name: str,
    say: Callable[[str], None],
    poll_s: float = POLL_S,
    printed: Printed | None = None,
) -> RunStatus:
    """Hand on each change of the status and what the job prints, line by line, until it is over; how it ended.

    Args:
        printed: what the job prints; the log of the pods that hand it over where None.
    Raises:
        BackendError: the server was not reached for a while, or refuses to say. The run goes on without us.
    """
    log = printed or Log(api, namespace, name)
    last, failures = RunStatus(""), 0
    while True:
        try:
            now = status(api, namespace, name)
            if now.job:
                log.look()
            failures = 0
        except Unanswered:
            failures += 1
            if failures > FAILED_LOOKS:
                raise
            now = last
        if now.phase == "gone" and last.job == "SUCCEEDED":
            now = RunStatus("succeeded", last.job, cluster=last.cluster)
        log.hand_on(say, LAST_WORDS_S if now.is_over else poll_s, until_closed=now.is_over)
        if str(now) != str(last):
            say(str(now))
        if now.is_over:
            return now
        last = now


class Log:
    """What the pods that hand the job over print, which is what the job prints. Read by threads, handed on by ours."""

    def __init__(self, api: KubeApi, namespace: str, name: str) -> None:
        self._api = api
        self._name = name
        self._namespace = namespace
        self._lines: queue.Queue[str] = queue.Queue()
        self._readers: dict[str, threading.Thread] = {}

    def look(self) -> None:
        """Start to read the pods that have started and are not read yet."""
        for pod in submitters(self._api, self._namespace, self._name):
            name = str(pod["metadata"]["name"])
            if name not in self._readers and (pod.get("status") or {}).get("phase") not in (None, "Pending"):
                self._readers[name] = threading.Thread(target=self._read, args=(name,), name=f"log-{name}", daemon=True)
                self._readers[name].start()

    def hand_on(self, say: Callable[[str], None], for_s: float, *, until_closed: bool) -> None:
        """Say what comes for that long; no longer than the pods print, where that is asked for."""
        deadline = time.monotonic() + for_s
        while time.monotonic() < deadline:
            is_closed = not any(each.is_alive() for each in self._readers.values())
            try:
                say(self._lines.get(timeout=TICK_S))
            except queue.Empty:
                if until_closed and is_closed:
                    return

    def _read(self, pod: str) -> None:
        """Read a pod's log to its end. A connection that breaks is made again, and no line is handed on twice."""
        since = ""
        for _ in range(FAILED_LOOKS):
            try:
                for line in self._api.log(self._namespace, pod, follow=True, since=since):
                    written, _, text = line.partition(" ")
                    if written > since:
                        since = written
                        self._lines.put(text)
                return
            except Unanswered:
                time.sleep(POLL_S)
            except RaymlError as error:
                self._lines.put(f"what pod {pod} prints cannot be read: {error}")
                return


def exit_code(found: RunStatus, kept: int | None = None) -> int:
    """Of a run that is over.

    Args:
        kept: what its driver wrote into the storage, where that can be read. It tells a gate from a failed step.
    """
    return EXIT_OF[found.phase] if kept is None or found.phase == "succeeded" else kept


def logs(api: KubeApi, namespace: str, name: str) -> Iterator[str]:
    """Lines that a job has printed up to now, of its last attempt. PlanError where no pod has them."""
    found = submitters(api, namespace, name)
    if not found:
        raise PlanError(
            "no pod has handed this job to a head",
            where=f"{name} in {namespace}",
            hint="with `submission: http` none does: kubectl port-forward to the head's port 8265, then ray job logs",
        )
    for line in api.log(namespace, str(found[-1]["metadata"]["name"])):
        yield line.partition(" ")[2]


def stop(api: KubeApi, namespace: str, run: str) -> str:
    """End a run, or its schedule; the kind of what was deleted. Its plan and cluster go too, what it has made is kept.

    It is not suspended: KubeRay refuses that with rules for deletion, and Kueue would let it go on. Before it deletes a
    RayJob, KubeRay stops the job in it, whose driver then says in the storage that it was interrupted.

    Args:
        run: its name as it was typed.
    Raises:
        PlanError: rayml has sent no such run.
    """
    for kind in ENDING:
        there = api.get(kind, namespace, resource_name(run, kind))
        if there is not None and is_ours(there) and run_of(there) == run:
            api.delete(kind, namespace, name_of(there), uid=str(there["metadata"]["uid"]))
            return kind
    raise PlanError("rayml has sent no such run", where=f"{run} in {namespace} at {api.server}", hint=LIST)


ENDING: tuple[Kind, ...] = ("RayJob", "RayCronJob")
"""Kinds of documents that a run is."""
LIST = "kubectl get rayjobs,raycronjobs -l app.kubernetes.io/managed-by=rayml"
