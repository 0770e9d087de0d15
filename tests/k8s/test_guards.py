"""What the manifests keep out: foreign pods, the instance's credentials, more rights than are used, secrets in text."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
MODES = ("enforce", "audit", "warn")
METADATA = tuple(ipaddress.ip_address(text) for text in ("169.254.169.254", "fd00:ec2::254"))

# constant.go of KubeRay, batch/v1, and the label that every namespace has.
SET_BY_KUBERAY = {
    "ray.io/cluster",
    "ray.io/node-type",
    "ray.io/is-ray-node",
    "ray.io/group",
    "ray.io/identifier",
    "ray.io/serve",
    "app.kubernetes.io/name",
    "app.kubernetes.io/created-by",
}
SET_BY_KUBERNETES = {"batch.kubernetes.io/job-name", "kubernetes.io/metadata.name", "k8s-app"}
# On namespaces, by a person: docs/kubernetes.md says how.
SET_BY_HAND = {"rayml.io/endpoint", "rayml.io/gateway", "rayml.io/monitoring"}

SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9]{20,}|-----BEGIN|eyJ[A-Za-z0-9_-]{20,}|://[^/\s:]+:[^@\s]+@"
)


def of_kind(documents: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] in kinds]


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def selectors(value: Any) -> set[str]:
    """Labels that selectors of any kind name."""
    found: set[str] = set()
    for key, inner in walk(value):
        if key == "matchLabels":
            found |= set(inner)
        elif key == "matchExpressions":
            found |= {expression["key"] for expression in inner}
    return found


def reaches(block: dict[str, Any], address: Any) -> bool:
    def holds(network: str) -> bool:
        parsed = ipaddress.ip_network(network)
        return parsed.version == address.version and address in parsed

    return holds(block["cidr"]) and not any(holds(network) for network in block.get("except", []))


def test_namespaces_admit_restricted_pods_only(documents):
    for namespace in of_kind(documents, "Namespace"):
        labels = namespace["metadata"]["labels"]
        for mode in MODES:
            assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"
            assert re.fullmatch(r"v1\.\d+", labels[f"pod-security.kubernetes.io/{mode}-version"])


def test_every_namespace_with_policies_denies_first(documents):
    policies = of_kind(documents, "NetworkPolicy")
    for namespace in {policy["metadata"]["namespace"] for policy in policies}:
        (deny,) = (
            policy["spec"]
            for policy in policies
            if policy["metadata"]["namespace"] == namespace
            and policy["spec"]["podSelector"] == {}
            and "egress" not in policy["spec"]
        )
        assert sorted(deny["policyTypes"]) == ["Egress", "Ingress"]
        assert "ingress" not in deny


def test_no_policy_lets_a_pod_ask_for_the_instances_credentials(documents):
    for policy in of_kind(documents, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            assert rule.get("to"), f"{policy['metadata']['name']} goes anywhere"
            assert rule.get("ports"), f"{policy['metadata']['name']} goes to any port"
            for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                for address in METADATA:
                    assert not reaches(block, address), f"{policy['metadata']['name']}: {block['cidr']} holds {address}"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"cidr": "0.0.0.0/0"}, True),
        ({"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}, False),
        ({"cidr": "169.254.170.23/32"}, False),
        ({"cidr": "169.254.0.0/16", "except": ["169.254.169.0/28"]}, True),
    ],
)
def test_the_check_of_addresses_itself(block, expected):
    assert reaches(block, METADATA[0]) is expected


def admitted(documents: list[dict[str, Any]], port: int) -> list[tuple[str, dict[str, Any]]]:
    """Policy and peer, for every peer that may open this port of a Ray pod."""
    return [
        (policy["metadata"]["name"], peer)
        for policy in of_kind(documents, "NetworkPolicy")
        if any(label.startswith("ray.io/") for label in selectors(policy["spec"]["podSelector"] and policy["spec"]))
        for rule in policy["spec"].get("ingress", [])
        for entry in rule["ports"]
        if entry["port"] <= port <= entry.get("endPort", entry["port"])
        for peer in rule["from"]
    ]


def test_the_dashboard_opens_to_operator_and_submitter_alone(render):
    peers = admitted(render("base"), 8265)
    assert {name for name, _ in peers} == {"ray-dashboard"}
    operator, submitter = (peer for _, peer in peers)
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kuberay-system"}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
    assert selectors(submitter) == {"batch.kubernetes.io/job-name"}


def test_endpoints_open_to_the_gateway_and_to_ray_alone(render):
    assert {name for name, _ in admitted(render("base"), 8000)} == {"ray-cluster", "ray-serve", "ray-serve-health"}
    assert {name for name, _ in admitted(render("base"), 8080)} == {"ray-cluster", "ray-metrics"}


def test_what_the_operator_asks_of_a_head_is_open_at_both_ends(render):
    def ports(name: str, documents: list[dict[str, Any]], direction: str, peers: str) -> set[int]:
        (policy,) = (d["spec"] for d in of_kind(documents, "NetworkPolicy") if d["metadata"]["name"] == name)
        rules = (rule for rule in policy[direction] if any("podSelector" in peer for peer in rule[peers]))
        return {entry["port"] for rule in rules for entry in rule["ports"]}

    asked = ports("operator", render("operator"), "egress", "to")
    base = render("base")
    answered = ports("ray-dashboard", base, "ingress", "from") | ports("ray-serve-health", base, "ingress", "from")
    assert asked == answered == {8265, 8000}


def test_no_pod_belongs_to_two_budgets(documents):
    """The eviction API refuses a pod that two budgets choose."""
    budgets = of_kind(documents, "PodDisruptionBudget")
    for number, budget in enumerate(budgets):
        labels = budget["spec"]["selector"]["matchLabels"]
        assert isinstance(budget["spec"]["minAvailable"], int), "a RayCluster has no scale to take a share of"
        for other in budgets[:number]:
            others = other["spec"]["selector"]["matchLabels"]
            apart = any(labels[key] != others[key] for key in labels.keys() & others.keys())
            assert apart or budget["metadata"]["namespace"] != other["metadata"]["namespace"]


def test_only_the_head_reaches_the_api_server_beyond_443(documents):
    for policy in of_kind(documents, "NetworkPolicy"):
        ports = {entry["port"] for rule in policy["spec"].get("egress", []) for entry in rule["ports"]}
        if 6443 in ports:
            assert policy["spec"]["podSelector"]["matchLabels"] in (
                {"ray.io/node-type": "head"},
                {"app.kubernetes.io/name": "kuberay-operator"},
            )


def test_selectors_name_labels_that_somebody_sets(documents):
    for document in of_kind(documents, "NetworkPolicy", "PodMonitor", "PodDisruptionBudget"):
        unknown = selectors(document["spec"]) - SET_BY_KUBERAY - SET_BY_KUBERNETES - SET_BY_HAND
        assert not unknown, f"{document['metadata']['name']}: nobody sets {unknown}"


def test_roles_name_what_they_allow(documents):
    for role in of_kind(documents, "Role", "ClusterRole"):
        for rule in role["rules"]:
            for field in ("apiGroups", "resources", "verbs"):
                assert rule[field], f"{role['metadata']['name']}: {field} is empty"
                assert not any("*" in entry for entry in rule[field])
            assert not {"secrets", "pods/exec", "pods/attach"} & set(rule["resources"])
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])
    assert not of_kind(documents, "ClusterRole", "ClusterRoleBinding")


def test_accounts_mount_no_token_and_bindings_lead_to_them(documents):
    accounts = {account["metadata"]["name"]: account for account in of_kind(documents, "ServiceAccount")}
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
    roles = {role["metadata"]["name"] for role in of_kind(documents, "Role")}
    for binding in of_kind(documents, "RoleBinding"):
        assert binding["roleRef"]["name"] in roles
        assert {subject["name"] for subject in binding["subjects"]} <= set(accounts)


def test_the_accounts_are_those_that_a_cluster_file_names_by_default(render):
    kuberay = pytest.importorskip("rayml.spec.kuberay", reason="rayml has no cluster files of kind kuberay yet")
    fields = kuberay.KubeRayCluster.model_fields
    documents = render("base")
    accounts = {account["metadata"]["name"] for account in of_kind(documents, "ServiceAccount")}
    assert {fields["service_account"].default, fields["head_account"].default} <= accounts
    (namespace,) = of_kind(documents, "Namespace")
    assert namespace["metadata"]["name"] == fields["namespace"].default


def test_no_secret_and_no_door_to_the_outside(documents):
    assert not of_kind(documents, "Secret", "Ingress", "Service")
    for key, value in walk(documents):
        assert not (key == "type" and value in {"NodePort", "LoadBalancer"})
        assert key not in {"hostNetwork", "hostPath", "hostPID", "privileged"}


@pytest.mark.parametrize(
    "path", sorted(p for p in K8S.rglob("*") if p.is_file()), ids=lambda p: str(p.relative_to(K8S))
)
def test_files_hold_no_secret_and_nothing_called_latest(path):
    text = path.read_text()
    assert not SECRET.search(text)
    assert not re.search(r":(latest|nightly)\b|-version: latest", text)


@pytest.mark.parametrize("path", sorted(K8S.rglob("*.yaml")), ids=lambda p: str(p.relative_to(K8S)))
def test_files_are_tidy(path):
    text = path.read_text()
    assert text.endswith("\n") and not text.endswith("\n\n") and "\t" not in text
    assert all(line == line.rstrip() and len(line) <= 140 for line in text.splitlines())
    assert list(yaml.safe_load_all(text))
