"""Each rule of the KubeRay controller with a document that breaks it and one, close to it, that does not."""

from __future__ import annotations

import pytest
from lint_manifests import REMOVE, container, pod, ray_cluster, ray_cron_job, ray_job, ray_service, spoiled

from rayml.errors import PlanError
from rayml.lint.documents import rendered
from rayml.lint.gates import GATES, parse, with_defaults
from rayml.lint.kuberay import check_kuberay
from rayml.lint.kuberay_cluster import parse_version

HEAD = "spec/headGroupSpec"
GROUP = "spec/workerGroupSpecs/0"
FT = "spec/gcsFaultToleranceOptions"
DELETION = "spec/deletionStrategy"
UPGRADE = "spec/upgradeStrategy"
ALL_ON = dict.fromkeys(GATES, True)
ALL_OFF = dict.fromkeys(GATES, False)


def ray_autoscaling():
    return ray_cluster(autoscaling=True)


def autoscaling_job():
    return ray_job(autoscaling=True)


def autoscaling_service():
    return ray_service(autoscaling=True)


def selecting_job():
    changes = {"spec/clusterSelector": {"ray.io/cluster": "shared"}, "spec/rayClusterSpec": REMOVE}
    return spoiled(ray_job(), changes)


def lasting_job():
    return spoiled(ray_job(), {"spec/shutdownAfterJobFinishes": False, "spec/ttlSecondsAfterFinished": 0})


def env(name, value="1"):
    return {f"{HEAD}/template/spec/containers/0/env": [{"name": name, "value": value}]}


def rule(policy, ttl=0, **condition):
    return {"policy": policy, "condition": {**(condition or {"jobStatus": "FAILED"}), "ttlSeconds": ttl}}


def rules(*each):
    return {DELETION: {"deletionRules": list(each)}}


def legacy(success, failure):
    return {DELETION: {"onSuccess": {"policy": success}, "onFailure": {"policy": failure}}}


def upgrade(**options):
    given = {"stepSizePercent": 10, "intervalSeconds": 5, "gatewayClassName": "istio", **options}
    return {UPGRADE: {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": given}}


def group(name, **more):
    return {"groupName": name, "minReplicas": 0, "maxReplicas": 1, "template": {"spec": pod()}, **more}


def groups(*names):
    return {"spec/workerGroupSpecs": [group(name) for name in names]}


def collector(**more):
    given = {"image": "collector:1", "env": [{"name": "STORAGE_BACKEND", "value": "S3"}], **more}
    return {"spec/historyServerOptions": {"collectorOptions": given}}


CASES = [
    # rule, document, what breaks it, what does not
    ("name", ray_cluster, {"metadata/name": "Digits"}, {"metadata/name": "digits-2"}),
    ("name", ray_cluster, {"metadata/name": "1digits"}, {"metadata/name": "d"}),
    ("name", ray_job, {"metadata/name": "digits-"}, {"metadata/name": "digits-a"}),
    ("name", ray_service, {"metadata/name": ""}, {"metadata": {"generateName": "digits-"}}),
    ("name", ray_service, {"metadata": {}}, {"metadata": {"name": "a1"}}),
    ("name-length", ray_cluster, {"metadata/name": "a" * 54}, {"metadata/name": "a" * 53}),
    ("name-length", ray_job, {"metadata/name": "a" * 48}, {"metadata/name": "a" * 47}),
    ("name-length", ray_service, {"metadata/name": "a" * 48}, {"metadata/name": "a" * 47}),
    ("name-length", ray_cron_job, {"metadata/name": "a" * 37}, {"metadata/name": "a" * 36}),
    ("containers", ray_cluster, {f"{HEAD}/template/spec/containers": []}, {}),
    ("containers", ray_cluster, {f"{GROUP}/template/spec/containers": REMOVE}, {}),
    ("start-params", ray_cluster, {f"{HEAD}/rayStartParams/num-cpus": 0}, {f"{HEAD}/rayStartParams/num-cpus": "0"}),
    ("start-params", ray_cluster, {f"{GROUP}/rayStartParams/block": True}, {f"{GROUP}/rayStartParams/block": "true"}),
    ("resources-once", ray_cluster, {f"{HEAD}/resources": {"CPU": "0"}}, {f"{GROUP}/resources": {"CPU": "2"}}),
    ("labels-once", ray_cluster, {f"{GROUP}/rayStartParams/labels": "a=b"}, {f"{GROUP}/labels": {"a": "b"}}),
    ("labels", ray_cluster, {f"{GROUP}/labels": {"a b": "c"}}, {f"{GROUP}/labels": {"ray.io/market-type": "spot"}}),
    ("labels", ray_cluster, {f"{HEAD}/labels": {"a": "b c"}}, {f"{HEAD}/labels": {"a": ""}}),
    ("labels", ray_cluster, {f"{HEAD}/labels": {"-/a": "b"}}, {f"{HEAD}/labels": {"a": "b" * 63}}),
    ("group-name", ray_cluster, {f"{GROUP}/groupName": ""}, {f"{GROUP}/groupName": "gpu"}),
    ("group-name", ray_cluster, groups("cpu", "cpu"), groups("cpu", "gpu")),
    ("replicas", ray_cluster, {f"{GROUP}/minReplicas": 2}, {f"{GROUP}/minReplicas": 1}),
    ("replicas", ray_cluster, {f"{GROUP}/maxReplicas": 0}, {f"{GROUP}/maxReplicas": 1}),
    ("replicas", ray_cluster, {f"{GROUP}/replicas": REMOVE, f"{GROUP}/minReplicas": 5}, {f"{GROUP}/replicas": REMOVE}),
    ("replicas", ray_cluster, {f"{GROUP}/minReplicas": -1}, {f"{GROUP}/minReplicas": 0}),
    ("idle-timeout", ray_cluster, {f"{GROUP}/idleTimeoutSeconds": 60}, {}),
    ("idle-timeout", ray_autoscaling, {f"{GROUP}/idleTimeoutSeconds": -1}, {f"{GROUP}/idleTimeoutSeconds": 60}),
    ("idle-timeout", ray_autoscaling, {"spec/autoscalerOptions/idleTimeoutSeconds": -1}, {}),
    ("priority", ray_cluster, {f"{GROUP}/priority": 1}, {f"{GROUP}/priority": 0}),
    ("priority", ray_autoscaling, {f"{GROUP}/priority": 1, "spec/rayVersion": "2.55.1"}, {f"{GROUP}/priority": 1}),
    ("suspended-group", ray_autoscaling, {f"{GROUP}/suspend": True}, {f"{GROUP}/suspend": False}),
    ("autoscaler-variable", ray_cluster, env("RAY_enable_autoscaler_v2"), env("RAY_enable_autoscaler_v2", "0")),
    ("autoscaler-variable", ray_autoscaling, env("RAY_enable_autoscaler_v2"), env("RAY_enable_other")),
    (
        "restart-policy",
        ray_autoscaling,
        {f"{HEAD}/template/spec/restartPolicy": "Always"},
        {f"{HEAD}/template/spec/restartPolicy": "Never"},
    ),
    (
        "restart-policy",
        ray_autoscaling,
        {f"{GROUP}/template/spec/restartPolicy": "OnFailure"},
        {f"{GROUP}/template/spec/restartPolicy": "OnFailure", "spec/autoscalerOptions/version": "v1"},
    ),
    (
        "restart-policy",
        ray_autoscaling,
        {f"{GROUP}/template/spec/restartPolicy": "Always", "spec/autoscalerOptions/version": REMOVE},
        {
            f"{GROUP}/template/spec/restartPolicy": "Always",
            "spec/autoscalerOptions/version": REMOVE,
            "spec/rayVersion": "2.46.0",
            "spec/authOptions": REMOVE,
        },
    ),
    (
        "autoscaler-env",
        ray_autoscaling,
        {"spec/autoscalerOptions/env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}]},
        {"spec/autoscalerOptions/env": [{"name": "OTHER", "value": "x"}]},
    ),
    ("history-server", ray_cluster, {"spec/historyServerOptions": {}}, collector()),
    ("history-server", ray_cluster, collector(image=""), collector()),
    ("history-server", ray_cluster, collector(env=[]), collector()),
    (
        "history-server",
        ray_cluster,
        collector(env=[{"name": "STORAGE_BACKEND", "value": "S3"}, {"name": "POD_IP", "value": "1"}]),
        collector(env=[{"name": "STORAGE_BACKEND", "value": "S3"}, {"name": "S3_REGION", "value": "x"}]),
    ),
    (
        "history-server",
        ray_cluster,
        {**collector(), f"{GROUP}/template/spec/containers": [container(), container("collector")]},
        {**collector(), f"{GROUP}/template/spec/containers": [container(), container("other")]},
    ),
    ("redis", ray_cluster, {FT: {}, "metadata/annotations": {"ray.io/ft-enabled": "true"}}, {FT: {}}),
    ("redis", ray_cluster, {FT: {}, "metadata/annotations": {"ray.io/external-storage-namespace": "a"}}, {FT: {}}),
    ("redis", ray_cluster, {FT: {}, f"{HEAD}/rayStartParams/redis-password": "$REDIS_PASSWORD"}, {FT: {}}),
    ("redis", ray_cluster, {FT: {}, **env("REDIS_PASSWORD")}, env("REDIS_PASSWORD")),
    ("redis", ray_cluster, {FT: {}, **env("RAY_REDIS_ADDRESS")}, {FT: {"redisAddress": "redis:6379"}}),
    (
        "redis",
        ray_cluster,
        env("RAY_REDIS_ADDRESS"),
        {**env("RAY_REDIS_ADDRESS"), "metadata/annotations": {"ray.io/ft-enabled": "true"}},
    ),
    ("redis", ray_cluster, env("REDIS_USERNAME"), env("OTHER")),
    ("redis", ray_cluster, {f"{HEAD}/rayStartParams/redis-username": "me"}, {f"{HEAD}/rayStartParams/port": "6379"}),
    ("rocksdb", ray_cluster, {FT: {"storage": {"size": "1Gi"}}}, {FT: {"redisAddress": "redis:6379"}}),
    ("rocksdb", ray_cluster, {FT: {"backend": "rocksdb", "redisAddress": "r"}}, {FT: {"backend": "rocksdb"}}),
    (
        "rocksdb",
        ray_cluster,
        {FT: {"backend": "rocksdb", "storage": {"claimName": "a", "size": "1Gi"}}},
        {FT: {"backend": "rocksdb", "storage": {"claimName": "a"}}},
    ),
    ("rocksdb", ray_cluster, {FT: {"backend": "rocksdb"}, **env("RAY_GCS_STORAGE")}, env("RAY_GCS_STORAGE")),
    ("rocksdb-immutable", ray_cluster, {FT: {"backend": "rocksdb"}}, {FT: {"backend": "redis"}}),
    ("auth", ray_cluster, {"spec/rayVersion": REMOVE}, {"spec/rayVersion": "2.52.0"}),
    ("auth", ray_cluster, {"spec/rayVersion": "2.51.9"}, {"spec/rayVersion": "2.52"}),
    ("auth", ray_cluster, {"spec/rayVersion": "nightly"}, {"spec/rayVersion": "2.60.0-py311"}),
    (
        "auth",
        ray_cluster,
        {"spec/authOptions": {"mode": "token", "enableK8sTokenAuth": True}, "spec/rayVersion": "2.54.0"},
        {"spec/authOptions": {"mode": "token", "enableK8sTokenAuth": True}, "spec/rayVersion": "2.55.0"},
    ),
    (
        "auth",
        ray_cluster,
        {"spec/authOptions": {"mode": "token", "enableK8sTokenAuth": True, "secretName": "a"}},
        {"spec/authOptions": {"mode": "token", "enableK8sTokenAuth": False, "secretName": "a"}},
    ),
    ("auth", ray_cluster, {"spec/authOptions": {"enableK8sTokenAuth": True}}, {"spec/authOptions": {}}),
    ("auth-kind", ray_job, {"spec/rayClusterSpec/authOptions/enableK8sTokenAuth": True}, {}),
    ("auth-kind", ray_service, {"spec/rayClusterConfig/authOptions/enableK8sTokenAuth": True}, {}),
    (
        "network-policy",
        ray_cluster,
        {"spec/networkPolicy": {"mode": "DenyAllEgress", "head": {"ingressRules": [{}]}}},
        {"spec/networkPolicy": {"mode": "DenyAllEgress", "head": {"egressRules": [{}]}}},
    ),
    (
        "network-policy",
        ray_cluster,
        {"spec/networkPolicy": {"workerGroups": [{"groupName": "gpu"}]}},
        {"spec/networkPolicy": {"workerGroups": [{"groupName": "cpu"}]}},
    ),
    (
        "network-policy",
        ray_cluster,
        {"spec/networkPolicy": {}, f"{GROUP}/groupName": "CPU"},
        {"spec/networkPolicy": {}},
    ),
    ("tls", ray_cluster, {"spec/tlsOptions": {}, **env("RAY_USE_TLS")}, env("RAY_USE_TLS")),
    ("upgrade-type", ray_cluster, {f"{UPGRADE}/type": "Rolling"}, {f"{UPGRADE}/type": "Recreate"}),
    (
        "upgrade-owner",
        ray_cluster,
        {f"{UPGRADE}/type": "None", "metadata/labels": {"ray.io/originated-from-crd": "RayJob"}},
        {f"{UPGRADE}/type": "None", "metadata/labels": {"ray.io/originated-from-crd": "RayCluster"}},
    ),
    ("job-mode", ray_job, {"spec/submissionMode": "HTTP"}, {"spec/submissionMode": "HTTPMode"}),
    ("job-cluster", ray_job, {"spec/rayClusterSpec": REMOVE}, {}),
    ("job-selector", selecting_job, {"spec/clusterSelector": {"name": "shared"}}, {}),
    ("job-suspend", ray_job, {"spec/suspend": True, "spec/shutdownAfterJobFinishes": False}, {"spec/suspend": True}),
    ("job-suspend", selecting_job, {"spec/suspend": True}, {"spec/suspend": False}),
    ("job-ttl", ray_job, {"spec/shutdownAfterJobFinishes": REMOVE}, {"spec/ttlSecondsAfterFinished": 0}),
    ("job-ttl", ray_job, {"spec/ttlSecondsAfterFinished": -1}, {"spec/ttlSecondsAfterFinished": 1}),
    ("job-deadline", ray_job, {"spec/activeDeadlineSeconds": 0}, {"spec/activeDeadlineSeconds": 1}),
    ("job-deadline", ray_job, {"spec/preRunningDeadlineSeconds": -1}, {"spec/preRunningDeadlineSeconds": 600}),
    ("job-backoff", ray_job, {"spec/backoffLimit": -1}, {"spec/backoffLimit": 2}),
    ("job-backoff", selecting_job, {"spec/backoffLimit": 1}, {"spec/backoffLimit": 0}),
    (
        "job-backoff",
        ray_job,
        {"spec/backoffLimit": 1, "spec/submissionMode": "InteractiveMode"},
        {"spec/backoffLimit": 0, "spec/submissionMode": "InteractiveMode"},
    ),
    (
        "job-sidecar",
        ray_job,
        {"spec/submissionMode": "SidecarMode"},
        {"spec/submissionMode": "SidecarMode", "spec/submitterPodTemplate": REMOVE},
    ),
    (
        "job-sidecar",
        ray_job,
        {
            "spec/submissionMode": "SidecarMode",
            "spec/submitterPodTemplate": REMOVE,
            "spec/rayClusterSpec/headGroupSpec/template/spec/restartPolicy": "Always",
        },
        {"spec/rayClusterSpec/headGroupSpec/template/spec/restartPolicy": "Always"},
    ),
    ("job-sidecar", ray_job, {"spec/submissionMode": "SidecarMode", "spec/submitterConfig": {}}, {}),
    ("submitter", ray_job, {"spec/submitterPodTemplate": REMOVE}, {}),
    ("submitter", ray_job, {"spec/submissionMode": "SidecarMode"}, {"spec/submissionMode": "HTTPMode"}),
    ("submitter", ray_cron_job, {"spec/jobTemplate/submitterPodTemplate": REMOVE}, {}),
    ("runtime-env", ray_job, {"spec/runtimeEnvYAML": "a: ["}, {"spec/runtimeEnvYAML": "a: []"}),
    ("runtime-env", ray_job, {"spec/runtimeEnvYAML": "- a"}, {"spec/runtimeEnvYAML": ""}),
    ("deletion", ray_job, rules(rule("DeleteSelf")), {}),
    ("deletion", ray_job, legacy("DeleteNone", "DeleteSelf"), legacy("DeleteCluster", "DeleteSelf")),
    ("deletion", lasting_job, {DELETION: {}}, rules(rule("DeleteSelf"))),
    ("deletion", lasting_job, {DELETION: {"onSuccess": {"policy": "DeleteSelf"}}}, legacy("DeleteSelf", "DeleteNone")),
    ("deletion", lasting_job, legacy(None, "DeleteSelf"), legacy("DeleteSelf", "DeleteSelf")),
    (
        "deletion",
        lasting_job,
        {**rules(rule("DeleteSelf")), f"{DELETION}/onSuccess": {"policy": "DeleteSelf"}},
        rules(rule("DeleteSelf")),
    ),
    ("deletion", lasting_job, {**rules(rule("DeleteSelf")), "spec/ttlSecondsAfterFinished": 5}, {}),
    (
        "deletion",
        selecting_job,
        {**rules(rule("DeleteCluster")), "spec/shutdownAfterJobFinishes": False},
        {
            **rules(rule("DeleteSelf")),
            "spec/shutdownAfterJobFinishes": False,
            "spec/ttlSecondsAfterFinished": 0,
        },
    ),
    ("deletion-condition", lasting_job, rules(rule("DeleteSelf", jobStatus=None)), rules(rule("DeleteSelf"))),
    (
        "deletion-condition",
        lasting_job,
        rules(rule("DeleteSelf", jobStatus="FAILED", jobDeploymentStatus="Failed")),
        rules(rule("DeleteSelf", jobDeploymentStatus="Failed")),
    ),
    ("deletion-condition", lasting_job, rules(rule("DeleteSelf", -1)), rules(rule("DeleteSelf", 1))),
    (
        "deletion-double",
        lasting_job,
        rules(rule("DeleteSelf"), rule("DeleteSelf", 9)),
        rules(rule("DeleteSelf"), rule("DeleteSelf", jobStatus="SUCCEEDED")),
    ),
    (
        "deletion-order",
        lasting_job,
        rules(rule("DeleteCluster", 20), rule("DeleteSelf", 10)),
        rules(rule("DeleteCluster", 10), rule("DeleteSelf", 10)),
    ),
    ("delete-workers", autoscaling_job, rules(rule("DeleteWorkers")), rules(rule("DeleteCluster"))),
    ("delete-workers", autoscaling_job, legacy("DeleteWorkers", "DeleteSelf"), legacy("DeleteSelf", "DeleteSelf")),
    ("delete-workers", autoscaling_job, rules(rule("DeleteWorkers")), {}),
    (
        "head-service",
        ray_service,
        {"spec/rayClusterConfig/headGroupSpec/headService": {"metadata": {"name": "a"}}},
        {"spec/rayClusterConfig/headGroupSpec/headService": {"metadata": {"labels": {}}}},
    ),
    ("upgrade-type", ray_service, {f"{UPGRADE}/type": "Recreate"}, {f"{UPGRADE}/type": "None"}),
    ("upgrade", ray_service, upgrade(), {f"{UPGRADE}/type": "NewCluster"}),
    ("upgrade", autoscaling_service, upgrade(stepSizePercent=60, maxSurgePercent=50), upgrade(maxSurgePercent=10)),
    ("upgrade", autoscaling_service, upgrade(stepSizePercent=None), upgrade(stepSizePercent=100)),
    ("upgrade", autoscaling_service, upgrade(maxSurgePercent=101), upgrade(maxSurgePercent=100)),
    ("upgrade", autoscaling_service, upgrade(intervalSeconds=0), upgrade(intervalSeconds=1)),
    ("upgrade", autoscaling_service, upgrade(gatewayClassName=""), upgrade(gatewayClassName="x")),
    ("upgrade", autoscaling_service, {UPGRADE: {"type": "NewClusterWithIncrementalUpgrade"}}, upgrade()),
    (
        "deletion-delay",
        ray_service,
        {"spec/rayClusterDeletionDelaySeconds": -1},
        {"spec/rayClusterDeletionDelaySeconds": 0},
    ),
    (
        "initializing-timeout",
        ray_service,
        {"metadata/annotations": {"ray.io/initializing-timeout": "soon"}},
        {"metadata/annotations": {"ray.io/initializing-timeout": "1h30m"}},
    ),
    (
        "initializing-timeout",
        ray_service,
        {"metadata/annotations": {"ray.io/initializing-timeout": "0s"}},
        {"metadata/annotations": {"ray.io/initializing-timeout": "300"}},
    ),
    ("schedule", ray_cron_job, {"spec/schedule": "CRON_TZ=UTC 0 3 * * *"}, {"spec/schedule": "@every 1h30m"}),
    ("schedule", ray_cron_job, {"spec/schedule": "0 3 * *"}, {"spec/schedule": "*/15 0-6,20 1 JAN-MAR MON"}),
    ("schedule", ray_cron_job, {"spec/schedule": "60 3 * * *"}, {"spec/schedule": "59 3 * * *"}),
    ("schedule", ray_cron_job, {"spec/schedule": "*/0 3 * * *"}, {"spec/schedule": "@daily"}),
    ("schedule", ray_cron_job, {"spec/schedule": "5-1 3 * * *"}, {"spec/schedule": "1-5 3 * * *"}),
    ("time-zone", ray_cron_job, {"spec/timeZone": ""}, {"spec/timeZone": "UTC"}),
    ("time-zone", ray_cron_job, {"spec/timeZone": "Mars/Olympus"}, {"spec/timeZone": REMOVE}),
    ("job-ttl", ray_cron_job, {"spec/jobTemplate/ttlSecondsAfterFinished": -1}, {}),
]


def broken(document, gates=None, restricted=True):
    gates = {**with_defaults(None), **(ALL_ON if gates is None else gates)}
    return check_kuberay(rendered(document, 1), gates, restricted)


def test_the_table_is_long_enough():
    assert len({case[0] for case in CASES}) >= 40


@pytest.mark.parametrize(("name", "make", "bad", "good"), CASES, ids=lambda value: value if type(value) is str else "")
def test_rule(name, make, bad, good):
    assert f"kuberay.{name}" in {remark.rule for remark in broken(spoiled(make(), bad))}
    assert f"kuberay.{name}" not in {remark.rule for remark in broken(spoiled(make(), good))}


@pytest.mark.parametrize(
    "make", [ray_cluster, ray_autoscaling, ray_job, autoscaling_job, selecting_job, lasting_job, ray_service]
)
def test_good_documents_break_no_rule(make):
    assert broken(make(), gates={}) == []


def test_a_good_cron_job_needs_its_gate():
    assert [remark.rule for remark in broken(ray_cron_job(), gates={})] == ["kuberay.feature-gate"]
    assert broken(ray_cron_job(), gates={"RayCronJob": True}) == []


GATED = [
    ("RayClusterNetworkPolicy", ray_cluster, {"spec/networkPolicy": {"mode": "DenyAll"}}),
    ("RayClusterMTLS", ray_cluster, {"spec/tlsOptions": {"enabled": True}}),
    ("RayClusterHistoryServer", ray_cluster, collector()),
    ("GCSFaultToleranceEmbeddedStorage", ray_cluster, {FT: {"backend": "rocksdb"}}),
    ("RayJobDeletionPolicy", lasting_job, rules(rule("DeleteSelf"))),
    ("RayJobDeletionPolicy", ray_cluster, {f"{GROUP}/suspend": True}),
    ("RayServiceIncrementalUpgrade", autoscaling_service, upgrade()),
    ("RayCronJob", ray_cron_job, {}),
]


@pytest.mark.parametrize(("gate", "make", "changes"), GATED)
def test_a_field_needs_its_gate(gate, make, changes):
    document = spoiled(make(), changes)
    (remark,) = [each for each in broken(document, {**ALL_ON, gate: False}) if each.severity == "error"]
    assert remark.rule == "kuberay.feature-gate"
    assert gate in remark.what
    assert all(each.severity == "warning" for each in broken(document, ALL_ON))


def test_the_gates_of_1_7():
    assert {name for name, is_on in GATES.items() if is_on} == {
        "RayJobDeletionPolicy",
        "RayServiceIncrementalUpgrade",
        "RayMultiHostIndexing",
        "RayClusterStatusConditions",
    }


def test_gates_as_text():
    assert parse(["RayCronJob=true,RayClusterMTLS=False", "KubernetesWAS=true"]) == {
        "RayCronJob": True,
        "RayClusterMTLS": False,
        "KubernetesWAS": True,
    }
    for text in ("RayCronJob", "RayCronJob=", "RayCronJob=1", ""):
        with pytest.raises(PlanError, match="not a feature gate"):
            parse([text])
    with pytest.raises(PlanError) as error:
        with_defaults({"RayCronJobs": True})
    assert "did you mean `RayCronJob`?" in str(error.value)


def test_a_relaxed_namespace_takes_the_default_submitter():
    document = spoiled(ray_job(), {"spec/submitterPodTemplate": REMOVE})
    assert broken(document, restricted=False) == []
    sidecar = spoiled(document, {"spec/submissionMode": "SidecarMode"})
    assert broken(sidecar, restricted=False) == []
    assert [remark.rule for remark in broken(sidecar)] == ["kuberay.submitter"]


def test_other_kinds_are_left_alone():
    other = {"apiVersion": "example.org/v1", "kind": "RayJob", "metadata": {"name": "BAD"}, "spec": {}}
    assert broken(other) == []
    assert broken({**other, "apiVersion": "ray.io/v1", "kind": "Pod"}) == []


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.56.0", (2, 56, 0)), ("2.56", (2, 56, 0)), ("v2.60.1-gpu", (2, 60, 1)), ("", None), ("nightly", None)],
)
def test_versions(text, version):
    assert parse_version(text) == version
