"""Schemas of our own for what has no CustomResourceDefinition at hand: pods, and the Ray kinds without `--schemas`.

They hold the names of all fields and the types of those that `rayml render` writes, in a short form: `name` for any
value, `name:text` for a type, `name:A|B` for choices, `!` where a field has to be there. Sources: `core/v1` of
kubernetes/api v1.37 (`types.go`) and `ray-operator/apis/ray/v1/*_types.go` of ray-project/kuberay v1.7.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Fields = dict[str, Any]

_QUANTITY = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+(\.[0-9]*)?)?$"
_TYPES: dict[str, Fields] = {
    "": {},
    "text": {"type": "string"},
    "flag": {"type": "boolean"},
    "int": {"type": "integer"},
    "count": {"type": "integer", "minimum": 0},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "port_or_name": {"x-kubernetes-int-or-string": True},
    "quantity": {"x-kubernetes-int-or-string": True, "pattern": _QUANTITY},
    "texts": {"type": "array", "items": {"type": "string"}},
    "strings": {"type": "object", "additionalProperties": {"type": "string"}},
    "quantities": {
        "type": "object",
        "additionalProperties": {"x-kubernetes-int-or-string": True, "pattern": _QUANTITY},
    },
    "map": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    "list": {"type": "array"},
}


def fields(text: str, **inside: Fields) -> Fields:
    """The schema of a mapping from its fields in the short form; `inside` are those with a schema of their own."""
    properties: Fields = {}
    required = []
    for word in text.split():
        name, _, kind = word.rstrip("!").partition(":")
        properties[name] = {"type": "string", "enum": kind.split("|")} if "|" in kind else _TYPES[kind]
        if word.endswith("!"):
            required.append(name)
    return {"type": "object", "properties": {**properties, **inside}, "required": required}


def each(entry: Fields, *keys: str) -> Fields:
    """The schema of a list; with `keys`, of one that has no two entries with the same."""
    unique = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)} if keys else {}
    return {"type": "array", "items": entry, **unique}


METADATA = fields(
    "name:text generateName:text namespace:text uid:text resourceVersion:text generation:int selfLink:text "
    "creationTimestamp deletionTimestamp deletionGracePeriodSeconds:int ownerReferences:list finalizers:texts "
    "managedFields:list labels:strings annotations:strings"
)

_KEY = fields("name:text key:text! optional:flag")
_VALUE_FROM = fields(
    "fileKeyRef:map",
    configMapKeyRef=_KEY,
    secretKeyRef=_KEY,
    fieldRef=fields("apiVersion:text fieldPath:text!"),
    resourceFieldRef=fields("containerName:text resource:text! divisor:quantity"),
)
ENV = each(fields("name:text! value:text", valueFrom=_VALUE_FROM))
_ENV_FROM = each(
    fields("prefix:text", configMapRef=fields("name:text optional:flag"), secretRef=fields("name:text optional:flag"))
)
RESOURCES = fields("limits:quantities requests:quantities claims:list")
_PROFILE = fields("type:RuntimeDefault|Localhost|Unconfined! localhostProfile:text")
_SELINUX = fields("user:text role:text type:text level:text")
_WINDOWS = fields("gmsaCredentialSpec:text gmsaCredentialSpecName:text hostProcess:flag runAsUserName:text")
CONTAINER_SECURITY = fields(
    "allowPrivilegeEscalation:flag privileged:flag procMount:text readOnlyRootFilesystem:flag runAsGroup:int "
    "runAsNonRoot:flag runAsUser:int",
    capabilities=fields("add:texts drop:texts"),
    seccompProfile=_PROFILE,
    appArmorProfile=_PROFILE,
    seLinuxOptions=_SELINUX,
    windowsOptions=_WINDOWS,
)
_POD_SECURITY = fields(
    "fsGroup:int fsGroupChangePolicy:OnRootMismatch|Always runAsGroup:int runAsNonRoot:flag runAsUser:int "
    "seLinuxChangePolicy:text supplementalGroupsPolicy:Merge|Strict",
    supplementalGroups=each(_TYPES["int"]),
    sysctls=each(fields("name:text! value:text!")),
    seccompProfile=_PROFILE,
    appArmorProfile=_PROFILE,
    seLinuxOptions=_SELINUX,
    windowsOptions=_WINDOWS,
)
_ACTIONS: Fields = {
    "exec": fields("command:texts"),
    "httpGet": fields("host:text path:text port:port_or_name! scheme:HTTP|HTTPS httpHeaders:list"),
    "tcpSocket": fields("host:text port:port_or_name!"),
}
_PROBE = fields(
    "initialDelaySeconds:int periodSeconds:int timeoutSeconds:int successThreshold:int failureThreshold:int "
    "terminationGracePeriodSeconds:int",
    grpc=fields("port:port! service:text"),
    **_ACTIONS,
)
_HOOK = fields("", sleep=fields("seconds:int!"), **_ACTIONS)
VOLUME_MOUNTS = each(
    fields(
        "name:text! mountPath:text! readOnly:flag subPath:text subPathExpr:text mountPropagation:text "
        "recursiveReadOnly:text"
    ),
    "mountPath",
)
_PORT = fields("name:text containerPort:port! hostPort:port hostIP:text protocol:TCP|UDP|SCTP")
CONTAINER = fields(
    "name:text! image:text imagePullPolicy:Always|IfNotPresent|Never command:texts args:texts workingDir:text "
    "resizePolicy:list restartPolicy:text restartPolicyRules:list stdin:flag stdinOnce:flag tty:flag "
    "terminationMessagePath:text terminationMessagePolicy:File|FallbackToLogsOnError volumeDevices:list",
    env=ENV,
    envFrom=_ENV_FROM,
    ports=each(_PORT),
    resources=RESOURCES,
    securityContext=CONTAINER_SECURITY,
    volumeMounts=VOLUME_MOUNTS,
    livenessProbe=_PROBE,
    readinessProbe=_PROBE,
    startupProbe=_PROBE,
    lifecycle=fields("stopSignal:text", postStart=_HOOK, preStop=_HOOK),
)
_EPHEMERAL = {**CONTAINER, "properties": {**CONTAINER["properties"], "targetContainerName": _TYPES["text"]}}
_ITEMS = each(fields("key:text! path:text! mode:int"))
_OTHER_VOLUMES = (
    "awsElasticBlockStore azureDisk azureFile cephfs cinder fc flexVolume flocker gcePersistentDisk gitRepo glusterfs "
    "image iscsi nfs photonPersistentDisk portworxVolume quobyte rbd scaleIO storageos vsphereVolume"
)
_VOLUME = fields(
    f"name:text! downwardAPI:map ephemeral:map projected:map {_OTHER_VOLUMES}",
    emptyDir=fields("medium:text sizeLimit:quantity"),
    hostPath=fields("path:text! type:text"),
    configMap=fields("name:text optional:flag defaultMode:int", items=_ITEMS),
    secret=fields("secretName:text optional:flag defaultMode:int", items=_ITEMS),
    persistentVolumeClaim=fields("claimName:text! readOnly:flag"),
    csi=fields("driver:text! fsType:text readOnly:flag volumeAttributes:strings nodePublishSecretRef:map"),
)
POD_SPEC = fields(
    "activeDeadlineSeconds:int affinity:map automountServiceAccountToken:flag dnsConfig:map dnsPolicy:text "
    "enableServiceLinks:flag hostAliases:list hostIPC:flag hostNetwork:flag hostPID:flag hostUsers:flag hostname:text "
    "hostnameOverride:text nodeName:text nodeSelector:strings os:map overhead:quantities preemptionPolicy:text "
    "priority:int priorityClassName:text readinessGates:list resourceClaims:list resources:map "
    "restartPolicy:Always|OnFailure|Never runtimeClassName:text schedulerName:text schedulingGates:list "
    "schedulingGroup:map serviceAccount:text serviceAccountName:text setHostnameAsFQDN:flag "
    "shareProcessNamespace:flag subdomain:text terminationGracePeriodSeconds:int",
    containers=each(CONTAINER, "name"),
    initContainers=each(CONTAINER, "name"),
    ephemeralContainers=each(_EPHEMERAL, "name"),
    imagePullSecrets=each(fields("name:text")),
    securityContext=_POD_SECURITY,
    tolerations=each(fields("key:text operator:text value:text effect:text tolerationSeconds:int")),
    topologySpreadConstraints=each(
        fields(
            "maxSkew:int! topologyKey:text! whenUnsatisfiable:DoNotSchedule|ScheduleAnyway! labelSelector:map "
            "matchLabelKeys:texts minDomains:int nodeAffinityPolicy:text nodeTaintsPolicy:text"
        )
    ),
    volumes=each(_VOLUME, "name"),
)
POD_SPEC["required"] = ["containers"]

_TEMPLATE: Fields = {"type": "object", "properties": {"metadata": METADATA, "spec": {}}}
"""A pod template whose spec is checked on its own, as that of every kind is."""

_AUTOSCALER = fields(
    "image:text imagePullPolicy:text idleTimeoutSeconds:int upscalingMode:Default|Aggressive|Conservative "
    "version:v1|v2 args:texts command:texts",
    env=ENV,
    envFrom=_ENV_FROM,
    resources=RESOURCES,
    securityContext=CONTAINER_SECURITY,
    volumeMounts=VOLUME_MOUNTS,
)
_HEAD = fields(
    "template! rayStartParams:strings serviceType:text headService:map enableIngress:flag ingressOptions:map "
    "resources:quantities labels:strings",
    template=_TEMPLATE,
)
_WORKERS = fields(
    "groupName:text! template! replicas:int minReplicas:int maxReplicas:int idleTimeoutSeconds:int priority:int "
    "numOfHosts:int suspend:flag scaleStrategy:map resources:quantities labels:strings rayStartParams:strings",
    template=_TEMPLATE,
)
_CREDENTIAL = fields("value:text", valueFrom=_VALUE_FROM)
RAY_CLUSTER = fields(
    "rayVersion:text enableInTreeAutoscaling:flag suspend:flag managedBy:text headServiceAnnotations:strings "
    "historyServerOptions:map",
    autoscalerOptions=_AUTOSCALER,
    headGroupSpec=_HEAD,
    workerGroupSpecs=each(_WORKERS),
    authOptions=fields("mode:token|disabled secretName:text enableK8sTokenAuth:flag"),
    tlsOptions=fields("enabled:flag"),
    upgradeStrategy=fields("type:Recreate|None"),
    networkPolicy=fields("mode:DenyAll|DenyAllIngress|DenyAllEgress head:map worker:map workerGroups:list"),
    gcsFaultToleranceOptions=fields(
        "backend:redis|rocksdb redisAddress:text externalStorageNamespace:text",
        redisUsername=_CREDENTIAL,
        redisPassword=_CREDENTIAL,
        storage=fields(
            "size:quantity storageClassName:text accessModes:texts claimName:text subPath:text "
            "deletionPolicy:DeleteWithCluster|Retain"
        ),
    ),
)
RAY_CLUSTER["required"] = ["headGroupSpec"]

_POLICY = "DeleteCluster|DeleteWorkers|DeleteSelf|DeleteNone"
_DELETION = fields(
    "",
    onSuccess=fields(f"policy:{_POLICY}"),
    onFailure=fields(f"policy:{_POLICY}"),
    deletionRules=each(
        fields(
            f"policy:{_POLICY}! condition!",
            condition=fields("jobStatus:SUCCEEDED|FAILED jobDeploymentStatus:text ttlSeconds:int"),
        )
    ),
)
RAY_JOB = fields(
    "entrypoint:text runtimeEnvYAML:text jobId:text metadata:strings entrypointNumCpus entrypointNumGpus "
    "entrypointResources:text submissionMode:K8sJobMode|HTTPMode|InteractiveMode|SidecarMode backoffLimit:int "
    "shutdownAfterJobFinishes:flag ttlSecondsAfterFinished:int activeDeadlineSeconds:int "
    "preRunningDeadlineSeconds:int suspend:flag clusterSelector:strings managedBy:text",
    submitterConfig=fields("backoffLimit:int"),
    submitterPodTemplate=_TEMPLATE,
    deletionStrategy=_DELETION,
    rayClusterSpec=RAY_CLUSTER,
)
RAY_SERVICE = fields(
    "serveConfigV2:text serveService:map excludeHeadPodFromServeSvc:flag rayClusterDeletionDelaySeconds:int "
    "suspend:flag managedBy:text serviceUnhealthySecondThreshold:int deploymentUnhealthySecondThreshold:int "
    "rayClusterConfig!",
    upgradeStrategy=fields(
        "type:text",
        clusterUpgradeOptions=fields(
            "stepSizePercent:int maxSurgePercent:int intervalSeconds:int gatewayClassName:text"
        ),
    ),
    rayClusterConfig=RAY_CLUSTER,
)
RAY_CRON_JOB = fields("jobTemplate! schedule:text! timeZone:text suspend:flag", jobTemplate=RAY_JOB)

RAY_GROUP = "ray.io"
RAY_VERSIONS = ("v1", "v1alpha1")


def _object(spec: Fields) -> Fields:
    return fields("apiVersion:text! kind:text! metadata:map status spec!", spec=spec)


RAY_KINDS: Mapping[str, Fields] = {
    "RayCluster": _object(RAY_CLUSTER),
    "RayJob": _object(RAY_JOB),
    "RayService": _object(RAY_SERVICE),
    "RayCronJob": _object(RAY_CRON_JOB),
}
