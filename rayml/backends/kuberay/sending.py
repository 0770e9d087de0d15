"""Sending what was rendered: all of it or nothing, and nothing while the run goes on already.

The server checks every document before one is stored. What was made is taken away again where a later one fails. The
plan of a run belongs to its RayJob and goes with it: it is made before the job, which needs it, and gets its owner
after.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from rayml.backends.kuberay.api import OURS, Applied, KubeApi
from rayml.backends.kuberay.pods import Document
from rayml.backends.kuberay.refusals import Unanswered
from rayml.backends.kuberay.request import Request
from rayml.errors import BackendError, PlanError, RaymlError

ENDED = ("Complete", "Failed", "ValidationFailed")
"""`jobDeploymentStatus` of a RayJob that KubeRay does nothing more for."""
GONE_S, GONE_PAUSE_S = 120.0, 0.5
"""How long a deleted object may take: KubeRay stops the job in it first."""
RUN_NOTE = "rayml.io/run"
"""Annotation with the run's name as it was typed."""

How = Literal["created", "replaced", "updated", "joined"]


@dataclass(frozen=True)
class Sent:
    """What stands in the cluster now."""

    kind: str
    """RayJob, RayCronJob, RayService or RayCluster."""
    name: str
    """Of that object."""
    namespace: str
    uid: str
    how: How
    """`joined`: the run went on already, and nothing was sent."""


def send(request: Request, api: KubeApi, namespace: str) -> Sent:
    """Have the documents in the cluster.

    A RayJob of the same run that still goes on is left as it is; one that is over is replaced. Everything else that is
    there already is brought to what the documents say.

    Raises:
        PlanError: the server refuses a document, or something of that name is not rayml's.
        BackendError: the server cannot be reached, refuses who asks, or has no room.
    """
    documents = list(request.documents)
    main = main_document(documents)
    check_namespace(documents, namespace)
    found = {key(each): api.get(each["kind"], namespace, name_of(each)) for each in documents}
    check_owners(documents, found, api)
    known = found[key(main)]
    if known is not None and main["kind"] == "RayJob" and goes_on(known):
        return Sent("RayJob", name_of(main), namespace, known["metadata"]["uid"], "joined")
    anew = main["kind"] == "RayJob" or known is None
    rehearse(documents, found, main if anew and known is not None else None, api)
    if anew:
        remove(found, main, api)
    owner = None if anew or known is None else str(known["metadata"]["uid"])
    fresh = {name for name, there in found.items() if anew or there is None}
    applied = apply_all(documents, main, owner, fresh, api)
    how: How = "updated" if not anew else "created" if known is None else "replaced"
    return Sent(main["kind"], name_of(main), namespace, applied.uid, how)


def main_document(documents: list[Document]) -> Document:
    """The one of KubeRay's kinds, which the others are for."""
    return next(each for each in documents if each["apiVersion"].startswith("ray.io/"))


def check_namespace(documents: list[Document], namespace: str) -> None:
    """PlanError where the documents were rendered for another one."""
    other = next((each for each in documents if each["metadata"]["namespace"] != namespace), None)
    if other is not None:
        raise PlanError(
            f"it was rendered for the namespace {other['metadata']['namespace']}, not {namespace}",
            where=f"{other['kind']} {name_of(other)}",
            hint=f"write `namespace: {namespace}` into the cluster file",
        )


def check_owners(documents: list[Document], found: dict[str, Document | None], api: KubeApi) -> None:
    """PlanError where a name is taken by something that rayml has not made, or made for another run."""
    for document in documents:
        there = found[key(document)]
        if there is None:
            continue
        where = f"{document['kind']} {document['metadata']['namespace']}/{name_of(document)} at {api.server}"
        if not is_ours(there):
            raise PlanError("the name is taken, and not by rayml", where=where, hint="give the run another name: --run")
        if document["kind"] in ("RayJob", "RayCronJob") and run_of(there) != run_of(document):
            raise PlanError(
                f"the name is taken by the run {run_of(there)}", where=where, hint="name another one: --run"
            )


def goes_on(job: Document) -> bool:
    """Whether a RayJob is neither over nor about to be deleted."""
    status = job.get("status") or {}
    return not job["metadata"].get("deletionTimestamp") and status.get("jobDeploymentStatus") not in ENDED


def rehearse(
    documents: list[Document], found: dict[str, Document | None], replaced: Document | None, api: KubeApi
) -> None:
    """Have the server check every document; it stores nothing.

    A job that takes the place of another one is rehearsed under a name that is free: what must not change in the old
    one (Kueue's queue, say) may differ in the new one.
    """
    for document in documents:
        tried = under_free_name(document) if document is replaced else document
        api.apply(tried, dry_run=True, force=found[key(document)] is not None)


def under_free_name(document: Document) -> Document:
    """The same document with a name that nobody has, no longer than its own may be."""
    name = name_of(document)
    free = f"{name[:24].rstrip('-')}-{hashlib.sha256(name.encode()).hexdigest()[:11]}"
    return {**document, "metadata": {**document["metadata"], "name": free}}


def remove(found: dict[str, Document | None], main: Document, api: KubeApi) -> None:
    """Take away what an earlier job of the run has left, and wait until it is gone.

    Its plan too: Kubernetes deletes that some time after its owner, and would take the new one of the same name for it.
    """
    old = [each for each in found.values() if each is not None]
    old.sort(key=lambda each: each["kind"] != main["kind"])
    for each in old:
        about = each["metadata"]
        api.delete(each["kind"], about["namespace"], about["name"], uid=about["uid"])
    for each in old:
        wait_until_gone(api, each["kind"], each["metadata"])


def wait_until_gone(api: KubeApi, kind: str, about: dict[str, Any], within_s: float = GONE_S) -> None:
    """BackendError where the object is still there after that time."""
    deadline = time.monotonic() + within_s
    while True:
        there = api.get(kind, about["namespace"], about["name"])
        if there is None or there["metadata"]["uid"] != about["uid"]:
            return
        if time.monotonic() > deadline:
            raise BackendError(
                f"it is still being deleted after {within_s:.0f} s",
                where=f"{kind} {about['namespace']}/{about['name']}",
                hint="the KubeRay operator takes its finalizer away: kubectl get pods -A -l "
                "app.kubernetes.io/name=kuberay-operator; then run the same command again",
            )
        time.sleep(GONE_PAUSE_S)


def apply_all(documents: list[Document], main: Document, owner: str | None, fresh: set[str], api: KubeApi) -> Applied:
    """Apply every document in its order, then give those before the main one their owner; the main one as it is now.

    Args:
        owner: uid of the main object, where it is there already.
        fresh: keys of the documents that are not there yet.
    """
    made: list[Applied] = []
    done: Applied | None = None
    early: list[Document] = []
    for document in documents:
        is_main = document is main
        if owner is None and not is_main:
            early.append(document)
        body = document if is_main or owner is None else owned(document, main, owner)
        with taken_back(made, document if key(document) in fresh else None, api):
            applied = api.apply(body, force=key(document) not in fresh)
            if applied.is_new:
                made.append(applied)
        if is_main:
            done, owner = applied, applied.uid
    assert done is not None and owner is not None, "main_document() is one of the documents"
    for document in early:
        with taken_back(made, None, api):
            api.apply(owned(document, main, owner))
    return done


def owned(document: Document, main: Document, uid: str) -> Document:
    """A document that is deleted with the main one.

    Without `blockOwnerDeletion`, which takes a right on finalizers that rayml-submitter does not have.
    """
    owner = {"apiVersion": main["apiVersion"], "kind": main["kind"], "name": name_of(main), "uid": uid}
    return {**document, "metadata": {**document["metadata"], "ownerReferences": [owner]}}


@contextmanager
def taken_back(made: list[Applied], trying: Document | None, api: KubeApi) -> Iterator[None]:
    """Delete what was made where what is done within it fails, an interruption by the keyboard included.

    Args:
        trying: the document that is applied within it. It is deleted too where nobody said whether it was stored.
    """
    try:
        yield
    except BaseException as error:
        unsure = not isinstance(error, RaymlError) or isinstance(error, Unanswered)
        doubtful = [trying] if unsure and trying is not None else []
        left = take_back([*(each.document for each in made), *doubtful], api)
        if left and isinstance(error, RaymlError):
            raise type(error)(error.what, where=error.where, hint=f"{error.hint}; {still_there(left)}") from None
        raise


def take_back(documents: list[Document], api: KubeApi) -> list[Document]:
    """Delete, the last one first; what could not be deleted."""
    left = []
    for document in reversed(documents):
        about = document["metadata"]
        try:
            api.delete(document["kind"], about["namespace"], about["name"], uid=about.get("uid"))
        except RaymlError:
            left.append(document)
    return left


def still_there(left: list[Document]) -> str:
    """What to type to take away what was made."""
    namespace = left[0]["metadata"]["namespace"]
    return "what was made is still there: " + "; ".join(
        f"kubectl -n {namespace} delete {each['kind'].lower()} {name_of(each)}" for each in left
    )


def key(document: Document) -> str:
    """Differs between the documents of a request."""
    return f"{document['kind']}/{name_of(document)}"


def name_of(document: Document) -> str:
    """Its name."""
    return str(document["metadata"]["name"])


def is_ours(document: Document) -> bool:
    """Whether rayml has made it."""
    label, value = OURS
    return (document["metadata"].get("labels") or {}).get(label) == value


def run_of(document: Document) -> str:
    """The run's name as it was typed."""
    return str((document["metadata"].get("annotations") or {}).get(RUN_NOTE, ""))
