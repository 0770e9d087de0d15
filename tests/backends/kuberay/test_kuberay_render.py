"""What each part of a cluster file turns into, and what is refused before anything is sent."""

from __future__ import annotations

import base64
import io
import random
import zipfile

import pytest
import yaml
from kuberay_jobs import ROOT, cluster_file, cluster_of, plan_of
from pydantic import ValidationError

from rayml.backends.kuberay.request import render
from rayml.errors import PlanError


def job(cluster: str = "cpu-sweep", **changes):
    return render(plan_of("digits", cluster), cluster_of(changes)(cluster), "digits-1").documents[-1]


def groups(document):
    return document["spec"]["rayClusterSpec"]["workerGroupSpecs"]


def test_without_a_queue_the_cluster_scales():
    (group,) = groups(job())
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (0, 0, 16)
    assert group["idleTimeoutSeconds"] == 120
    spec = job()["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


QUEUES = {
    "kueue": {"kueue.x-k8s.io/queue-name": "rayml", "kueue.x-k8s.io/priority-class": "rayml-train"},
    "volcano": {"volcano.sh/queue-name": "rayml", "ray.io/priority-class-name": "rayml-train"},
}


@pytest.mark.parametrize("kind", QUEUES)
def test_in_a_queue_all_pods_are_asked_for_at_once(kind):
    document = job(queue={"kind": kind, "name": "rayml", "priority": "rayml-train"})
    (group,) = groups(document)
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (16, 16, 16)
    assert document["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in document["spec"]["rayClusterSpec"]
    assert QUEUES[kind].items() <= document["metadata"]["labels"].items()


def test_kueue_lets_a_suspended_job_go_and_wants_its_cluster_back():
    spec = job("gpu-a100")["spec"]
    assert spec["suspend"] is True and spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] == 600
    assert "deletionStrategy" not in spec, "it excludes shutdownAfterJobFinishes"


def test_elsewhere_rules_say_what_is_deleted():
    spec = job(finish={"ttl": "5m", "keep_failed": "1h", "deadline": "2h", "retries": 3})["spec"]
    assert spec["shutdownAfterJobFinishes"] is False
    assert "ttlSecondsAfterFinished" not in spec and "suspend" not in spec
    assert (spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (7200, 3)
    rules = [(rule["policy"], *rule["condition"].values()) for rule in spec["deletionStrategy"]["deletionRules"]]
    assert rules == [
        ("DeleteCluster", "SUCCEEDED", 0),
        ("DeleteSelf", "SUCCEEDED", 300),
        ("DeleteCluster", "FAILED", 3600),
        ("DeleteCluster", "Failed", 3600),
    ]


def test_a_schedule_is_a_raycronjob():
    document = job(schedule={"cron": "0 3 * * 1-5", "time_zone": "Europe/Berlin"})
    assert document["kind"] == "RayCronJob"
    assert (document["spec"]["schedule"], document["spec"]["timeZone"]) == ("0 3 * * 1-5", "Europe/Berlin")
    assert document["spec"]["jobTemplate"]["entrypoint"].startswith("python -m rayml.run.cluster_entry ")


GATES = [
    ("job", {}, ("RayJobDeletionPolicy",)),
    ("job", {"schedule": {"cron": "0 3 * * *"}}, ("RayCronJob", "RayJobDeletionPolicy")),
    ("job", {"queue": {"kind": "kueue", "name": "rayml"}}, ()),
    ("service", {}, ()),
    ("service", {"upgrade": "incremental", "gateway_class": "istio"}, ("RayServiceIncrementalUpgrade",)),
    ("cluster", {}, ()),
]


@pytest.mark.parametrize(("kind", "changes", "gates"), GATES)
def test_the_gates_that_have_to_be_on(kind, changes, gates):
    assert render(plan_of("digits", "cpu-sweep"), cluster_of(changes)("cpu-sweep"), "r", kind).gates == gates


def test_who_submits():
    assert job()["spec"]["submissionMode"] == "HTTPMode"
    assert "submitterPodTemplate" not in job()["spec"]
    by_pod = job(submission="k8s_job")["spec"]
    assert by_pod["submissionMode"] == "K8sJobMode"
    assert "command" not in by_pod["submitterPodTemplate"]["spec"]["containers"][0], "KubeRay writes it"


def test_spot_nodes_are_tolerated_and_preferred():
    (group,) = groups(job("gpu-h100-spot"))
    pod = group["template"]["spec"]
    assert {"key": "rayml.io/spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"} in pod["tolerations"]
    assert "preferredDuringSchedulingIgnoredDuringExecution" in pod["affinity"]["nodeAffinity"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert group["rayStartParams"]["num-gpus"] == "8"
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "rayml-hub"}}]


def test_shared_memory_holds_the_object_store():
    for cluster in ("cpu-sweep", "gpu-h100-spot"):
        for size, group in zip(cluster_file(cluster).groups, groups(job(cluster)), strict=True):
            assert int(group["rayStartParams"]["object-store-memory"]) < size.shared_memory < size.memory


def test_redis_keeps_what_the_head_knows():
    options = job("gpu-h100-spot")["spec"]["rayClusterSpec"]["gcsFaultToleranceOptions"]
    reference = {"secretKeyRef": {"name": "rayml-redis", "key": "password"}}
    assert options == {"redisAddress": "redis.rayml.svc:6379", "redisPassword": {"valueFrom": reference}}


SERVED = {
    "storage": "s3://example-rayml/rayml",
    "min_replicas": 1,
    "max_replicas": 1,
    "cpus": 1,
    "max_body": 16 * 2**20,
    "max_rows": 1024,
    "key": True,
    "samples": 64,
    "gates": {"parity_max_abs_diff": "<= 0.0001", "parity_label_mismatches": "<= 0"},
}


def service(**changes):
    return render(plan_of("digits", "cpu-sweep"), cluster_of(changes)("cpu-sweep"), "digits-1", "service").documents


def test_an_endpoint_has_a_stable_name_and_a_budget():
    endpoint, budget = service()
    assert endpoint["metadata"]["name"] == "digits", "the next run's model takes its place"
    assert endpoint["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
    labels = endpoint["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    chosen = budget["spec"]["selector"]["matchLabels"]
    assert chosen["rayml.io/endpoint"] == labels["rayml.io/endpoint"] == "digits"
    (app,) = yaml.safe_load(endpoint["spec"]["serveConfigV2"])["applications"]
    assert app["import_path"] == "rayml.stages.serve.kubernetes:app"
    export = plan_of("digits", "cpu-sweep").step("serve").inputs["export"]
    assert app["args"] == {**SERVED, "run": "digits-1", "artifact": export}


def test_only_the_pods_with_replicas_hold_the_key_and_only_by_reference():
    spec = service(endpoint_key="team-key")[0]["spec"]["rayClusterConfig"]
    head, worker = (
        {each["name"]: each for each in part["template"]["spec"]["containers"][0]["env"]}
        for part in (spec["headGroupSpec"], spec["workerGroupSpecs"][0])
    )
    reference = {"secretKeyRef": {"name": "team-key", "key": "key"}}
    assert worker["RAYML_ENDPOINT_KEY"] == {"name": "RAYML_ENDPOINT_KEY", "valueFrom": reference}
    assert "RAYML_ENDPOINT_KEY" not in head
    for pod in (head, worker):
        assert pod["RAY_SERVE_ENABLE_HA_PROXY"]["value"] == "1"
        assert pod["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]["value"] == "rayml.stages.serve.guard:middlewares"


def test_an_endpoint_that_asks_for_no_key_needs_no_secret():
    plan = plan_of("digits", "cpu-sweep")
    serve = plan.step("serve")
    open_one = serve.model_copy(update={"config": {**serve.config, "auth": "none"}})
    plan = plan.model_copy(update={"steps": (*plan.steps[:-1], open_one)})
    text = render(plan, cluster_file("cpu-sweep"), "r", "service").to_yaml()
    assert "rayml-endpoint-key" not in text and "key: false" in text


def test_a_new_model_is_a_new_cluster():
    plan, cluster = plan_of("digits", "cpu-sweep"), cluster_file("cpu-sweep")
    one, other = (render(plan, cluster, run, "service").documents[0]["spec"]["rayClusterConfig"] for run in ("a", "b"))
    assert one != other


def test_no_upgrade_strategy_where_another_made_the_cluster():
    assert "upgradeStrategy" not in job()["spec"]["rayClusterSpec"]
    assert "upgradeStrategy" not in service()[0]["spec"]["rayClusterConfig"]
    (document,) = render(plan_of("digits", "cpu-sweep"), cluster_file("cpu-sweep"), "team", "cluster").documents
    assert document["spec"]["upgradeStrategy"] == {"type": "Recreate"}


def test_code_of_the_users_travels_as_a_package_that_every_pod_mounts():
    plan = plan_of("minilm-compress", "cpu-sweep")
    config, document = render(plan, cluster_file("cpu-sweep"), "minilm-1").documents
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(config["binaryData"]["package.zip"]))) as package:
        assert {"plan.json", "code/encoder.py", "code/docstrings.py"} <= set(package.namelist())
    spec = document["spec"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["working_dir"] == "file:///etc/rayml/package.zip"
    assert " plan.json " in spec["entrypoint"]
    for template in (spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]):
        volumes = template["template"]["spec"]["volumes"]
        assert {"name": "plan", "configMap": {"name": config["metadata"]["name"]}} in volumes


def test_a_plan_that_no_configmap_holds_is_refused():
    plan = plan_of("digits", "cpu-sweep")
    large = plan.model_copy(update={"job_file": "x" * 900_000})
    with pytest.raises(PlanError, match="a ConfigMap takes 900 KB"):
        render(large, cluster_file("cpu-sweep"), "digits-1")


def test_code_that_no_configmap_holds_is_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(random.Random(1).randbytes(1_000_000))
    plan = plan_of("digits", "cpu-sweep").model_copy(update={"code": str(tmp_path)})
    with pytest.raises(PlanError, match="code folder would take") as caught:
        render(plan, cluster_file("cpu-sweep"), "digits-1")
    assert "rayignore" in caught.value.hint


def test_a_kind_that_the_job_has_no_step_for_is_refused():
    with pytest.raises(PlanError, match="no endpoint"):
        render(plan_of("digits-sweep", "cpu-sweep"), cluster_file("cpu-sweep"), "r", "service")
    served = plan_of("digits", "cpu-sweep")
    only = served.model_copy(update={"steps": (served.step("serve"),)})
    with pytest.raises(PlanError, match="only serves"):
        render(only, cluster_file("cpu-sweep"), "r")


def test_until_a_sweep_has_decided_the_run_says_what_is_served():
    served, swept = plan_of("digits", "cpu-sweep"), plan_of("digits-sweep", "cpu-sweep")
    plan = served.model_copy(update={"steps": (*swept.steps, served.step("serve"))})
    endpoint = render(plan, cluster_file("cpu-sweep"), "r", "service").documents[0]
    (app,) = yaml.safe_load(endpoint["spec"]["serveConfigV2"])["applications"]
    assert app["args"] == {**SERVED, "run": "r"}


REFUSED = [
    ({"schedule": {"cron": "0 3 * * *"}, "queue": {"kind": "kueue", "name": "q"}}, "a schedule has no queue"),
    ({"upgrade": "incremental"}, "needs `gateway_class`"),
    ({"upgrade": "incremental", "gateway_class": "g", "queue": {"kind": "kueue", "name": "q"}}, "autoscaler"),
    ({"head": {"memory": "1GiB", "shm": "1GiB"}}, "smaller"),
    ({"head": {"memory": "256MiB"}}, "shm is below"),
    ({"groups": [{"name": "head", "cpus": 1, "memory": "4GiB", "max": 1}]}, "the name of other pods"),
    (
        {
            "groups": [{"name": f"g{i}", "cpus": 1, "memory": "4GiB", "max": 1} for i in range(7)],
            "queue": {"kind": "kueue", "name": "q"},
        },
        "Kueue admits 6",
    ),
    ({"image": "rayml:latest"}, "image"),
    ({"redis": {"address": "redis"}}, "address"),
    ({"schedule": {"cron": "TZ=UTC 3 * * *"}}, "cron"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_a_cluster_file_cannot_say(changes, words):
    with pytest.raises(ValidationError, match=words):
        cluster_of(changes)("cpu-sweep")


def test_the_cluster_files_say_that_their_image_is_made_up():
    for name in ("gpu-a100", "gpu-h100-spot", "cpu-sweep"):
        assert "Made up: put in the digest" in (ROOT / "cluster" / f"{name}.yaml").read_text()
        assert cluster_file(name).price_per_hour
