"""What the KubeRay 1.7 controller refuses in a RayCluster, RayJob, RayService or RayCronJob after the CRD let it pass.

Ported from ray-operator/controllers/ray/utils/validation.go of ray-project/kuberay v1.7.0 and from the lengths in
`constant.go` beside it. Two rules are about a namespace that enforces the restricted Pod Security Standard, where the
pods that KubeRay makes by itself are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from zoneinfo import ZoneInfo

from rayml.lint.documents import Document, embedded
from rayml.lint.finding import Remark, harmless
from rayml.lint.gates import JOB_FIELDS, SERVICE_FIELDS, gated, off
from rayml.lint.kuberay_cluster import Cluster, check_cluster
from rayml.lint.pods import cluster_spec
from rayml.lint.view import View
from rayml.spec.words import listed, nearest

GROUP = "ray.io/"
NAME_CHARS = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
"""The longest name of each kind: KubeRay appends to it, and the result has to be a label."""

CREATOR_LABEL = "ray.io/originated-from-crd"
SELECTOR_KEY = "ray.io/cluster"
TIMEOUT_ANNOTATION = "ray.io/initializing-timeout"
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
DELETION_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
CLUSTER_UPGRADES = ("Recreate", "None")

_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_DURATION = re.compile(r"\+?([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+|[0-9]+", re.ASCII)
_CRON_WORD = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)|@every \S+")
_CRON_PART = re.compile(
    r"(?P<first>[*?]|[0-9]{1,3}|[a-zA-Z]{3})(-(?P<last>[0-9]{1,3}|[a-zA-Z]{3}))?(/(?P<step>[0-9]{1,3}))?", re.ASCII
)
_CRON_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
"""Minute, hour, day, month, day of the week, as `cron.ParseStandard` of robfig/cron has them."""


@dataclass(frozen=True)
class Job:
    """The spec of a RayJob, or the one inside a RayCronJob."""

    spec: View
    gates: Mapping[str, bool]
    is_restricted: bool

    @property
    def mode(self) -> str:
        return self.spec["submissionMode"].text or "K8sJobMode"

    @property
    def selects(self) -> bool:
        """Whether it runs on a cluster that is already there."""
        return bool(self.spec["clusterSelector"].fields())

    @property
    def shuts_down(self) -> bool:
        return self.spec["shutdownAfterJobFinishes"].is_true

    @property
    def is_autoscaling(self) -> bool:
        return self.spec.at("rayClusterSpec", "enableInTreeAutoscaling").is_true


def check_kuberay(document: Document, gates: Mapping[str, bool], restricted: bool) -> list[Remark]:
    """Every rule of the controller that a document breaks; none for a kind that is not Ray's."""
    if document.kind not in NAME_CHARS or not document.api_version.startswith(GROUP):
        return []
    view = document.view
    remarks = list(_name(document.kind, view["metadata"]))
    spec = cluster_spec(document.kind, view)
    if spec is not None:
        remarks += check_cluster(Cluster(spec, view.at("metadata", "annotations"), gates))
    remarks += _BY_KIND[document.kind](view, gates, restricted)
    return remarks


def _name(kind: str, metadata: View) -> Iterator[Remark]:
    name, longest = metadata["name"], NAME_CHARS[kind]
    if not name.text and metadata["generateName"].text:
        return
    if not _LABEL_1035.fullmatch(name.text):
        what = "not a name: small letters, digits and `-`, from a letter to a letter or digit"
        yield name.remark("kuberay.name", what, "such as `digits-train`")
    if len(name.text) > longest:
        what = f"{len(name.text)} characters; the name of a {kind} has at most {longest}"
        yield name.remark("kuberay.name-length", what)


def _check_raycluster(view: View, _gates: Mapping[str, bool], _restricted: bool) -> Iterator[Remark]:
    strategy = view.at("spec", "upgradeStrategy", "type")
    if strategy.is_set and strategy.text not in CLUSTER_UPGRADES:
        yield strategy.remark("kuberay.upgrade-type", f"not {listed(CLUSTER_UPGRADES)}")
    creator = view.at("metadata", "labels", CREATOR_LABEL).text
    if strategy.is_set and creator in ("RayJob", "RayService"):
        what = f"a cluster that a {creator} made has no upgradeStrategy of its own"
        yield strategy.remark("kuberay.upgrade-owner", what)


def _check_rayjob(view: View, gates: Mapping[str, bool], restricted: bool) -> Iterator[Remark]:
    yield from _check_job(Job(view["spec"], gates, restricted))


def _check_job(job: Job) -> Iterator[Remark]:
    yield from gated(job.spec, JOB_FIELDS, job.gates)
    for rule in JOB_RULES:
        yield from rule(job)


def _job_mode(job: Job) -> Iterator[Remark]:
    """The definition takes any text here, and the controller fails the job for it."""
    if job.mode not in SUBMISSION_MODES:
        near = nearest(job.mode, SUBMISSION_MODES)
        hint = f"did you mean `{near}`?" if near else ""
        yield job.spec["submissionMode"].remark("kuberay.job-mode", f"not {listed(SUBMISSION_MODES)}", hint)


def _job_cluster(job: Job) -> Iterator[Remark]:
    if not job.selects and not job.spec["rayClusterSpec"].is_set:
        yield job.spec.remark("kuberay.job-cluster", "needs `rayClusterSpec`, or `clusterSelector` for one that runs")
    if job.selects and not job.spec["clusterSelector"][SELECTOR_KEY].text:
        what = f"needs the cluster's name as `{SELECTOR_KEY}`"
        yield job.spec["clusterSelector"].remark("kuberay.job-selector", what)


def _job_suspend(job: Job) -> Iterator[Remark]:
    suspend = job.spec["suspend"]
    if suspend.is_true and not job.shuts_down:
        yield suspend.remark("kuberay.job-suspend", "needs `shutdownAfterJobFinishes: true`")
    if suspend.is_true and job.selects:
        yield suspend.remark("kuberay.job-suspend", "a job on a selected cluster cannot be suspended")


def _job_ttl(job: Job) -> Iterator[Remark]:
    ttl = job.spec["ttlSecondsAfterFinished"]
    if (ttl.number or 0) < 0:
        yield ttl.remark("kuberay.job-ttl", "negative", "write a number of seconds, or leave it out")
    if (ttl.number or 0) > 0 and not job.shuts_down:
        yield ttl.remark("kuberay.job-ttl", "needs `shutdownAfterJobFinishes: true`")


def _job_deadlines(job: Job) -> Iterator[Remark]:
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        seconds = job.spec[name]
        if seconds.number is not None and seconds.number <= 0:
            yield seconds.remark("kuberay.job-deadline", "not above 0")


def _job_retries(job: Job) -> Iterator[Remark]:
    limit = job.spec["backoffLimit"]
    if (limit.number or 0) < 0:
        yield limit.remark("kuberay.job-backoff", "negative")
    if (limit.number or 0) > 0 and job.mode == "InteractiveMode":
        yield limit.remark("kuberay.job-backoff", "InteractiveMode has no retries", "leave it out")
    if (limit.number or 0) > 0 and job.selects:
        yield limit.remark("kuberay.job-backoff", "a job on a selected cluster has no retries", "leave it out")


def _job_sidecar(job: Job) -> Iterator[Remark]:
    if job.mode != "SidecarMode":
        return
    for name in ("clusterSelector", "submitterPodTemplate", "submitterConfig"):
        if name in job.spec:
            yield job.spec[name].remark("kuberay.job-sidecar", "SidecarMode does not have this", "leave it out")
    policy = job.spec.at("rayClusterSpec", "headGroupSpec", "template", "spec", "restartPolicy")
    if policy.text not in ("", "Never"):
        yield policy.remark("kuberay.job-sidecar", "SidecarMode needs `Never` here", "write it, or leave it out")


def _job_restricted(job: Job) -> Iterator[Remark]:
    if not job.is_restricted:
        return
    if job.mode == "SidecarMode":
        what = "the submitter that SidecarMode adds has no securityContext, which a restricted namespace refuses"
        yield job.spec["submissionMode"].remark("kuberay.submitter", what, _SUBMITTER_HINT)
    if job.mode == "K8sJobMode" and "submitterPodTemplate" not in job.spec:
        what = "the default submitter has no securityContext, which a restricted namespace refuses"
        yield job.spec["submitterPodTemplate"].remark("kuberay.submitter", what, _SUBMITTER_HINT)


_SUBMITTER_HINT = "write `submissionMode: K8sJobMode` with a `submitterPodTemplate` of your own"


def _job_authentication(job: Job) -> Iterator[Remark]:
    yield from _no_kubernetes_tokens(job.spec["rayClusterSpec"], "RayJob")


def _no_kubernetes_tokens(cluster: View, kind: str) -> Iterator[Remark]:
    by_kubernetes = cluster.at("authOptions", "enableK8sTokenAuth")
    if by_kubernetes.is_true:
        yield by_kubernetes.remark("kuberay.auth-kind", f"a {kind} cannot use the tokens of Kubernetes", "leave it out")


def _job_runtime_environment(job: Job) -> Iterator[Remark]:
    text = job.spec["runtimeEnvYAML"]
    if text.text and not isinstance(embedded(text.text), dict):
        yield text.remark("kuberay.runtime-env", "not a mapping in YAML")


def _job_deletion(job: Job) -> Iterator[Remark]:
    strategy = job.spec["deletionStrategy"]
    if not strategy.is_set:
        return
    rules = strategy["deletionRules"]
    legacy = [name for name in ("onSuccess", "onFailure") if name in strategy]
    if rules.items() and job.shuts_down:
        what = "deletionRules and shutdownAfterJobFinishes exclude each other"
        yield rules.remark("kuberay.deletion", what, "leave `shutdownAfterJobFinishes` out")
    if rules.items() and (job.spec["ttlSecondsAfterFinished"].number or 0) > 0:
        what = "deletionRules and ttlSecondsAfterFinished exclude each other"
        yield rules.remark("kuberay.deletion", what, "write `ttlSeconds` in each rule")
    if rules.items() and legacy:
        yield rules.remark("kuberay.deletion", f"deletionRules and {listed(legacy, 'and')} exclude each other")
    if not rules.items() and len(legacy) < 2:
        yield strategy.remark("kuberay.deletion", "needs deletionRules, or both onSuccess and onFailure")
    yield from _legacy_deletion(job, strategy)
    yield from _deletion_rules(job, rules)


def _legacy_deletion(job: Job, strategy: View) -> Iterator[Remark]:
    for name in ("onSuccess", "onFailure"):
        policy = strategy[name]["policy"]
        if name in strategy and not policy.text:
            yield policy.remark("kuberay.deletion", "has to be there")
        if policy.text == "DeleteNone" and job.shuts_down:
            yield policy.remark("kuberay.deletion", "DeleteNone and shutdownAfterJobFinishes exclude each other")
        yield from _deletion_fits(job, policy)


def _deletion_fits(job: Job, policy: View) -> Iterator[Remark]:
    if job.selects and policy.text in ("DeleteCluster", "DeleteWorkers"):
        yield policy.remark("kuberay.deletion", "a selected cluster is not deleted by the job", "write `DeleteSelf`")
    if job.is_autoscaling and policy.text == "DeleteWorkers":
        what = "DeleteWorkers does not go with the autoscaler, which would bring them back"
        yield policy.remark("kuberay.delete-workers", what)


def _deletion_rules(job: Job, rules: View) -> Iterator[Remark]:
    by_condition: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules.items():
        condition, policy = rule["condition"], rule["policy"]
        ttl = condition["ttlSeconds"]
        statuses = [name for name in ("jobStatus", "jobDeploymentStatus") if name in condition]
        if len(statuses) != 1:
            yield condition.remark("kuberay.deletion-condition", "needs one of jobStatus and jobDeploymentStatus")
            continue
        if (ttl.number or 0) < 0:
            yield ttl.remark("kuberay.deletion-condition", "negative")
        yield from _deletion_fits(job, policy)
        delays = by_condition.setdefault((statuses[0], condition[statuses[0]].text), {})
        if policy.text in delays:
            yield rule.remark("kuberay.deletion-double", "a second rule with this policy and condition")
        delays.setdefault(policy.text, ttl.number or 0)
    for (_, status), delays in by_condition.items():
        yield from _deletion_order(rules, status, delays)


def _deletion_order(rules: View, status: str, delays: dict[str, int]) -> Iterator[Remark]:
    """What is inside goes first: workers, then the cluster, then the job."""
    ordered = [(policy, delays[policy]) for policy in DELETION_ORDER if policy in delays]
    for (sooner, before), (later, after) in pairwise(ordered):
        if after < before:
            what = f"for {harmless(status)}, {later} after {after} s comes before {sooner} after {before} s"
            yield rules.remark("kuberay.deletion-order", what)


JOB_RULES: tuple[Callable[[Job], Iterable[Remark]], ...] = (
    _job_mode,
    _job_cluster,
    _job_suspend,
    _job_ttl,
    _job_deadlines,
    _job_retries,
    _job_sidecar,
    _job_restricted,
    _job_authentication,
    _job_runtime_environment,
    _job_deletion,
)


def _check_rayservice(view: View, gates: Mapping[str, bool], _restricted: bool) -> Iterator[Remark]:
    spec = view["spec"]
    yield from gated(spec, SERVICE_FIELDS, gates)
    yield from _no_kubernetes_tokens(spec["rayClusterConfig"], "RayService")
    name = spec.at("rayClusterConfig", "headGroupSpec", "headService", "metadata", "name")
    if name.text:
        yield name.remark("kuberay.head-service", "a RayService names the head's service itself", "leave it out")
    delay = spec["rayClusterDeletionDelaySeconds"]
    if (delay.number or 0) < 0:
        yield delay.remark("kuberay.deletion-delay", "negative")
    timeout = view.at("metadata", "annotations", TIMEOUT_ANNOTATION)
    if timeout.text and not _is_positive_duration(timeout.text):
        yield timeout.remark("kuberay.initializing-timeout", "not a time above 0", "such as `5m`, or `300` seconds")
    yield from _upgrade(spec)


def _is_positive_duration(text: str) -> bool:
    return _DURATION.fullmatch(text) is not None and any(digit in "123456789" for digit in text)


def _upgrade(spec: View) -> Iterator[Remark]:
    strategy = spec["upgradeStrategy"]["type"]
    if strategy.is_set and strategy.text not in UPGRADES:
        yield strategy.remark("kuberay.upgrade-type", f"not {listed(UPGRADES)}")
    if strategy.text != "NewClusterWithIncrementalUpgrade":
        return
    options = spec["upgradeStrategy"]["clusterUpgradeOptions"]
    if not spec.at("rayClusterConfig", "enableInTreeAutoscaling").is_true:
        yield strategy.remark("kuberay.upgrade", "needs `enableInTreeAutoscaling: true` in rayClusterConfig")
    if not options.is_set:
        yield options.remark("kuberay.upgrade", "has to be there for an incremental upgrade")
        return
    surge, step = options["maxSurgePercent"], options["stepSizePercent"]
    most = 100 if surge.number is None else surge.number
    for place, percent in ((surge, most), (step, -1 if step.number is None else step.number)):
        if not 0 <= percent <= 100:
            yield place.remark("kuberay.upgrade", "not between 0 and 100")
    if (step.number or 0) > most:
        yield step.remark("kuberay.upgrade", f"{step.number} is more than maxSurgePercent, which is {most}")
    if (options["intervalSeconds"].number or 0) <= 0:
        yield options["intervalSeconds"].remark("kuberay.upgrade", "not above 0")
    if not options["gatewayClassName"].text:
        yield options["gatewayClassName"].remark("kuberay.upgrade", "has to be there")


def _check_raycronjob(view: View, gates: Mapping[str, bool], restricted: bool) -> Iterator[Remark]:
    if not gates["RayCronJob"]:
        yield off(view["kind"], "RayCronJob")
    spec = view["spec"]
    schedule, zone = spec["schedule"], spec["timeZone"]
    if "TZ" in schedule.text:
        yield schedule.remark("kuberay.schedule", "a time zone in the schedule", "write `timeZone`")
    elif not _is_schedule(schedule.text):
        yield schedule.remark("kuberay.schedule", "not the five fields of a cron schedule", 'such as `"0 3 * * *"`')
    if zone.is_set and not _is_zone(zone.text):
        yield zone.remark("kuberay.time-zone", "not a time zone", "such as `Europe/Berlin`")
    yield from _check_job(Job(spec["jobTemplate"], gates, restricted))


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        return False
    return True


def _is_schedule(text: str) -> bool:
    parts = text.split()
    if _CRON_WORD.fullmatch(text):
        return True
    return len(parts) == len(_CRON_BOUNDS) and all(
        _is_cron_field(part, bounds) for part, bounds in zip(parts, _CRON_BOUNDS, strict=True)
    )


def _is_cron_field(text: str, bounds: tuple[int, int]) -> bool:
    return all(_is_cron_part(part, bounds) for part in text.split(","))


def _is_cron_part(text: str, bounds: tuple[int, int]) -> bool:
    """`*`, `5`, `MON`, `1-5`, `*/15`: numbers in bounds and in order, a step of at least 1."""
    match = _CRON_PART.fullmatch(text)
    if match is None:
        return False
    numbers = [int(word) for word in (match["first"], match["last"] or "") if word.isdecimal()]
    is_in_bounds = all(bounds[0] <= number <= bounds[1] for number in numbers)
    return is_in_bounds and numbers == sorted(numbers) and int(match["step"] or 1) > 0


_BY_KIND: dict[str, Callable[[View, Mapping[str, bool], bool], Iterable[Remark]]] = {
    "RayCluster": _check_raycluster,
    "RayJob": _check_rayjob,
    "RayService": _check_rayservice,
    "RayCronJob": _check_raycronjob,
}
