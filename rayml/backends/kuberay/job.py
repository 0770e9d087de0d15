"""The RayJob of a run: the steps that end. A RayCronJob around it where the cluster file has a schedule.

Sources: ray-operator/controllers/ray/common/job.go (BuildJobSubmitCommand), .../utils/validation.go
(validateDeletionConfiguration), .../raycronjob_controller.go of KubeRay; pkg/controller/jobs/rayjob/rayjob_webhook.go
of Kueue; third_party/forked/golang/expansion/expand.go of Kubernetes.
"""

from __future__ import annotations

import shlex

from rayml.backends.kuberay.cluster import cluster_spec
from rayml.backends.kuberay.metadata import metadata, queue_labels, waits_for_kueue
from rayml.backends.kuberay.names import Kind, percent_encoded, resource_name
from rayml.backends.kuberay.parcel import Parcel
from rayml.backends.kuberay.pods import Document, submitter_template
from rayml.backends.kuberay.quantities import seconds
from rayml.backends.kuberay.text import embedded
from rayml.backends.ray.request import RUN_KEY
from rayml.plan.plan import Plan
from rayml.spec.kuberay import FinishSpec, KubeRayCluster

MODES = {"k8s_job": "K8sJobMode", "http": "HTTPMode"}
"""`submission` of the cluster file to KubeRay's word. Its SidecarMode takes no template of ours, and its own pod has no
securityContext, which a restricted namespace refuses."""
CLUSTER_LABEL, CLUSTER_VARIABLE = "ray.io/cluster", "RAYML_CLUSTER"
RUN_LABEL = "rayml.io/run"
"""On what belongs to a run; its value is the name of the RayJob."""


def job_documents(plan: Plan, cluster: KubeRayCluster, run: str, parcel: Parcel) -> list[Document]:
    """The ConfigMap with the plan, and the RayJob or RayCronJob that walks it."""
    kind, name = owner(cluster), resource_name(run, owner(cluster))
    notes = {"rayml.io/run": run, "rayml.io/job": plan.job}
    label = {RUN_LABEL: name}
    about = metadata(cluster, name, notes, {**label, **queue_labels(cluster.queue)})
    spec = job_spec(plan, cluster, run, parcel)
    if cluster.schedule is not None:
        spec = {"schedule": cluster.schedule.cron, "timeZone": cluster.schedule.time_zone, "jobTemplate": spec}
    job = {"apiVersion": "ray.io/v1", "kind": kind, "metadata": about, "spec": spec}
    return [parcel.config_map(cluster, notes, label), job]


def owner(cluster: KubeRayCluster) -> Kind:
    """The kind of the document that a job is."""
    return "RayJob" if cluster.schedule is None else "RayCronJob"


def job_spec(plan: Plan, cluster: KubeRayCluster, run: str, parcel: Parcel) -> Document:
    """The spec of a RayJob."""
    spec: Document = {
        "submissionMode": MODES[cluster.submission],
        "entrypoint": entrypoint(argv(cluster.storage, run, parcel.plan_path, scheduled=cluster.schedule is not None)),
        "runtimeEnvYAML": embedded(parcel.runtime_env()),
        "metadata": {
            RUN_KEY: percent_encoded(run),
            "rayml_job": percent_encoded(plan.job),
            "rayml_version": percent_encoded(plan.rayml),
        },
        "backoffLimit": cluster.finish.retries,
        **ending(cluster.finish, waits_for_kueue(cluster.queue)),
        "rayClusterSpec": cluster_spec(
            cluster,
            plan=parcel.name,
            package=parcel.name if parcel.package else None,
            head_variables=() if cluster.schedule is None else (cluster_name(),),
        ),
    }
    if cluster.finish.deadline is not None:
        spec["activeDeadlineSeconds"] = seconds(cluster.finish.deadline)
    if cluster.submission == "k8s_job":
        spec["submitterPodTemplate"] = submitter_template(cluster)
    return spec


def argv(storage: str, run: str, plan_path: str, *, scheduled: bool = False) -> list[str]:
    """What the head starts. A start of a schedule is a run of its own (rayml.run.scheduled)."""
    words = ["python", "-m", "rayml.run.cluster_entry", plan_path, "--storage", storage, "--run", run]
    return [*words, "--scheduled"] if scheduled else words


def cluster_name() -> Document:
    """A variable with the name of the pod's cluster, which begins with that of its RayJob. KubeRay labels its pods."""
    field = {"fieldPath": f"metadata.labels['{CLUSTER_LABEL}']"}
    return {"name": CLUSTER_VARIABLE, "valueFrom": {"fieldRef": field}}


def entrypoint(words: list[str]) -> str:
    """One command line, quoted once.

    It passes three readers: bash of the submitter, which `ray job submit` quotes again for the shell of the head, and
    before them the kubelet, which replaces `$(NAME)` in arguments by an environment variable, the token among them, and
    `$$` by `$`. It knows no quotes; so each `$` is followed by the end of a quotation and the start of the next, which
    mean nothing to a shell.
    """
    return shlex.join(words).replace("$", "$''")


def ending(finish: FinishSpec, in_kueue: bool) -> Document:
    """What becomes of the cluster and of the RayJob afterwards.

    Rules for deletion exclude `shutdownAfterJobFinishes`; Kueue admits no job without that, and KubeRay suspends none.
    So in Kueue's queue the cluster goes `ttl` after the end, failed or not (`keep_failed` would hold the quota), and
    the RayJob stays. Everywhere else rules say it: after a success the cluster goes at once and the RayJob after `ttl`;
    after a failure the cluster stays for `keep_failed`, and the RayJob until somebody deletes it. The second rule about
    failures is for jobs that ended without Ray's saying so, as at their deadline.
    """
    if in_kueue:
        ttl = seconds(finish.ttl)
        return {"suspend": True, "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": ttl}
    kept = seconds(finish.keep_failed)
    rules = (
        ("DeleteCluster", {"jobStatus": "SUCCEEDED", "ttlSeconds": 0}),
        ("DeleteSelf", {"jobStatus": "SUCCEEDED", "ttlSeconds": seconds(finish.ttl)}),
        ("DeleteCluster", {"jobStatus": "FAILED", "ttlSeconds": kept}),
        ("DeleteCluster", {"jobDeploymentStatus": "Failed", "ttlSeconds": kept}),
    )
    listed = [{"policy": policy, "condition": condition} for policy, condition in rules]
    return {"shutdownAfterJobFinishes": False, "deletionStrategy": {"deletionRules": listed}}
