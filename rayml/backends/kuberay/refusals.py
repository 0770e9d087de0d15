"""What the refusals of a Kubernetes API server mean, and what to do about each.

Sources: the texts of refusals in staging/src/k8s.io/apiserver (pkg/endpoints, pkg/admission) and apimachinery's
pkg/api/errors of Kubernetes.
"""

from __future__ import annotations

import re

from rayml.backends.kuberay.exchange import RESOURCES, Answer, Asked, is_no_object
from rayml.errors import BackendError, PlanError, RaymlError


class Unanswered(BackendError):
    """The server did not say whether it has done what it was asked to."""


def refusal(asked: Asked, answer: Answer, server: str) -> RaymlError:
    """What an answer other than a good one means, and what to do about it."""
    known = BY_STATUS.get(answer.status)
    error = known(asked, answer, server) if known is not None else None
    return admission(asked, answer) or error or unexpected(asked, answer, server)


def admission(asked: Asked, answer: Answer) -> RaymlError | None:
    """A webhook or policy says no, whatever its status; None where none does."""
    said = answer.said
    if "does not support dry run" in said:
        return BackendError(
            f"an admission webhook cannot be rehearsed: {said}",
            where=str(asked),
            hint="ask who runs it to declare `sideEffects: None`; until then: rayml submit ... --dry-run "
            "| kubectl apply --server-side -f -",
        )
    if "failed calling webhook" in said:
        return Unanswered(
            f"an admission webhook does not answer: {said}",
            where=str(asked),
            hint="kubectl get validatingwebhookconfigurations names its service, whose pods have to run",
        )
    if answer.status != 401 and re.search(r"admission webhook .* denied|ValidatingAdmissionPolicy .* denied", said):
        return PlanError(
            f"admission refuses it: {said}", where=str(asked), hint="change the cluster file, or the policy"
        )
    return None


def unauthorized(_asked: Asked, _answer: Answer, server: str) -> RaymlError:
    return BackendError(
        "the server does not know who asks: the credentials are missing, wrong or over",
        where=server,
        hint="log in anew (aws eks update-kubeconfig, gcloud container clusters get-credentials, ...) and try "
        "`kubectl auth whoami`",
    )


def forbidden(asked: Asked, answer: Answer, _server: str) -> RaymlError:
    said = answer.said
    if "exceeded quota" in said:
        return BackendError(
            f"the namespace's quota is used up: {said}",
            where=str(asked),
            hint=f"kubectl -n {asked.namespace} describe quota; end what is not needed, or ask the admin for more",
        )
    if "is being terminated" in said:
        return BackendError("the namespace is being deleted", where=str(asked), hint=MAKE_NAMESPACE)
    if not asked.namespace:
        return BackendError(
            f"you may not {asked.rule}: {said}", where=str(asked), hint=f"ask the admin for it: {role_for(asked)}"
        )
    if "violates PodSecurity" in said:
        return BackendError(f"Pod Security refuses it: {said}", where=str(asked), hint="please report it")
    return BackendError(
        f"you may not {asked.rule} in the namespace {asked.namespace}: {said}",
        where=str(asked),
        hint=f"ask the admin to bind the role rayml-submitter of k8s/base/roles.yaml to you; then "
        f"`kubectl auth can-i {asked.rule} -n {asked.namespace}` says yes",
    )


def role_for(asked: Asked) -> str:
    """What an admin types to let somebody ask the whole cluster for something."""
    _, _, what = asked.rule.partition(" ")
    subject = "--non-resource-url" if asked.document else "--resource"
    return (
        f"kubectl create clusterrole rayml-lint --verb={asked.verb} {subject}={what} && kubectl create "
        "clusterrolebinding rayml-lint --clusterrole=rayml-lint --user=YOU (kubectl auth whoami says who you are)"
    )


def not_found(asked: Asked, answer: Answer, server: str) -> RaymlError:
    if asked.document:
        return BackendError(
            f"the server has no {asked}",
            where=server,
            hint="the kubeconfig has to name a Kubernetes API server of 1.27 or later; `kubectl version` shows it",
        )
    if answer.details.get("kind") == "namespaces" or answer.said.startswith("namespaces "):
        return BackendError(f"there is no namespace {asked.namespace}", where=server, hint=MAKE_NAMESPACE)
    if is_no_object(asked, answer):
        return PlanError("there is no such object", where=str(asked), hint=f"kubectl -n {asked.namespace} get all")
    resource = RESOURCES[asked.kind]
    if resource.api.startswith("ray.io/"):
        return BackendError(
            f"the cluster knows no {asked.kind} of {resource.api}: KubeRay is not installed there, or an older version",
            where=server,
            hint="ask the admin for KubeRay 1.7 (k8s/operator/README.md); kubectl api-resources --api-group=ray.io",
        )
    return BackendError(
        f"the server knows no {asked.kind} of {resource.api}",
        where=server,
        hint="the kubeconfig has to name a Kubernetes API server; `kubectl version` shows which one it is",
    )


def conflict(asked: Asked, answer: Answer, _server: str) -> RaymlError:
    fields = [str(each.get("field")) for each in answer.details.get("causes") or [] if each.get("field")]
    at = f" (fields {', '.join(fields[:5])})" if fields else ""
    return BackendError(
        f"somebody else has changed it, or works on it: {answer.said}{at}",
        where=str(asked),
        hint=f"kubectl -n {asked.namespace} get {asked.kind.lower()} {asked.name} -o yaml --show-managed-fields; "
        "then run the same command again, or delete it",
    )


def invalid(asked: Asked, answer: Answer, _server: str) -> RaymlError:
    said = answer.said
    is_long_name = "metadata.name" in said and re.search(r"must be no more than|must have at most|Too long", said)
    if is_long_name:
        return PlanError(
            f"the name is too long: {said}", where=str(asked), hint="give the run a shorter name: --run NAME"
        )
    return PlanError(
        f"the server does not take it: {said}",
        where=str(asked),
        hint="KubeRay there may be of another version than 1.7; else change the cluster file, or report it",
    )


def too_large(asked: Asked, answer: Answer, _server: str) -> RaymlError:
    return PlanError(
        f"it is too large for the server: {answer.said}",
        where=str(asked),
        hint="build what is large into the image, or name it in a .rayignore in the code folder",
    )


def busy(asked: Asked, answer: Answer, server: str) -> RaymlError:
    if "request is too large" in answer.said:
        return too_large(asked, answer, server)
    return Unanswered(
        f"the API server is not able to answer ({answer.status}): {answer.said}",
        where=str(asked),
        hint="run the same command again in a while; kubectl get --raw /readyz shows how it is",
    )


def unexpected(asked: Asked, answer: Answer, server: str) -> RaymlError:
    return BackendError(
        f"an answer that no API server gives ({answer.status}): {answer.said or 'nothing'}"
        if not answer.document
        else f"the server does not take it ({answer.status}): {answer.said}",
        where=f"{server}{asked.path}",
        hint="the kubeconfig has to name a Kubernetes API server; `kubectl version` shows which one it is",
    )


MAKE_NAMESPACE = "ask the admin for it: kubectl apply -k k8s/overlays/dev, or gpu or prod (docs/kubernetes.md)"
BY_STATUS = {
    400: invalid,
    401: unauthorized,
    403: forbidden,
    404: not_found,
    409: conflict,
    413: too_large,
    422: invalid,
    429: busy,
    500: busy,
    502: busy,
    503: busy,
    504: busy,
}
"""Status of an answer to what it means."""
