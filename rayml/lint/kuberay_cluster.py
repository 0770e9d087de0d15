"""What the KubeRay 1.7 controller refuses in a RayCluster spec, alone or inside a RayJob, RayService or RayCronJob.

Ported from `ValidateRayClusterSpec` and what it calls, ray-operator/controllers/ray/utils/validation.go. The controller
stops at the first fault; here every one is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from rayml.lint.finding import Remark, Severity
from rayml.lint.gates import CLUSTER_FIELDS, gated, off
from rayml.lint.view import View, named
from rayml.spec.words import listed

Version = tuple[int, int, int]

TOKEN_AUTH_SINCE: Version = (2, 52, 0)
KUBERNETES_AUTH_SINCE: Version = (2, 55, 0)
PRIORITY_SINCE: Version = (2, 56, 0)
AUTOSCALER_V2_SINCE: Version = (2, 47, 0)

V2_VARIABLE = "RAY_enable_autoscaler_v2"
START_COMMAND_VARIABLE = "KUBERAY_GEN_AUTOSCALER_START_CMD"
REDIS_ADDRESS, REDIS_PASSWORD, REDIS_USERNAME = "RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"
FT_ANNOTATION, NAMESPACE_ANNOTATION = "ray.io/ft-enabled", "ray.io/external-storage-namespace"
STORAGE_VARIABLES = ("RAY_GCS_STORAGE", "RAY_GCS_STORAGE_PATH")
TLS_VARIABLES = ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
COLLECTOR_VARIABLES = (
    *("POD_IP", "FQ_RAY_IP", "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE", "RAY_ROLE", "OWNER_KIND", "OWNER_NAME"),
    "EVENTS_PORT",
)
RESOURCE_PARAMETERS = ("num-cpus", "num-gpus", "memory", "resources")
REDIS_ONLY = ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace")
CLAIM_EXCLUDES = ("size", "storageClassName", "accessModes")

_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?.*", re.ASCII | re.DOTALL)
_LABEL_1123 = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_PREFIX = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)


@dataclass(frozen=True)
class Cluster:
    """A RayCluster spec with what decides how the controller reads it."""

    spec: View
    annotations: View
    gates: Mapping[str, bool]

    @property
    def head(self) -> View:
        return self.spec["headGroupSpec"]

    @property
    def head_container(self) -> View:
        """The Ray container of the head: the first."""
        return first_container(self.head)

    @property
    def head_env(self) -> dict[str, View]:
        return named(self.head_container["env"].items())

    @property
    def groups(self) -> list[View]:
        return self.spec["workerGroupSpecs"].items()

    @property
    def is_autoscaling(self) -> bool:
        return self.spec["enableInTreeAutoscaling"].is_true

    @property
    def autoscaler(self) -> View:
        return self.spec["autoscalerOptions"]

    @property
    def version(self) -> Version | None:
        return parse_version(self.spec["rayVersion"].text)

    @property
    def says_v2(self) -> bool:
        """Whether the spec asks for the second autoscaler by name."""
        by_variable = V2_VARIABLE in self.head_env and self.head_env[V2_VARIABLE]["value"].text in ("1", "true")
        return self.autoscaler["version"].text == "v2" or by_variable

    @property
    def runs_v2(self) -> bool:
        """Whether it gets it: by name, or by the default of its Ray version."""
        is_default = "version" not in self.autoscaler and (self.version or (0, 0, 0)) >= AUTOSCALER_V2_SINCE
        return self.is_autoscaling and (self.says_v2 or is_default)


def check_cluster(cluster: Cluster) -> list[Remark]:
    """Every rule that a RayCluster spec breaks."""
    of_gates = gated(cluster.spec, CLUSTER_FIELDS, cluster.gates)
    return [*of_gates, *(remark for rule in RULES for remark in rule(cluster))]


def parse_version(text: str) -> Version | None:
    """The numbers of `2.56.1`, `2.56` or `2.56.0-gpu`, as `version.ParseGeneric` of Kubernetes reads them."""
    match = _VERSION.fullmatch(text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def first_container(group: View) -> View:
    containers = group.at("template", "spec", "containers").items()
    return containers[0] if containers else View(None, group.path)


def _has_container(cluster: Cluster) -> Iterator[Remark]:
    for group in (cluster.head, *cluster.groups):
        containers = group.at("template", "spec", "containers")
        if not containers.items():
            yield containers.remark("kuberay.containers", "a group needs at least one container: the first runs Ray")


def _start_parameters_are_text(cluster: Cluster) -> Iterator[Remark]:
    for group in (cluster.head, *cluster.groups):
        for _, parameter in group["rayStartParams"].fields():
            if parameter.is_set and not isinstance(parameter.value, str):
                what = "not text; every value of rayStartParams is"
                yield parameter.remark("kuberay.start-params", what, 'put it in quotes, as in `num-cpus: "0"`')


def _resources_once(cluster: Cluster) -> Iterator[Remark]:
    for group in (cluster.head, *cluster.groups):
        twice = [name for name in RESOURCE_PARAMETERS if name in group["rayStartParams"]]
        if twice and group["resources"].fields():
            what = f"`resources` of the group and {listed(twice, 'and')} of rayStartParams say the same"
            yield group["resources"].remark("kuberay.resources-once", what, "keep one of them")


def _labels_once(cluster: Cluster) -> Iterator[Remark]:
    for group in (cluster.head, *cluster.groups):
        label = group["rayStartParams"]["labels"]
        if label.value is not None:
            yield label.remark("kuberay.labels-once", "not read here", "write them in `labels` of the group")


def _labels_have_form(cluster: Cluster) -> Iterator[Remark]:
    for group in (cluster.head, *cluster.groups):
        for key, value in group["labels"].fields():
            prefix, slash, name = key.rpartition("/")
            if not _NAME.fullmatch(name) or (slash and not _PREFIX.fullmatch(prefix)):
                yield value.remark("kuberay.labels", "not the key of a label", "such as `ray.io/market-type`")
            if value.text and not _NAME.fullmatch(value.text):
                what = "not the value of a label: at most 63 letters, digits, `-`, `_` and `.`"
                yield value.remark("kuberay.labels", what)


def _group_names(cluster: Cluster) -> Iterator[Remark]:
    seen: set[str] = set()
    for group in cluster.groups:
        name = group["groupName"]
        if not name.text:
            yield name.remark("kuberay.group-name", "a worker group needs a name")
        elif name.text in seen:
            yield name.remark("kuberay.group-name", "two worker groups have this name", "give each its own")
        seen.add(name.text)


def _replica_bounds(cluster: Cluster) -> Iterator[Remark]:
    for group in cluster.groups:
        counts = {name: group[name].number for name in ("minReplicas", "replicas", "maxReplicas")}
        for name, count in counts.items():
            if count is not None and count < 0:
                yield group[name].remark("kuberay.replicas", f"{name} is negative")
        set_counts = [(name, count) for name, count in counts.items() if count is not None]
        for (low, less), (high, more) in pairwise(set_counts):
            if less > more:
                yield group[low].remark("kuberay.replicas", f"{low} is {less}, more than {high}, which is {more}")


def _idle_timeouts(cluster: Cluster) -> Iterator[Remark]:
    for place in (cluster.autoscaler, *cluster.groups):
        seconds = place["idleTimeoutSeconds"]
        if seconds.number is not None and seconds.number < 0:
            yield seconds.remark("kuberay.idle-timeout", "negative", "write a number of seconds, or leave it out")
    for group in cluster.groups:
        if "idleTimeoutSeconds" in group and not cluster.says_v2:
            yield _needs_v2(group["idleTimeoutSeconds"], "kuberay.idle-timeout")


def _needs_v2(view: View, rule: str) -> Remark:
    return view.remark(rule, "needs the second autoscaler", "write `autoscalerOptions: {version: v2}`")


def _priorities(cluster: Cluster) -> Iterator[Remark]:
    for group in cluster.groups:
        priority = group["priority"]
        if not priority.number:
            continue
        if (cluster.version or (0, 0, 0)) < PRIORITY_SINCE:
            yield priority.remark("kuberay.priority", "needs `rayVersion` 2.56.0 or later")
        if not cluster.says_v2:
            yield _needs_v2(priority, "kuberay.priority")


def _suspended_groups(cluster: Cluster) -> Iterator[Remark]:
    for group in cluster.groups:
        if not group["suspend"].is_true:
            continue
        if not cluster.gates["RayJobDeletionPolicy"]:
            yield off(group["suspend"], "RayJobDeletionPolicy")
        if cluster.is_autoscaling:
            yield group["suspend"].remark("kuberay.suspended-group", "a group cannot be suspended while autoscaling")


def _autoscaler_variable(cluster: Cluster) -> Iterator[Remark]:
    variable = cluster.head_env.get(V2_VARIABLE)
    if variable is None:
        return
    if not cluster.is_autoscaling and variable["value"].text in ("1", "true"):
        what = f"{V2_VARIABLE} is on and the autoscaler is off"
        yield variable.remark("kuberay.autoscaler-variable", what, "write `enableInTreeAutoscaling: true`")
    if cluster.is_autoscaling and "version" in cluster.autoscaler:
        what = f"{V2_VARIABLE} and `autoscalerOptions.version` say the same"
        yield variable.remark("kuberay.autoscaler-variable", what, "keep `autoscalerOptions.version`")


def _restart_policies(cluster: Cluster) -> Iterator[Remark]:
    """The controller refuses it where the second autoscaler is named; where Ray's version brings it, nobody does."""
    severity: Severity = "error" if cluster.says_v2 else "warning"
    for group in (cluster.head, *cluster.groups):
        policy = group.at("template", "spec", "restartPolicy")
        if cluster.runs_v2 and policy.text not in ("", "Never"):
            what = "the second autoscaler replaces pods itself; only `Never` fits"
            yield policy.remark("kuberay.restart-policy", what, "write `Never`, or leave it out", severity)


def _start_command(cluster: Cluster) -> Iterator[Remark]:
    variable = named(cluster.autoscaler["env"].items()).get(START_COMMAND_VARIABLE)
    if variable is not None:
        yield variable.remark("kuberay.autoscaler-env", f"KubeRay sets {START_COMMAND_VARIABLE} itself", "leave it out")


def _history_server(cluster: Cluster) -> Iterator[Remark]:
    options = cluster.spec["historyServerOptions"]
    if not options.is_set:
        return
    collector = options["collectorOptions"]
    env = named(collector["env"].items())
    if not collector["image"].text:
        yield collector["image"].remark("kuberay.history-server", "the collector needs an image")
    if "STORAGE_BACKEND" not in env or not env["STORAGE_BACKEND"]["value"].text:
        what = "the collector needs STORAGE_BACKEND as a literal value"
        yield collector["env"].remark("kuberay.history-server", what)
    for name in COLLECTOR_VARIABLES:
        if name in env:
            yield env[name].remark("kuberay.history-server", f"KubeRay sets {name} itself", "leave it out")
    for group in (cluster.head, *cluster.groups):
        double = named(group.at("template", "spec", "containers").items()).get("collector")
        if double is not None:
            yield double.remark("kuberay.history-server", "`collector` is the name of a container that KubeRay adds")


def _redis_conflicts(cluster: Cluster) -> Iterator[Remark]:
    """Fault tolerance is set up in `gcsFaultToleranceOptions` and nowhere else."""
    env, parameters = cluster.head_env, cluster.head["rayStartParams"]
    elsewhere = (
        (cluster.annotations[FT_ANNOTATION], "leave the annotation out"),
        (cluster.annotations[NAMESPACE_ANNOTATION], "write `externalStorageNamespace`"),
        (parameters["redis-password"], "write `redisPassword`"),
        (env.get(REDIS_PASSWORD, View(None)), "write `redisPassword`"),
        (env.get(REDIS_ADDRESS, View(None)), "write `redisAddress`"),
    )
    if cluster.spec["gcsFaultToleranceOptions"].is_set:
        for place, hint in elsewhere:
            if place.value:
                what = "conflicts with gcsFaultToleranceOptions"
                yield place.remark("kuberay.redis", what, f"{hint} of gcsFaultToleranceOptions")
    elif REDIS_ADDRESS in env and cluster.annotations[FT_ANNOTATION].text.lower() != "true":
        what = f"{REDIS_ADDRESS} turns fault tolerance on, and gcsFaultToleranceOptions is not there"
        yield env[REDIS_ADDRESS].remark("kuberay.redis", what, "write `gcsFaultToleranceOptions: {redisAddress: ...}`")
    for place in (parameters["redis-username"], env.get(REDIS_USERNAME, View(None))):
        if place.value:
            what = "the user of Redis is not read here"
            yield place.remark("kuberay.redis", what, "write `gcsFaultToleranceOptions.redisUsername`")


def _storage(cluster: Cluster) -> Iterator[Remark]:
    options = cluster.spec["gcsFaultToleranceOptions"]
    if options["backend"].text != "rocksdb":
        if "storage" in options:
            what = "only the backend `rocksdb` has a storage"
            yield options["storage"].remark("kuberay.rocksdb", what, "write `backend: rocksdb`, or leave it out")
        return
    for name in REDIS_ONLY:
        if name in options:
            yield options[name].remark("kuberay.rocksdb", "only the backend `redis` reads this", "leave it out")
    storage = options["storage"]
    for name in CLAIM_EXCLUDES:
        if storage["claimName"].text and name in storage:
            yield storage[name].remark("kuberay.rocksdb", "an existing claim has this already", "leave it out")
    for name in STORAGE_VARIABLES:
        if name in cluster.head_env:
            yield cluster.head_env[name].remark("kuberay.rocksdb", f"KubeRay sets {name} itself", "leave it out")
    yield _immutable(options["backend"])


def _immutable(view: View) -> Remark:
    what = "cannot be changed once the cluster is there, nor can its storage"
    return view.remark("kuberay.rocksdb-immutable", what, "to change it, delete the cluster first", "warning")


def _authentication(cluster: Cluster) -> Iterator[Remark]:
    options, rule = cluster.spec["authOptions"], "kuberay.auth"
    by_kubernetes = options["enableK8sTokenAuth"]
    if options["mode"].text != "token":
        if by_kubernetes.is_true:
            yield by_kubernetes.remark(rule, "needs `mode: token`")
        return
    version = cluster.spec["rayVersion"]
    if cluster.version is None:
        yield version.remark(rule, "token authentication needs a version here", "write `rayVersion: 2.56.0` or later")
        return
    if cluster.version < TOKEN_AUTH_SINCE:
        yield version.remark(rule, "token authentication needs Ray 2.52.0 or later")
    if by_kubernetes.is_true and cluster.version < KUBERNETES_AUTH_SINCE:
        yield version.remark(rule, "tokens of Kubernetes need Ray 2.55.0 or later")
    if by_kubernetes.is_true and options["secretName"].text:
        yield options["secretName"].remark(rule, "tokens of Kubernetes need no secret", "leave it out")


def _network_rules(cluster: Cluster) -> Iterator[Remark]:
    policy, rule = cluster.spec["networkPolicy"], "kuberay.network-policy"
    if not policy.is_set:
        return
    open_side = {"DenyAllEgress": "ingressRules", "DenyAllIngress": "egressRules"}.get(policy["mode"].text, "")
    groups = policy["workerGroups"].items()
    for place in (policy["head"], policy["worker"], *groups):
        if open_side and place[open_side].items():
            yield place[open_side].remark(rule, f"the mode {policy['mode'].text} does not close this direction")
    names = {group["groupName"].text for group in cluster.groups}
    for group in groups:
        if group["groupName"].text not in names:
            yield group["groupName"].remark(rule, "no worker group has this name")
    for group in cluster.groups:
        if not _LABEL_1123.fullmatch(group["groupName"].text):
            what = "becomes part of a NetworkPolicy's name: small letters, digits and `-`"
            yield group["groupName"].remark(rule, what)


def _tls_conflicts(cluster: Cluster) -> Iterator[Remark]:
    options = cluster.spec["tlsOptions"]
    if not options.is_set or options["enabled"].value is False:
        return
    for place in (*(first_container(group) for group in (cluster.head, *cluster.groups)), cluster.autoscaler):
        env = named(place["env"].items())
        for name in TLS_VARIABLES:
            if name in env:
                yield env[name].remark("kuberay.tls", f"KubeRay sets {name} itself", "leave it out")


Rule = Callable[[Cluster], Iterable[Remark]]

RULES: tuple[Rule, ...] = (
    _has_container,
    _start_parameters_are_text,
    _resources_once,
    _labels_once,
    _labels_have_form,
    _group_names,
    _replica_bounds,
    _idle_timeouts,
    _priorities,
    _suspended_groups,
    _autoscaler_variable,
    _restart_policies,
    _start_command,
    _history_server,
    _redis_conflicts,
    _storage,
    _authentication,
    _network_rules,
    _tls_conflicts,
)
