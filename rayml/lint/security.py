"""Checks of our own on manifests, beyond what Kubernetes refuses. An error opens the cluster or shows a secret; a
warning hardens further.

| rule | what |
|---|---|
| security.auth (S4) | Ray clusters ask for a token; `kuberay.auth` says which versions can |
| security.exposed (S5) | the dashboard, the client and Redis stay inside the cluster |
| security.secret (S11) | secrets are references |
| security.entrypoint (S12) | an entrypoint is one quoted argv |
| security.uid, .filesystem, .shm, .memory (S28) | pods run as a high uid, on a read-only root, with bounded memory |
| security.service-account (S29) | only an autoscaling head holds a token of the Kubernetes API |
| security.image (S32) | images are named by digest |

`hostPath` and `hostNetwork` (S28) are said by `pod_security`, which holds for every level.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal

from rayml.lint import entrypoint
from rayml.lint.documents import Document
from rayml.lint.finding import Remark
from rayml.lint.pods import PodTemplate, cluster_spec, pod_templates
from rayml.lint.secrets import check_secrets
from rayml.lint.view import View, named

LOWEST_UID = 10_000
"""Below it stand the users of the host's own services and of its people."""

CONTROL_PORTS = {8265: "the dashboard, which runs jobs", 10001: "the Ray client", 6379: "Ray's control store"}
CONTROL_PORT_NAMES = {
    **dict.fromkeys(("dashboard", "ray-dashboard"), 8265),
    **dict.fromkeys(("client", "ray-client"), 10001),
    **dict.fromkeys(("gcs", "gcs-server", "redis"), 6379),
}
OPEN_SERVICES = ("NodePort", "LoadBalancer")
ROUTES = ("Ingress", "HTTPRoute", "TCPRoute", "GRPCRoute", "Route", "VirtualService", "IngressRoute")
SHM = "/dev/shm"  # noqa: S108  a mount point in a pod, not a file of ours

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}\Z")
_QUANTITY = re.compile(r"(\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d{1,2})?", re.ASCII)
_UNITS = {
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{letter: Decimal(1000) ** -power for power, letter in enumerate("mun", 1)},
    "": Decimal(1),
}


def check_security(document: Document) -> list[Remark]:
    """Every rule of the table above that a document breaks."""
    view = document.view
    remarks = [remark for rule in DOCUMENT_RULES for remark in rule(document.kind, view)]
    for pod in pod_templates(document.kind, view):
        remarks += [remark for rule in POD_RULES for remark in rule(pod)]
    return [*remarks, *check_secrets(document.kind, view)]


def quantity(value: object) -> Decimal | None:
    """`1Gi`, `1024Mi` or `1e9` as a number; None where it is none."""
    match = _QUANTITY.fullmatch(str(value)) if isinstance(value, (int, float, str)) else None
    if match is None:
        return None
    suffix = match[2] or ""
    unit = _UNITS.get(suffix)
    return Decimal(match[1]) * unit if unit is not None else Decimal(f"{match[1]}{suffix}")


def _asks_for_token(kind: str, view: View) -> Iterator[Remark]:
    cluster = cluster_spec(kind, view)
    if cluster is None:
        return
    mode = cluster.at("authOptions", "mode")
    if mode.text != "token":
        what = "whoever reaches the cluster runs code on it: there is no authentication"
        yield mode.remark("security.auth", what, "write `authOptions: {mode: token}`")


def _control_port(port: View) -> int | None:
    """The control port that a number or a name of a port means."""
    if port.number is not None:
        return port.number if port.number in CONTROL_PORTS else None
    if port.text.isdecimal():
        return _control_port(View(int(port.text[:6])))
    return CONTROL_PORT_NAMES.get(port.text)


def _exposed(place: View, port: int) -> Remark:
    what = f"opens port {port}, {CONTROL_PORTS[port]}, to outside the cluster"
    return place.remark("security.exposed", what, "use `kubectl port-forward`, and a Service of type ClusterIP")


def _open_services(kind: str, view: View) -> Iterator[Remark]:
    spec = view["spec"]
    is_open = spec["type"].text in OPEN_SERVICES or bool(spec["externalIPs"].items())
    if kind != "Service" or not is_open:
        return
    for entry in spec["ports"].items():
        for name in ("port", "targetPort", "name"):
            port = _control_port(entry[name])
            if port is not None:
                yield _exposed(entry[name], port)
                break


def _open_routes(kind: str, view: View) -> Iterator[Remark]:
    if kind not in ROUTES:
        return
    for place in view["spec"].every():
        is_backend = place.path[-1:] in (("port",), ("targetPort",), ("servicePort",))
        is_inside = place.path[-2:] in (("port", "number"), ("port", "name"))
        port = _control_port(place) if is_backend or is_inside else None
        if port is not None:
            yield _exposed(place, port)


def _open_head(kind: str, view: View) -> Iterator[Remark]:
    """The head's service carries all control ports."""
    cluster = cluster_spec(kind, view)
    if cluster is None:
        return
    head = cluster["headGroupSpec"]
    for service in (head["serviceType"], head.at("headService", "spec", "type")):
        if service.text in OPEN_SERVICES:
            yield _exposed(service, 8265)
    if head["enableIngress"].is_true:
        yield _exposed(head["enableIngress"], 8265)


def _quoted_entrypoint(kind: str, view: View) -> Iterator[Remark]:
    places = {"RayJob": ("spec", "entrypoint"), "RayCronJob": ("spec", "jobTemplate", "entrypoint")}
    place = view.at(*places[kind]) if kind in places else View(None)
    what = entrypoint.fault(place.text) if place.is_set else None
    if what:
        yield place.remark("security.entrypoint", what, "write what `shlex.join([...])` of the command gives")


def _high_uid(pod: PodTemplate) -> Iterator[Remark]:
    of_pod = pod.spec.at("securityContext", "runAsUser")
    places = [of_pod] if of_pod.is_set else []
    places += [container.at("securityContext", "runAsUser") for container in pod.containers()]
    for place in places:
        if place.number is not None and place.number < LOWEST_UID:
            what = f"uid {place.number} is below {LOWEST_UID}, where the users of the node are"
            yield place.remark("security.uid", what, "write `runAsUser: 10001`")
        elif not place.is_set and not of_pod.is_set:
            what = "the image decides which user it runs as"
            yield place.remark("security.uid", what, "write `runAsUser: 10001` for the pod", "warning")


def _read_only_root(pod: PodTemplate) -> Iterator[Remark]:
    for container in pod.containers():
        place = container.at("securityContext", "readOnlyRootFilesystem")
        if not place.is_true:
            hint = "write `readOnlyRootFilesystem: true` and mount an emptyDir where it writes"
            yield place.remark("security.filesystem", "can change its own programs", hint, "warning")


def _shared_memory(pod: PodTemplate) -> Iterator[Remark]:
    """Ray keeps objects in /dev/shm, of which a container has 64 MiB unless a volume is mounted there."""
    containers = pod.spec["containers"].items()
    if pod.role not in ("head", "worker") or not containers:
        return
    mounts = {mount["mountPath"].text.rstrip("/"): mount for mount in containers[0]["volumeMounts"].items()}
    if SHM not in mounts:
        hint = f"mount `emptyDir: {{medium: Memory, sizeLimit: ...}}` at {SHM}"
        yield containers[0]["volumeMounts"].remark("security.shm", f"nothing is mounted at {SHM}", hint, "warning")
        return
    volume = named(pod.spec["volumes"].items()).get(mounts[SHM]["name"].text)
    directory = View(None, mounts[SHM].path) if volume is None else volume["emptyDir"]
    if directory["medium"].text != "Memory" or "sizeLimit" not in directory:
        what = f"what is mounted at {SHM} is not in memory, or has no size"
        yield directory.remark("security.shm", what, "write `medium: Memory` and a `sizeLimit`", "warning")


def _bounded_memory(pod: PodTemplate) -> Iterator[Remark]:
    for container in pod.spec["containers"].items():
        resources = container["resources"]
        limit, request = (resources.at(name, "memory") for name in ("limits", "requests"))
        if not limit.is_set:
            hint = "write the same amount as limit and as request"
            yield limit.remark("security.memory", "may take all the memory of the node", hint, "warning")
        elif request.is_set and quantity(limit.value) != quantity(request.value):
            what = "the request is not the limit: the node may run out of memory"
            yield request.remark("security.memory", what, "write the same amount", "warning")


def _service_account(pod: PodTemplate) -> Iterator[Remark]:
    mounts, rule = pod.spec["automountServiceAccountToken"], "security.service-account"
    if pod.is_autoscaling:
        if mounts.value is False:
            what = "the autoscaler in this pod needs the token"
            yield mounts.remark(rule, what, "leave it out, and give the account a small Role")
    elif mounts.is_true:
        what = "any code in the pod can talk to the Kubernetes API"
        yield mounts.remark(rule, what, "write `automountServiceAccountToken: false`")
    elif not mounts.is_set:
        what = "a token of the Kubernetes API is mounted unless the account says otherwise"
        yield mounts.remark(rule, what, "write `automountServiceAccountToken: false`", "warning")


def _images_by_digest(pod: PodTemplate) -> Iterator[Remark]:
    for container in (*pod.containers(), *pod.sidecars):
        image = container["image"]
        if image.text and not _DIGEST.search(image.text):
            what = "the image can change under its name"
            yield image.remark("security.image", what, "write `name@sha256:...`", "warning")


DOCUMENT_RULES: tuple[Callable[[str, View], Iterable[Remark]], ...] = (
    _asks_for_token,
    _open_services,
    _open_routes,
    _open_head,
    _quoted_entrypoint,
)
POD_RULES: tuple[Callable[[PodTemplate], Iterable[Remark]], ...] = (
    _high_uid,
    _read_only_root,
    _shared_memory,
    _bounded_memory,
    _service_account,
    _images_by_digest,
)
