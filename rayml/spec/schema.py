"""JSON Schema (draft 2020-12) of job and cluster files, so that an editor completes and checks them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from rayml.spec.cluster import Cluster
from rayml.spec.job import JobSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_ENVIRONMENT = {"$ref": "#/$defs/Environment"}
_SCALARS = {"integer", "number", "boolean", "string"}


def job_schema() -> dict[str, Any]:
    """What a job file may hold. Rules between fields, such as shares that sum to 1, are left to `rayml validate`."""
    return _schema(JobSpec.model_json_schema(), "rayml job file")


def cluster_schema() -> dict[str, Any]:
    """What a cluster file may hold."""
    about = "What a job may use: this machine, a Ray cluster that runs, or one that KubeRay makes."
    return _schema({"description": about, **TypeAdapter(Cluster).json_schema()}, "rayml cluster file")


def _schema(schema: dict[str, Any], title: str) -> dict[str, Any]:
    for section in (schema, *schema.get("$defs", {}).values()):
        for name, field in section.get("properties", {}).items():
            if name != "kind":
                _allow_environment(field)
    environment = {
        "title": "Environment",
        "description": "Text with `${env:NAME}` in it, which becomes the value of an environment variable.",
        "type": "string",
        "pattern": r"\$\{env:",
    }
    return {
        "$schema": DIALECT,
        **schema,
        "title": title,
        "$defs": {**schema.get("$defs", {}), "Environment": environment},
    }


def _allow_environment(field: dict[str, Any]) -> None:
    """Lets `${env:NAME}` stand for any scalar that a field takes, as the loader does."""
    for inner in (field.get("items"), field.get("additionalProperties"), *field.get("prefixItems", ())):
        if isinstance(inner, dict):
            _allow_environment(inner)
    members = field.get("anyOf", [])
    for member in members:
        if member.get("type") == "array":
            _allow_environment(member)
    is_scalar = field.get("type") in _SCALARS
    if is_scalar:
        about: dict[str, Any] = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
        members = [dict(field)]
        field.clear()
        field.update(about)
    if is_scalar or any(member.get("type") in _SCALARS for member in members):
        field["anyOf"] = [*members, _ENVIRONMENT]
