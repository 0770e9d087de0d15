"""The Pod Security Standards against every upstream fixture, and in every kind that holds a pod template."""

from __future__ import annotations

import pytest
import yaml
from lint_manifests import MAKERS, SCHEMAS, container, pod, ray_cluster, spoiled

from rayml.lint.lint import lint_documents
from rayml.lint.pod_security import pod_security
from rayml.lint.pods import pod_templates
from rayml.lint.view import View

FIXTURES = SCHEMAS / "pod-security-testdata" / "test" / "testdata"
FILES = sorted(FIXTURES.glob("*/v1.37/*/*.yaml"))
NO_FIXTURES = pytest.mark.skipif(not FILES, reason=f"the upstream fixtures are not at {FIXTURES}")


def remarks(document, level):
    return [
        remark for found in pod_templates(document["kind"], View(document)) for remark in pod_security(found, level)
    ]


@NO_FIXTURES
def test_every_fixture_is_there():
    assert len(FILES) == 148


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join((path.parts[-4], path.parts[-2], path.stem)))
def test_agrees_with_upstream(path):
    document = yaml.safe_load(path.read_text())
    found = remarks(document, path.parts[-4])
    assert bool(found) == (path.parent.name == "fail"), found
    if found:
        check = path.stem.rstrip("0123456789").lower()
        rules = {remark.rule.removeprefix("pod-security.").lower() for remark in found}
        overridden = {
            "restrictedvolumes": "hostpathvolumes",
            "procmount_restricted": "procmount",
            "seccompprofile_restricted": "seccompprofile_baseline",
        }
        assert check in rules or overridden.get(check) in rules, f"{path.name} is refused for {rules}"


def workload(kind, template):
    spec = {"jobTemplate": {"spec": {"template": template}}} if kind == "CronJob" else {"template": template}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "SomethingElse")


@pytest.mark.parametrize("kind", WORKLOADS)
def test_looks_into_workloads(kind):
    good = workload(kind, {"spec": pod()})
    assert remarks(good, "restricted") == []
    bad = workload(kind, {"spec": pod(hostNetwork=True)})
    (remark,) = remarks(bad, "restricted")
    assert remark.rule == "pod-security.hostNamespaces"
    assert remark.path[-3:] == ("template", "spec", "hostNetwork")


@pytest.mark.parametrize("kind", MAKERS)
def test_looks_into_every_template_of_ray_kinds(kind):
    templates = pod_templates(kind, View(MAKERS[kind]()))
    roles = [template.role for template in templates]
    assert roles == (["head", "worker", "submitter"] if "Job" in kind else ["head", "worker"])
    for template in templates:
        template.spec.value["hostPID"] = True
        assert [remark.rule for remark in pod_security(template, "baseline")] == ["pod-security.hostNamespaces"]


def test_sees_the_autoscaler_that_kuberay_adds():
    document = ray_cluster(autoscaling=True)
    assert remarks(document, "restricted") == []
    del document["spec"]["autoscalerOptions"]["securityContext"]
    paths = {".".join(map(str, remark.path)) for remark in remarks(document, "restricted")}
    assert paths == {
        "spec.autoscalerOptions.securityContext.allowPrivilegeEscalation",
        "spec.autoscalerOptions.securityContext.capabilities",
    }


def test_the_level_is_the_namespace_s():
    document = workload("Job", {"spec": pod(containers=[container(securityContext={})])})
    strict = {finding.rule for finding in lint_documents([document])}
    relaxed = {finding.rule for finding in lint_documents([document], restricted=False)}
    assert "pod-security.capabilities_restricted" in strict
    assert not any(rule.startswith("pod-security") for rule in relaxed)


def test_says_the_path_of_the_container():
    document = spoiled(
        ray_cluster(), {"spec/workerGroupSpecs/0/template/spec/containers/0/securityContext/privileged": True}
    )
    (finding,) = [each for each in lint_documents([document]) if each.rule == "pod-security.privileged"]
    assert finding.path == "spec.workerGroupSpecs.0.template.spec.containers.0.securityContext.privileged"
