"""The kinds that an API server builds in, from its OpenAPI v3 documents, as structural schemas.

Such a document describes the kinds of one group and version, and names the types inside them by `$ref`. Its `default`s
are left out: the server does not apply them to kinds of its own, and they would ask for what nobody writes (an empty
`status` with required fields).

Source: kubernetes.io/docs/concepts/overview/kubernetes-api (OpenAPI v3); the extensions `x-kubernetes-...` of
k8s.io/kube-openapi.
"""

from __future__ import annotations

from typing import Any

from rayml.lint.schemas import Schema

REFERENCE = "#/components/schemas/"
NAMED = "x-kubernetes-group-version-kind"
ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}


def kinds_of(document: dict[str, Any]) -> dict[tuple[str, str, str], Schema]:
    """Group, version and kind to its schema, of one OpenAPI document."""
    types = (document.get("components") or {}).get("schemas") or {}
    return {
        (str(each.get("group", "")), str(each.get("version")), str(each.get("kind"))): inlined(schema, types, ())
        for schema in types.values()
        for each in schema.get(NAMED) or []
    }


def inlined(schema: dict[str, Any], types: dict[str, Any], above: tuple[str, ...]) -> Schema:
    """A schema with what it names put in its place.

    Args:
        above: names of the types that it stands in; one that contains itself takes anything.
    """
    schema = {**schema, **merged(schema.get("allOf") or [])}
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(REFERENCE)
        return ANYTHING if name in above else inlined(types.get(name, ANYTHING), types, (*above, name))
    if schema.get("format") == "int-or-string":
        return {"x-kubernetes-int-or-string": True}
    if "oneOf" in schema or "anyOf" in schema:
        return ANYTHING  # a quantity, which is text or a number
    if schema.get("type") == "object" and not {"properties", "additionalProperties"} & schema.keys():
        return ANYTHING
    kept = {key: value for key, value in schema.items() if key not in ("allOf", "default")}
    if "properties" in kept:
        kept["properties"] = {name: inlined(each, types, above) for name, each in kept["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = inlined(kept[key], types, above)
    return kept


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts of an `allOf`, which the server uses to put words beside a `$ref`."""
    return {key: value for part in parts for key, value in part.items()}
