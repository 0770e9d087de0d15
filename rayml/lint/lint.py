"""`rayml lint`: every check on every document, as findings in the order of files and lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rayml.lint.documents import Document, Reading, read, rendered
from rayml.lint.finding import Finding, Remark, dotted
from rayml.lint.gates import with_defaults
from rayml.lint.kuberay import check_kuberay
from rayml.lint.models import METADATA, POD_SPEC, RAY_GROUP, RAY_KINDS, RAY_VERSIONS
from rayml.lint.pod_security import Level, pod_security
from rayml.lint.pods import PLACES, pod_templates
from rayml.lint.schemas import RULE, Definitions, Kinds, check_object, check_part, load_definitions
from rayml.lint.secrets import check_secrets
from rayml.lint.security import check_security
from rayml.redact.text import redacted
from rayml.spec.words import listed

OBJECT_RULE = "object"
OF_KUSTOMIZE = "kustomize.config.k8s.io"
"""Read by kubectl, and never sent to a cluster."""
KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml")


def lint(
    paths_or_documents: Iterable[Path | str | Document],
    *,
    schemas: Path | Kinds | None = None,
    gates: Mapping[str, bool] | None = None,
    restricted: bool = True,
) -> list[Finding]:
    """What is wrong in manifests.

    Args:
        paths_or_documents: files, folders, `-` for standard input, or documents that were read already.
        schemas: a folder of CustomResourceDefinitions in JSON, or what a cluster knows; without either, schemas of our
            own are used for Ray.
        gates: the feature gates of KubeRay that differ from those of 1.7.
        restricted: whether the namespace enforces the restricted Pod Security Standard, or only baseline.
    Raises:
        PlanError: a path does not exist or cannot be read, or a gate is unknown.
    """
    definitions = load_definitions(schemas) if isinstance(schemas, Path) else schemas or Definitions()
    all_gates = with_defaults(gates)
    readings = [Reading([item], []) if isinstance(item, Document) else read(item) for item in paths_or_documents]
    findings = [finding for reading in readings for finding in reading.findings]
    for document in (document for reading in readings for document in reading.documents):
        findings += [_located(document, remark) for remark in _remarks(document, definitions, all_gates, restricted)]
    return sorted({_hidden(finding) for finding in findings}, key=Finding.order)


def lint_documents(documents: Iterable[dict[str, Any]], **options: Any) -> list[Finding]:
    """The same for objects that were rendered here; `options` are those of `lint`. They have no lines."""
    return lint([rendered(data, number) for number, data in enumerate(documents, 1)], **options)


def _remarks(document: Document, definitions: Kinds, gates: Mapping[str, bool], restricted: bool) -> Iterable[Remark]:
    if not document.kind or not document.api_version:
        return (*_unnamed(document), *check_secrets(document.kind, document.view))
    return (
        *_once([*_schema(document, definitions), *_pod_models(document)]),
        *check_kuberay(document, gates, restricted),
        *_pod_security(document, restricted),
        *check_security(document),
    )


def _once(remarks: list[Remark]) -> Iterable[Remark]:
    """A pod in a Ray kind is checked by the definition and by our own model: one word about a place is enough."""
    return {(remark.path, remark.rule): remark for remark in reversed(remarks)}.values()


def _unnamed(document: Document) -> Iterable[Remark]:
    """A file without kind and apiVersion is not meant for Kubernetes, such as the values of a chart."""
    missing = [name for name in ("apiVersion", "kind") if not document.view[name].text]
    if len(missing) == 1:
        return [document.view[missing[0]].remark(OBJECT_RULE, "has to be there, as text")]
    if Path(document.file).name in KUSTOMIZATION:
        return []
    return [document.view.remark(OBJECT_RULE, "not a Kubernetes object: no apiVersion and no kind", "", "warning")]


def _schema(document: Document, definitions: Kinds) -> Iterable[Remark]:
    group, _, version = document.api_version.rpartition("/")
    versions = definitions.versions(document.api_version, document.kind)
    remarks = list(check_part(document.view["metadata"], METADATA)) if document.view["metadata"].is_set else []
    if versions is not None and version not in versions:
        what = f"no version of {document.kind}; {listed(sorted(versions))} fit"
        return [*remarks, document.view["apiVersion"].remark(RULE, what)]
    if versions is not None:
        return [*remarks, *check_object(document.data, versions[version])]
    if definitions.complete and group != OF_KUSTOMIZE:
        what = f"the cluster knows no {document.kind} of {document.api_version}"
        hint = "kubectl api-resources lists what it knows; what is missing has to be installed first"
        return [*remarks, document.view["kind"].remark(RULE, what, hint)]
    if group == RAY_GROUP:
        return [*remarks, *_ray(document, version)]
    return remarks


def _ray(document: Document, version: str) -> Iterable[Remark]:
    if document.kind not in RAY_KINDS:
        return [document.view["kind"].remark(RULE, f"no kind of {RAY_GROUP}; {listed(sorted(RAY_KINDS))} fit")]
    if version not in RAY_VERSIONS:
        return [document.view["apiVersion"].remark(RULE, f"no version of {RAY_GROUP}; `{RAY_GROUP}/v1` fits")]
    return check_object(document.data, RAY_KINDS[document.kind])


def _pod_models(document: Document) -> list[Remark]:
    """The fields of the pod specs of kinds that are known to have them."""
    if document.kind not in PLACES:
        return []
    templates = pod_templates(document.kind, document.view)
    return [remark for pod in templates for remark in check_part(pod.spec, POD_SPEC)]


def _pod_security(document: Document, restricted: bool) -> list[Remark]:
    level: Level = "restricted" if restricted else "baseline"
    return [remark for pod in pod_templates(document.kind, document.view) for remark in pod_security(pod, level)]


def _located(document: Document, remark: Remark) -> Finding:
    return Finding(
        document.file,
        document.line_of(remark.path),
        dotted((*document.base, *remark.path)),
        remark.rule,
        remark.what,
        remark.hint,
        remark.severity,
    )


def _hidden(finding: Finding) -> Finding:
    """No finding repeats a secret, whichever check has put it there."""
    return replace(finding, path=redacted(finding.path), what=redacted(finding.what), hint=redacted(finding.hint))
