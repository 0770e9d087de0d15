"""The feature gates of KubeRay 1.7, and the fields that need one. A field whose gate is off passes the CRD and is then
refused, or passed over, by the controller (ray-operator/pkg/features/features.go and the validation of each kind)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rayml.errors import PlanError
from rayml.lint.finding import Remark
from rayml.lint.view import View
from rayml.spec.words import nearest

RULE = "kuberay.feature-gate"

GATES: Mapping[str, bool] = {
    "RayClusterStatusConditions": True,
    "RayJobDeletionPolicy": True,
    "RayMultiHostIndexing": True,
    "RayServiceIncrementalUpgrade": True,
    "GCSFaultToleranceEmbeddedStorage": False,
    "KubernetesWAS": False,
    "RayClusterHistoryServer": False,
    "RayClusterMTLS": False,
    "RayClusterNetworkPolicy": False,
    "RayCronJob": False,
    "SidecarSubmitterRestart": False,
}
"""Which gates are on where nobody turned one."""

_PRESENT = object()

CLUSTER_FIELDS: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("networkPolicy",), _PRESENT, "RayClusterNetworkPolicy"),
    (("tlsOptions",), _PRESENT, "RayClusterMTLS"),
    (("historyServerOptions",), _PRESENT, "RayClusterHistoryServer"),
    (("gcsFaultToleranceOptions", "backend"), "rocksdb", "GCSFaultToleranceEmbeddedStorage"),
)
JOB_FIELDS = ((("deletionStrategy",), _PRESENT, "RayJobDeletionPolicy"),)
SERVICE_FIELDS = ((("upgradeStrategy", "type"), "NewClusterWithIncrementalUpgrade", "RayServiceIncrementalUpgrade"),)
"""Fields, the value that needs the gate (any, or one), and the gate."""


def with_defaults(gates: Mapping[str, bool] | None) -> dict[str, bool]:
    """Every gate, as the operator has it when started with these. PlanError for a gate that it does not know."""
    for name in gates or {}:
        if name not in GATES:
            near = nearest(name, GATES)
            hint = f"did you mean `{near}`?" if near else f"known are {', '.join(sorted(GATES))}"
            raise PlanError(f"KubeRay 1.7 has no feature gate `{name}`", hint=hint)
    return {**GATES, **(gates or {})}


def parse(texts: list[str]) -> dict[str, bool]:
    """`RayCronJob=true` as the operator's `--feature-gates` takes it; several in one text stand between commas."""
    gates = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, _, value = part.partition("=")
        if value.lower() not in ("true", "false"):
            raise PlanError(f"`{part}` is not a feature gate", hint="write `--gate RayCronJob=true`")
        gates[name] = value.lower() == "true"
    return gates


def gated(
    view: View, fields: tuple[tuple[tuple[str, ...], Any, str], ...], gates: Mapping[str, bool]
) -> Iterator[Remark]:
    """What a spec uses while its gate is off."""
    for place, value, gate in fields:
        found = view.at(*place)
        if found.is_set and value in (_PRESENT, found.value) and not gates[gate]:
            yield off(found, gate)


def off(view: View, gate: str) -> Remark:
    hint = f"start the operator with `--feature-gates={gate}=true` and lint with `--gate {gate}=true`"
    return view.remark(RULE, f"needs the feature gate {gate}, which is off", hint)
