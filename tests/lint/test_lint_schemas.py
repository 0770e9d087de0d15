"""Documents against the CustomResourceDefinitions of KubeRay, Kueue and Prometheus, and against our own schemas."""

from __future__ import annotations

import json

import pytest
from lint_manifests import MAKERS, REMOVE, SCHEMAS, pod, ray_cluster, ray_cron_job, ray_job, ray_service, spoiled

from rayml.errors import PlanError
from rayml.lint.lint import lint_documents
from rayml.lint.models import POD_SPEC, fields
from rayml.lint.schemas import check_object, check_part, load_definitions, with_defaults
from rayml.lint.view import View

SOURCES = [
    pytest.param(None, id="own"),
    pytest.param(
        SCHEMAS,
        id="crd",
        marks=pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"the CRDs of KubeRay are not at {SCHEMAS}"),
    ),
]
CRDS = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"the CRDs of KubeRay are not at {SCHEMAS}")
GATES = {"RayCronJob": True}
HEAD = "spec/headGroupSpec"
GROUP = "spec/workerGroupSpecs/0"
CONTAINER = f"{HEAD}/template/spec/containers/0"


def faults(document, schemas):
    return [
        finding
        for finding in lint_documents([document], schemas=schemas, gates=GATES)
        if finding.rule.startswith(("schema", "object"))
    ]


@pytest.mark.parametrize("schemas", SOURCES)
@pytest.mark.parametrize("autoscaling", [False, True])
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob", "RayService"])
def test_good_documents_have_no_finding(kind, autoscaling, schemas):
    assert lint_documents([MAKERS[kind](autoscaling=autoscaling)], schemas=schemas) == []


@pytest.mark.parametrize("schemas", SOURCES)
def test_a_good_cron_job_has_no_finding(schemas):
    assert lint_documents([ray_cron_job()], schemas=schemas, gates=GATES) == []


BAD = [
    (ray_cluster, {"spec/rayVerson": "2.60.0"}, "spec.rayVerson", "did you mean `rayVersion`?"),
    (ray_cluster, {f"{HEAD}/rayStartParam": {}}, "spec.headGroupSpec.rayStartParam", "did you mean `rayStartParams`?"),
    (ray_cluster, {f"{GROUP}/minReplica": 1}, "spec.workerGroupSpecs.0.minReplica", "did you mean `minReplicas`?"),
    (ray_cluster, {f"{GROUP}/replicas": "2"}, "spec.workerGroupSpecs.0.replicas", "text, where a whole number fits"),
    (ray_cluster, {f"{GROUP}/replicas": 1.5}, "spec.workerGroupSpecs.0.replicas", "a number, where a whole number"),
    (ray_cluster, {"spec/rayVersion": 2.6}, "spec.rayVersion", "a number, where text fits; put it in quotes"),
    (ray_cluster, {"spec/suspend": "no"}, "spec.suspend", "text, where true or false fits"),
    (ray_cluster, {"spec/authOptions/mode": "tokn"}, "spec.authOptions.mode", "did you mean `token`?"),
    (ray_cluster, {"spec/headGroupSpec": REMOVE}, "spec.headGroupSpec", "has to be there"),
    (ray_cluster, {f"{GROUP}/groupName": REMOVE}, "spec.workerGroupSpecs.0.groupName", "has to be there"),
    (ray_cluster, {"spec/workerGroupSpecs": {}}, "spec.workerGroupSpecs", "a mapping, where a list fits"),
    (ray_cluster, {"spec": []}, "spec", "a list, where a mapping fits"),
    (ray_cluster, {f"{CONTAINER}/imag": "x"}, f"{CONTAINER.replace('/', '.')}.imag", "did you mean `image`?"),
    (
        ray_cluster,
        {f"{CONTAINER}/resources/limits/memory": "4 GB"},
        f"{CONTAINER.replace('/', '.')}.resources.limits.memory",
        "does not have the form",
    ),
    (
        ray_cluster,
        {f"{CONTAINER}/env": [{"name": "A", "value": 1}]},
        f"{CONTAINER.replace('/', '.')}.env.0.value",
        "a number, where text fits; put it in quotes",
    ),
    (ray_cluster, {f"{HEAD}/template/spec/containers": REMOVE}, "containers", "has to be there"),
    (ray_cluster, {"metadata/label": {}}, "metadata.label", "did you mean `labels`?"),
    (ray_cluster, {"metadata/labels": {"a": 1}}, "metadata.labels.a", "put it in quotes"),
    (ray_cluster, {"apiVersion": "ray.io/v2"}, "apiVersion", "no version of"),
    (ray_cluster, {"apiVersion": REMOVE}, "apiVersion", "has to be there"),
    (ray_job, {"spec/entryPoint": "python x.py"}, "spec.entryPoint", "did you mean `entrypoint`?"),
    (ray_job, {"spec/backoffLimit": "1"}, "spec.backoffLimit", "text, where a whole number fits"),
    (
        ray_job,
        {"spec/submitterPodTemplate/spec/volums": []},
        "spec.submitterPodTemplate.spec.volums",
        "did you mean `volumes`?",
    ),
    (ray_service, {"spec/serveConfig": ""}, "spec.serveConfig", "did you mean `serveConfigV2`?"),
    (ray_service, {"spec/serveConfigV2": {}}, "spec.serveConfigV2", "a mapping, where text fits"),
    (ray_service, {"spec/rayClusterConfig": REMOVE}, "spec.rayClusterConfig", "has to be there"),
    (ray_cron_job, {"spec/schedule": REMOVE}, "spec.schedule", "has to be there"),
    (ray_cron_job, {"spec/timezone": "UTC"}, "spec.timezone", "did you mean `timeZone`?"),
    (ray_cron_job, {"spec/jobTemplate/rayClusterSpecs": {}}, "spec.jobTemplate.rayClusterSpecs", "did you mean"),
]


@pytest.mark.parametrize("schemas", SOURCES)
@pytest.mark.parametrize(("make", "changes", "path", "what"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_bad_documents_are_told(make, changes, path, what, schemas):
    found = faults(spoiled(make(), changes), schemas)
    assert any(path in finding.path and what in finding.what for finding in found), [str(each) for each in found]
    assert all(finding.severity == "error" for finding in found)


@CRDS
def test_rules_in_cel_are_evaluated():
    condition = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}
    rules = [{"policy": "DeleteSelf", "condition": condition}, {"policy": "DeleteSelf", "condition": {"ttlSeconds": 1}}]
    found = faults(spoiled(ray_job(), {"spec/deletionStrategy": {"deletionRules": rules}}), SCHEMAS)
    places = sorted(finding.path for finding in found if finding.rule == "schema.rule")
    assert places == [f"spec.deletionStrategy.deletionRules.{at}.condition" for at in (0, 1)]
    found = faults(spoiled(ray_job(), {"spec/managedBy": "me"}), SCHEMAS)
    assert [(finding.path, finding.rule) for finding in found] == [("spec.managedBy", "schema.rule")]
    assert faults(spoiled(ray_job(), {"spec/managedBy": "ray.io/kuberay-operator"}), SCHEMAS) == []


@CRDS
def test_other_groups_are_checked_too():
    queue = {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "ResourceFlavor",
        "metadata": {"name": "gpu"},
        "spec": {"nodeTaints": [{"key": "gpu", "effect": "Never"}], "nodeLabel": {}},
    }
    found = faults(queue, SCHEMAS)
    assert {finding.path for finding in found} == {"spec.nodeTaints", "spec.nodeLabel"}


def test_a_rule_about_a_change_is_left_out_and_one_in_a_foreign_syntax_is_told():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self == oldSelf"}, {"rule": "self.a > "}, {"rule": "self.a > 1"}],
    }
    assert [remark.severity for remark in check_object({"a": 2}, schema)] == ["warning"]
    assert [remark.severity for remark in check_object({"a": 1}, schema)] == ["warning", "error"]


def test_defaults_and_nulls():
    schema = fields("a:int b:int", c=fields("d:text"))
    schema["properties"]["b"] = {"type": "integer", "default": 7}
    schema["properties"]["c"]["properties"]["d"] = {"type": "string", "default": "x"}
    assert with_defaults({"a": None, "b": None, "c": {}}, schema) == {"b": 7, "c": {"d": "x"}}
    assert check_object({"a": None}, schema) == []
    kept = {"type": "object", "properties": {"a": {"type": "string", "nullable": True}}}
    assert with_defaults({"a": None}, kept) == {"a": None}
    assert check_object({"a": None}, kept) == []


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"x-kubernetes-int-or-string": True}, [1, "1"], [True, [], 1.5]),
        ({"type": "integer", "format": "int32"}, [2**31 - 1, 3.0], [2**31, True, "1"]),
        ({"type": "number", "minimum": 0, "maximum": 1}, [0, 0.5], [-1, 2]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab"], ["a", "abcd"]),
        ({"type": "array", "minItems": 1, "x-kubernetes-list-type": "set"}, [[1, 2]], [[], [1, 1]]),
        ({"type": "string", "pattern": "^a+$"}, ["aa"], ["b"]),
        ({"type": "string", "pattern": "(unclosed"}, ["anything"], [1]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"a": 1}], [{"a": "b"}]),
        ({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, [{"a": [1]}], [[]]),
        ({"type": "object", "properties": {}}, [{}], [{"a": 1}]),
        ({"type": "object", "x-kubernetes-embedded-resource": True}, [{"kind": "A"}], [{"a": 1}]),
        ({}, [1, None, {"a": [1]}], []),
    ],
)
def test_keywords(schema, good, bad):
    assert [value for value in good if check_part(View(value), schema)] == []
    assert [value for value in bad if not check_part(View(value), schema)] == []


def test_pods_have_a_model_of_their_own():
    assert check_part(View(pod()), POD_SPEC) == []
    found = check_part(View(pod(tolerations=[{"keys": "gpu"}], restartPolicy="never")), POD_SPEC)
    assert {remark.path for remark in found} == {("tolerations", 0, "keys"), ("restartPolicy",)}


def test_our_own_schemas_know_every_field_of_the_definitions():
    if not SCHEMAS.is_dir():
        pytest.skip(f"the CRDs of KubeRay are not at {SCHEMAS}")
    from rayml.lint.models import RAY_KINDS

    definitions = load_definitions(SCHEMAS)
    for kind, mine in RAY_KINDS.items():
        theirs = definitions.versions("ray.io/v1", kind)["v1"]
        assert compared(mine["properties"]["spec"], theirs["properties"]["spec"], kind) == []


def compared(mine, theirs, path):
    """The paths at which our schema has other field names than the definition, as deep as ours says anything."""
    mine, theirs = mine.get("items", mine), theirs.get("items", theirs)
    if "properties" not in mine or "properties" not in theirs or path.endswith("metadata"):
        return []
    inside = mine["properties"]
    found = [f"{path}.{name}" for name in inside.keys() ^ theirs["properties"].keys()]
    for name in inside.keys() & theirs["properties"].keys():
        found += compared(inside[name], theirs["properties"][name], f"{path}.{name}")
    return found


@CRDS
def test_the_model_of_a_pod_knows_every_field_of_the_definition():
    cluster = load_definitions(SCHEMAS).versions("ray.io/v1", "RayCluster")["v1"]["properties"]["spec"]["properties"]
    theirs = cluster["headGroupSpec"]["properties"]["template"]["properties"]["spec"]
    assert compared(POD_SPEC, theirs, "spec") == []


def test_a_folder_that_is_not_one(tmp_path):
    with pytest.raises(PlanError, match="no such folder"):
        load_definitions(tmp_path / "none")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PlanError, match="not a schema in JSON"):
        load_definitions(tmp_path)


def test_other_files_in_the_folder_are_passed_over(tmp_path):
    for name, data in {"a": [], "b": {"spec": 1}, "c": {"spec": {"versions": [{"schema": None}]}}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    assert load_definitions(tmp_path).schemas == {}
