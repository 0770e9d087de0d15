"""The Pod Security Standards, levels baseline and restricted as of Kubernetes v1.37, on one pod template.

Each check has the name and the meaning of a file in kubernetes/kubernetes,
`staging/src/k8s.io/pod-security-admission/policy/check_*.go`, and agrees with every fixture in its `test/testdata`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from rayml.lint.finding import Remark
from rayml.lint.pods import PodTemplate
from rayml.lint.view import View
from rayml.spec.words import listed

Level = Literal["baseline", "restricted"]
Check = Callable[[PodTemplate], Iterable[Remark]]

CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    *(f"net.ipv4.ip_{name}" for name in ("local_port_range", "unprivileged_port_start", "local_reserved_ports")),
    *(f"net.ipv4.tcp_{name}" for name in ("syncookies", "keepalive_time", "fin_timeout", "keepalive_intvl")),
    *(f"net.ipv4.tcp_{name}" for name in ("keepalive_probes", "rmem", "wmem")),
    *(f"net.ipv4.tcp_{name}" for name in ("slow_start_after_idle", "notsent_lowat")),
    "net.ipv4.ping_group_range",
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
VOLUMES = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")
PROFILES = ("RuntimeDefault", "Localhost")
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
HANDLERS = (
    *((probe, "") for probe in ("livenessProbe", "readinessProbe", "startupProbe")),
    *(("lifecycle", handler) for handler in ("postStart", "preStop")),
)
"""Where a container names a host to call: its probes, and the two hooks of its lifecycle."""


def pod_security(pod: PodTemplate, level: Level) -> list[Remark]:
    """What the admission controller would refuse. `restricted` holds all of `baseline`."""
    checks = BASELINE if level == "baseline" else {**BASELINE, **RESTRICTED}
    if pod.spec.at("os", "name").text == "windows":
        checks = {name: check for name, check in checks.items() if name not in LINUX_ONLY}
    return [remark for check in checks.values() for remark in check(pod)]


def _remark(view: View, check: str, what: str, hint: str = "") -> Remark:
    return view.remark(f"pod-security.{check}", what, hint)


def _contexts(pod: PodTemplate) -> Iterator[View]:
    """The security contexts of the pod and of every container."""
    yield pod.spec["securityContext"]
    yield from _container_contexts(pod)


def _container_contexts(pod: PodTemplate) -> Iterator[View]:
    yield from (container["securityContext"] for container in (*pod.containers(), *pod.sidecars))


def _host_process(pod: PodTemplate) -> Iterator[Remark]:
    for context in _contexts(pod):
        if context.at("windowsOptions", "hostProcess").is_true:
            yield _remark(context.at("windowsOptions", "hostProcess"), "windowsHostProcess", "runs on the host itself")


def _host_namespaces(pod: PodTemplate) -> Iterator[Remark]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec[name].is_true:
            yield _remark(pod.spec[name], "hostNamespaces", "shares a namespace with the host", f"leave `{name}` out")


def _privileged(pod: PodTemplate) -> Iterator[Remark]:
    for context in _container_contexts(pod):
        if context["privileged"].is_true:
            yield _remark(context["privileged"], "privileged", "a privileged container", "write `privileged: false`")


def _added_capabilities(pod: PodTemplate, check: str, allowed: set[str]) -> Iterator[Remark]:
    for context in _container_contexts(pod):
        for capability in context.at("capabilities", "add").items():
            if capability.text not in allowed:
                yield _remark(capability, check, "a capability that this level does not give", "leave it out")


def _capabilities_baseline(pod: PodTemplate) -> Iterator[Remark]:
    return _added_capabilities(pod, "capabilities_baseline", CAPABILITIES)


def _host_path_volumes(pod: PodTemplate) -> Iterator[Remark]:
    for volume in pod.spec["volumes"].items():
        if "hostPath" in volume:
            yield _remark(volume["hostPath"], "hostPathVolumes", "a folder of the host", "mount an emptyDir or a claim")


def _host_ports(pod: PodTemplate) -> Iterator[Remark]:
    for container in pod.containers():
        for port in container["ports"].items():
            if port["hostPort"].number:
                yield _remark(port["hostPort"], "hostPorts", "a port of the host", "leave `hostPort` out")


def _host_probes(pod: PodTemplate) -> Iterator[Remark]:
    for container in pod.containers():
        for owner, handler in HANDLERS:
            place = container[owner][handler] if handler else container[owner]
            for action in ("httpGet", "tcpSocket"):
                host = place.at(action, "host")
                if host.text:
                    yield _remark(host, "hostProbesAndHostLifecycle", "calls a host by name", "leave `host` out")


def _app_armor(pod: PodTemplate) -> Iterator[Remark]:
    for context in _contexts(pod):
        profile = context.at("appArmorProfile", "type")
        if profile.text and profile.text not in PROFILES:
            yield _remark(profile, "appArmorProfile", f"an AppArmor profile other than {listed(PROFILES)}")
    for name, profile in pod.metadata["annotations"].fields():
        is_allowed = profile.text in ("", "runtime/default") or profile.text.startswith("localhost/")
        if name.startswith(APPARMOR_ANNOTATION) and not is_allowed:
            yield _remark(profile, "appArmorProfile", "an AppArmor profile other than the runtime's or a local one")


def _selinux(pod: PodTemplate) -> Iterator[Remark]:
    for context in _contexts(pod):
        options = context["seLinuxOptions"]
        if options["type"].text not in SELINUX_TYPES:
            yield _remark(options["type"], "seLinuxOptions", "an SELinux type that is not one of containers")
        for name in ("user", "role"):
            if options[name].text:
                yield _remark(options[name], "seLinuxOptions", f"an SELinux {name} of its own", "leave it out")


def _proc_mount(pod: PodTemplate, check: str) -> Iterator[Remark]:
    for context in _container_contexts(pod):
        if context["procMount"].text not in ("", "Default"):
            yield _remark(context["procMount"], check, "shows all of /proc", "write `procMount: Default`")


def _proc_mount_baseline(pod: PodTemplate) -> Iterable[Remark]:
    """In a user namespace of its own a pod may see /proc at this level."""
    return () if pod.spec["hostUsers"].value is False else _proc_mount(pod, "procMount")


def _proc_mount_restricted(pod: PodTemplate) -> Iterable[Remark]:
    """Without a user namespace the baseline check has said it already."""
    return _proc_mount(pod, "procMount_restricted") if pod.spec["hostUsers"].value is False else ()


def _seccomp_baseline(pod: PodTemplate) -> Iterator[Remark]:
    for context in _contexts(pod):
        profile = context.at("seccompProfile", "type")
        if profile.text and profile.text not in PROFILES:
            yield _remark(profile, "seccompProfile_baseline", f"a seccomp profile other than {listed(PROFILES)}")


def _sysctls(pod: PodTemplate) -> Iterator[Remark]:
    for sysctl in pod.spec.at("securityContext", "sysctls").items():
        if sysctl["name"].text not in SYSCTLS:
            yield _remark(sysctl["name"], "sysctls", "a kernel setting that is not safe to share a node with")


def _restricted_volumes(pod: PodTemplate) -> Iterator[Remark]:
    for volume in pod.spec["volumes"].items():
        kinds = [name for name, source in volume.fields() if name != "name" and source.is_set]
        refused = [name for name in kinds if name not in VOLUMES and name != "hostPath"]
        if refused and len(refused) == len(kinds):
            yield _remark(volume[refused[0]], "restrictedVolumes", "a volume type that is not allowed", _VOLUMES_FIT)


_VOLUMES_FIT = f"{listed(VOLUMES)} fit"


def _allow_privilege_escalation(pod: PodTemplate) -> Iterator[Remark]:
    for context in _container_contexts(pod):
        if context["allowPrivilegeEscalation"].value is not False:
            what = "may gain more rights than its parent process"
            hint = "write `allowPrivilegeEscalation: false`"
            yield _remark(context["allowPrivilegeEscalation"], "allowPrivilegeEscalation", what, hint)


def _run_as_non_root(pod: PodTemplate) -> Iterator[Remark]:
    of_pod = pod.spec.at("securityContext", "runAsNonRoot")
    if of_pod.value is False:
        yield _remark(of_pod, "runAsNonRoot", "may run as root", "write `runAsNonRoot: true`")
    for context in _container_contexts(pod):
        own = context["runAsNonRoot"]
        if own.value is False or (own.value is None and of_pod.value is None):
            yield _remark(own, "runAsNonRoot", "may run as root", "write `runAsNonRoot: true` for the pod")


def _run_as_user(pod: PodTemplate) -> Iterator[Remark]:
    for context in _contexts(pod):
        if context["runAsUser"].number == 0:
            yield _remark(context["runAsUser"], "runAsUser", "runs as root", "such as `runAsUser: 10001` fits")


def _seccomp_restricted(pod: PodTemplate) -> Iterator[Remark]:
    if pod.spec.at("securityContext", "seccompProfile", "type").is_set:
        return
    for context in _container_contexts(pod):
        profile = context.at("seccompProfile", "type")
        if not profile.is_set:
            hint = "write `seccompProfile: {type: RuntimeDefault}` in the pod's securityContext"
            yield _remark(profile, "seccompProfile_restricted", "has no seccomp profile", hint)


def _capabilities_restricted(pod: PodTemplate) -> Iterator[Remark]:
    for context in _container_contexts(pod):
        if "ALL" not in context.at("capabilities", "drop").texts():
            hint = "write `capabilities: {drop: [ALL]}`"
            yield _remark(context["capabilities"], "capabilities_restricted", "keeps capabilities", hint)
    yield from _added_capabilities(pod, "capabilities_restricted", {"NET_BIND_SERVICE"})


BASELINE: dict[str, Check] = {
    "windowsHostProcess": _host_process,
    "hostNamespaces": _host_namespaces,
    "privileged": _privileged,
    "capabilities_baseline": _capabilities_baseline,
    "hostPathVolumes": _host_path_volumes,
    "hostPorts": _host_ports,
    "hostProbesAndHostLifecycle": _host_probes,
    "appArmorProfile": _app_armor,
    "seLinuxOptions": _selinux,
    "procMount": _proc_mount_baseline,
    "seccompProfile_baseline": _seccomp_baseline,
    "sysctls": _sysctls,
}
RESTRICTED: dict[str, Check] = {
    "restrictedVolumes": _restricted_volumes,
    "allowPrivilegeEscalation": _allow_privilege_escalation,
    "runAsNonRoot": _run_as_non_root,
    "runAsUser": _run_as_user,
    "seccompProfile_restricted": _seccomp_restricted,
    "capabilities_restricted": _capabilities_restricted,
    "procMount_restricted": _proc_mount_restricted,
}
LINUX_ONLY = {"allowPrivilegeEscalation", "seccompProfile_restricted", "capabilities_restricted"}
