"""Who reaches whom, as a network plugin would decide it: the table of docs/kubernetes.md, played through."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Pod:
    """A pod with the labels that KubeRay, Kubernetes or a chart gives it; or an address, where there is no pod."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    address: str = "10.0.7.19"


def ray(kind: str, *more: tuple[str, str]) -> Pod:
    return Pod(
        "rayml", (("ray.io/cluster", "digits-x2x4q"), ("ray.io/node-type", kind), ("ray.io/is-ray-node", "yes"), *more)
    )


NAMESPACES = {
    "rayml": {},
    "kuberay-system": {},
    "kube-system": {},
    "gateway": {"rayml.io/gateway": "true"},
    "monitoring": {"rayml.io/monitoring": "true"},
    "elsewhere": {},
}
PODS = {
    "head": ray("head", ("ray.io/serve", "false")),
    "serving head": ray("head", ("ray.io/serve", "true")),
    "worker": ray("worker"),
    "replica": ray("worker", ("ray.io/serve", "true")),
    "submitter": Pod("rayml", (("batch.kubernetes.io/job-name", "digits"),)),
    "other pod": Pod("rayml", (("app", "notebook"),)),
    "operator": Pod("kuberay-system", (("app.kubernetes.io/name", "kuberay-operator"),)),
    "neighbour of the operator": Pod("kuberay-system", (("app", "debug"),)),
    "dns": Pod("kube-system", (("k8s-app", "kube-dns"),)),
    "gateway": Pod("gateway"),
    "prometheus": Pod("monitoring"),
    "stranger": Pod("elsewhere", (("ray.io/cluster", "foreign"), ("ray.io/node-type", "head"))),
    "s3": Pod("", address="52.218.97.145"),
    "s3 over v6": Pod("", address="2600:1fa0:80b4::1"),
    "api server": Pod("", address="10.0.1.12"),
    "instance metadata": Pod("", address="169.254.169.254"),
    "instance metadata over v6": Pod("", address="fd00:ec2::254"),
    "pod identity": Pod("", address="169.254.170.23"),
}


def chosen(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items()
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "Exists" for expression in expressions), "only Exists is played here"
    return all(labels.get(key) == value for key, value in wanted) and all(e["key"] in labels for e in expressions)


def meets(peer: dict[str, Any], pod: Pod, home: str) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(pod.address)

        def inside(network: str) -> bool:
            return ipaddress.ip_network(network).version == address.version and address in ipaddress.ip_network(network)

        return inside(peer["ipBlock"]["cidr"]) and not any(inside(part) for part in peer["ipBlock"].get("except", []))
    if not pod.namespace:
        return False
    if "namespaceSelector" in peer:
        own = {**NAMESPACES[pod.namespace], "kubernetes.io/metadata.name": pod.namespace}
        at_home = chosen(peer["namespaceSelector"], own)
    else:
        at_home = pod.namespace == home
    return at_home and chosen(peer.get("podSelector", {}), dict(pod.labels))


def one_way(policies: list[dict[str, Any]], pod: Pod, other: Pod, port: int, direction: str, peers: str) -> bool:
    """Whether the policies of `pod` let it open to, or be opened by, `other`. A pod that none chooses is free."""
    binding = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction.capitalize() in policy["spec"]["policyTypes"]
        and chosen(policy["spec"]["podSelector"], dict(pod.labels))
    ]
    return not binding or any(
        any(entry["port"] <= port <= entry.get("endPort", entry["port"]) for entry in rule["ports"])
        and any(meets(peer, other, pod.namespace) for peer in rule[peers])
        for policy in binding
        for rule in policy["spec"].get(direction, [])
    )


def reaches(documents: list[dict[str, Any]], source: str, target: str, port: int) -> bool:
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    client, server = PODS[source], PODS[target]
    return one_way(policies, client, server, port, "egress", "to") and one_way(
        policies, server, client, port, "ingress", "from"
    )


DOORS = [
    # Inside a Ray cluster: GCS, the object manager's random port, a plasma of another worker.
    ("worker", "head", 6379),
    ("head", "worker", 38211),
    ("worker", "replica", 10003),
    ("worker", "head", 8000),
    # Handing over a job, and asking how it is.
    ("submitter", "head", 8265),
    ("operator", "head", 8265),
    ("operator", "head", 8000),
    # Endpoints.
    ("gateway", "replica", 8000),
    ("gateway", "serving head", 8000),
    # Metrics.
    ("prometheus", "head", 8080),
    ("prometheus", "head", 44217),
    ("prometheus", "head", 44227),
    ("prometheus", "worker", 8080),
    ("prometheus", "operator", 8080),
    # Out of the cluster.
    ("worker", "s3", 443),
    ("worker", "s3 over v6", 443),
    ("head", "api server", 443),
    ("head", "api server", 6443),
    ("operator", "api server", 6443),
    ("worker", "dns", 53),
    ("submitter", "dns", 53),
    ("operator", "dns", 53),
]
WALLS = [
    # Code is started through the dashboard.
    ("worker", "head", 8265),
    ("gateway", "head", 8265),
    ("prometheus", "head", 8265),
    ("other pod", "head", 8265),
    ("neighbour of the operator", "head", 8265),
    ("stranger", "head", 8265),
    # Nor by Ray's own ports.
    ("other pod", "head", 6379),
    ("submitter", "head", 6379),
    ("submitter", "head", 10001),
    ("operator", "head", 10001),
    ("stranger", "head", 10001),
    ("stranger", "worker", 38211),
    ("gateway", "replica", 10003),
    # Endpoints are the gateway's, and only where something is served.
    ("stranger", "replica", 8000),
    ("other pod", "replica", 8000),
    ("gateway", "worker", 8000),
    ("gateway", "head", 8000),
    # Metrics are Prometheus'.
    ("stranger", "head", 8080),
    ("stranger", "operator", 8080),
    # Nobody has the instance's credentials.
    *((source, target, port) for source in ("head", "worker", "submitter", "other pod", "operator")
      for target in ("instance metadata", "instance metadata over v6") for port in (80, 443)),
    ("worker", "pod identity", 80),
    # Nothing else leaves.
    ("worker", "api server", 6443),
    ("worker", "s3", 80),
    ("worker", "stranger", 6379),
    ("submitter", "s3", 443),
    ("other pod", "s3", 443),
    ("other pod", "worker", 10003),
    ("operator", "s3", 80),
    ("neighbour of the operator", "api server", 443),
]  # fmt: skip


@pytest.fixture(scope="module", params=["dev", "gpu", "prod"])
def applied(request: pytest.FixtureRequest, render: Any) -> list[dict[str, Any]]:
    return [*render("operator"), *render(f"overlays/{request.param}")]


def test_every_door_is_open(applied):
    closed = [door for door in DOORS if not reaches(applied, *door)]
    assert not closed


def test_every_wall_stands(applied):
    through = [wall for wall in WALLS if reaches(applied, *wall)]
    assert not through


def test_pod_identity_opens_its_agent_and_nothing_else(render):
    documents = [*render("operator"), *render("components/pod-identity")]
    assert reaches(documents, "worker", "pod identity", 80)
    assert [wall for wall in WALLS if reaches(documents, *wall)] == [("worker", "pod identity", 80)]
