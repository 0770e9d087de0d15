"""Values for KubeRay's chart. The chart is not here: its keys are written down, and helm renders a stand-in.

With `RAYML_KUBERAY_CHART=kuberay-operator-1.7.0.tgz` the real chart takes the stand-in's place.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

OPERATOR = Path(__file__).parents[2] / "k8s" / "operator"
VALUES = yaml.safe_load((OPERATOR / "values.yaml").read_text())
PROD = yaml.safe_load((OPERATOR / "values-prod.yaml").read_text())

# First and second level of values.yaml of kuberay-operator 1.7; None where what is below is Kubernetes' own.
KNOWN: dict[str, set[str] | None] = {
    "affinity": None,
    "annotations": None,
    "batchScheduler": {"enabled", "name"},
    "componentOverride": None,
    "configuration": {
        "enabled",
        "defaultContainerEnvs",
        "defaultPodAnnotations",
        "defaultPodLabels",
        "headSidecarContainers",
        "workerSidecarContainers",
    },
    "crNamespacedRbacEnable": None,
    "env": None,
    "featureGates": None,
    "fullnameOverride": None,
    "hostUsers": None,
    "image": {"repository", "tag", "pullPolicy"},
    "imagePullSecrets": None,
    "kubeClient": {"qps", "burst"},
    "labels": None,
    "leaderElectionEnabled": None,
    "livenessProbe": {"initialDelaySeconds", "periodSeconds", "failureThreshold"},
    "logging": {"stdoutEncoder", "fileEncoder", "baseDir", "fileName", "sizeLimit"},
    "metrics": {"enabled", "serviceMonitor"},
    "nameOverride": None,
    "nodeSelector": None,
    "operatorCommand": None,
    "podSecurityContext": None,
    "priorityClassName": None,
    "rbacEnable": None,
    "readinessProbe": {"initialDelaySeconds", "periodSeconds", "failureThreshold"},
    "reconcileConcurrency": None,
    "replicas": None,
    "resources": None,
    "securityContext": None,
    "service": {"type", "port"},
    "serviceAccount": {"create", "name"},
    "singleNamespaceInstall": None,
    "tolerations": None,
    "useKubernetesProxy": None,
    "watchNamespace": None,
}
GATES = {
    "RayClusterStatusConditions",
    "RayJobDeletionPolicy",
    "RayMultiHostIndexing",
    "RayServiceIncrementalUpgrade",
    "RayCronJob",
    "RayClusterMTLS",
    "RayClusterNetworkPolicy",
    "RayClusterHistoryServer",
}

STAND_IN = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: kuberay-operator}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app.kubernetes.io/name: kuberay-operator}}
  template:
    metadata: {labels: {app.kubernetes.io/name: kuberay-operator}}
    spec:
      securityContext: {{- toYaml .Values.podSecurityContext | nindent 8 }}
      containers:
        - name: kuberay-operator
          image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
          securityContext: {{- toYaml .Values.securityContext | nindent 12 }}
          resources: {{- toYaml .Values.resources | nindent 12 }}
          args:
            - --watch-namespace
            - {{ join "," .Values.watchNamespace }}
            {{- $gates := list }}
            {{- range .Values.featureGates }}{{ $gates = append $gates (printf "%s=%t" .name .enabled) }}{{ end }}
            - --feature-gates={{ join "," $gates }}
      {{- with .Values.affinity }}
      affinity: {{- toYaml . | nindent 8 }}
      {{- end }}
"""


@pytest.mark.parametrize("values", [VALUES, PROD], ids=["values", "values-prod"])
def test_the_chart_knows_every_key(values):
    for key, value in values.items():
        assert key in KNOWN, f"the chart has no {key}"
        inner = KNOWN[key]
        if inner is not None:
            assert set(value) <= inner, f"the chart's {key} has no {set(value) - inner}"


def test_gates_are_named_one_by_one():
    gates = {gate["name"]: gate["enabled"] for gate in VALUES["featureGates"]}
    assert set(gates) == GATES
    assert all(isinstance(enabled, bool) for enabled in gates.values())
    assert gates["RayCronJob"], "a cluster file's schedule is a RayCronJob"


def test_the_image_is_by_digest_and_says_that_it_is_a_placeholder():
    assert re.fullmatch(r"v1\.7\.\d+@sha256:[0-9a-f]{64}", VALUES["image"]["tag"])
    if set(VALUES["image"]["tag"].partition("sha256:")[2]) == {"0"}:
        assert VALUES["image"]["repository"].startswith("registry.invalid/")
        assert "PLACEHOLDER" in (OPERATOR / "values.yaml").read_text()


def test_the_operator_sees_the_namespace_of_the_base_and_no_other(render):
    namespaces = [document["metadata"]["name"] for document in render("base") if document["kind"] == "Namespace"]
    assert VALUES["watchNamespace"] == namespaces
    assert VALUES["singleNamespaceInstall"] and VALUES["crNamespacedRbacEnable"]


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    real = os.environ.get("RAYML_KUBERAY_CHART")
    if real is not None:
        return Path(real).resolve()
    folder = tmp_path / "kuberay-operator"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: kuberay-operator\nversion: 1.7.0\n")
    (folder / "templates" / "deployment.yaml").write_text(STAND_IN)
    return folder


def deployment(tools: Path, chart: Path, home: Path, *files: str) -> dict[str, Any]:
    command = [
        str(tools / "helm" / "helm"),
        "template",
        "kuberay-operator",
        str(chart),
        "--namespace",
        "kuberay-system",
    ]
    for file in files:
        command += ["--values", str(OPERATOR / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={"HOME": str(home)})
    assert done.returncode == 0, done.stderr
    assert not done.stderr, f"a warning: {done.stderr}"
    (found,) = (d for d in yaml.safe_load_all(done.stdout) if d and d["kind"] == "Deployment")
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="no schemas of the core kinds: pip install kubernetes-validate"
    )
    kubernetes_validate.validate(found, "1.37", strict=True)
    return found["spec"]


def test_helm_makes_a_pod_that_a_restricted_namespace_admits(tools, chart, tmp_path):
    pod = deployment(tools, chart, tmp_path, "values.yaml")["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] >= 10000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert "@sha256:" in container["image"]
    assert "rayml" in container["args"]
    (gates,) = (argument for argument in container["args"] if argument.startswith("--feature-gates="))
    assert "RayCronJob=true" in gates and "RayClusterMTLS=false" in gates


def test_production_has_two_of_it_and_keeps_the_rest(tools, chart, tmp_path):
    made = deployment(tools, chart, tmp_path, "values.yaml", "values-prod.yaml")
    assert made["replicas"] == 2
    (container,) = made["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
