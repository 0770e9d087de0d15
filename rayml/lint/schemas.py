"""Structural schemas, as a CustomResourceDefinition holds them: null dropped, defaults applied, unknown fields refused.

What is read is the `openAPIV3Schema` of apiextensions.k8s.io/v1 with the keywords that a structural schema may have
(kubernetes/kubernetes, `staging/src/k8s.io/apiextensions-apiserver/pkg/apiserver/schema`). The order is the API
server's: first nulls, then defaults, then types, then the rules in CEL. Rules about a change (`oldSelf`) need two
objects and are left out.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path as FilePath
from typing import Any, Protocol

from rayml.errors import PlanError
from rayml.lint.finding import Remark
from rayml.lint.view import View
from rayml.redact.text import redacted
from rayml.spec.words import listed, nearest, shorten, show

Schema = Mapping[str, Any]

RULE = "schema"
CEL_RULE = "schema.rule"
CEL_PACKAGE = "common-expression-language"

_OPEN = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_EMBEDDED = "x-kubernetes-embedded-resource"
_OBJECT_FIELDS = {"apiVersion", "kind", "metadata"}
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "object": ((dict,), "a mapping"),
    "array": ((list,), "a list"),
    "string": ((str,), "text"),
    "boolean": ((bool,), "true or false"),
    "integer": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
}
_BITS = {"int32": 31, "int64": 63}


class Kinds(Protocol):
    """What is known of kinds: from a folder, or from a cluster."""

    @property
    def complete(self) -> bool:
        """Whether a kind that is not described does not exist."""

    def versions(self, api_version: str, kind: str) -> Mapping[str, Schema] | None:
        """The schema of each version of a kind, None where it is not described."""


@dataclass(frozen=True)
class Definitions:
    """The kinds that a folder of CustomResourceDefinitions describes: group, kind and version to schema."""

    schemas: Mapping[tuple[str, str], Mapping[str, Schema]] = field(default_factory=dict)
    complete = False

    def versions(self, api_version: str, kind: str) -> Mapping[str, Schema] | None:
        """The schema of each version of a kind, None where the folder does not describe it."""
        return self.schemas.get((api_version.rpartition("/")[0], kind))


def load_definitions(folder: FilePath) -> Definitions:
    """Every CustomResourceDefinition in the `*.json` files of a folder.

    Raises:
        PlanError: there is no such folder, or a file in it is not JSON.
    """
    if not folder.is_dir():
        raise PlanError("no such folder of schemas", where=str(folder), hint="name one that holds CRDs as JSON")
    return Definitions(schemas_of(_read_json(file, file.stat().st_mtime_ns) for file in sorted(folder.glob("*.json"))))


def schemas_of(definitions: Iterable[Any]) -> dict[tuple[str, str], dict[str, Schema]]:
    """Group and kind to the schema of each version, of CustomResourceDefinitions; what is none is passed over."""
    schemas: dict[tuple[str, str], dict[str, Schema]] = {}
    for document in definitions:
        definition = View(document)["spec"]
        key = definition["group"].text, definition.at("names", "kind").text
        for version in definition["versions"].items():
            schema = version.at("schema", "openAPIV3Schema").value
            if isinstance(schema, dict):
                schemas.setdefault(key, {})[version["name"].text] = schema
    return schemas


@cache
def _read_json(file: FilePath, _changed_ns: int) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(f"not a schema in JSON: {shorten(str(error))}", where=str(file)) from None


def check_object(data: Any, schema: Schema) -> list[Remark]:
    """What the API server would refuse in an object; its `metadata` is not looked into."""
    whole = with_defaults(data, schema)
    return list(_check(View(whole), schema, _OBJECT_FIELDS))


def check_part(view: View, schema: Schema) -> list[Remark]:
    """The same for a part of an object, with paths from the object's root."""
    return list(_check(View(with_defaults(view.value, schema), view.path), schema, set()))


def with_defaults(value: Any, schema: Schema) -> Any:
    """A copy without the nulls of fields that may not be null and with every `default` of the schema."""
    if isinstance(value, list):
        return [with_defaults(entry, schema.get("items", {})) for entry in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    filled = {}
    for key, entry in value.items():
        inside = _schema_of(key, schema)
        if entry is not None or inside.get("nullable"):
            filled[key] = with_defaults(entry, inside)
    for key, inside in properties.items():
        if key not in filled and "default" in inside:
            filled[key] = with_defaults(inside["default"], inside)
    return filled


def _schema_of(key: str, schema: Schema) -> Schema:
    inside = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
    return inside if isinstance(inside, dict) else {}


def _check(view: View, schema: Schema, ignored: set[str]) -> Iterator[Remark]:
    if view.value is None and schema.get("nullable"):
        return
    fault = _type_fault(view.value, schema)
    if fault:
        yield view.remark(RULE, fault)
        return
    for check in _CHECKS:
        what = check(view.value, schema)
        if what:
            yield view.remark(RULE, what)
    if isinstance(view.value, dict):
        yield from _check_fields(view, schema, ignored)
    for entry in view.items():
        yield from _check(entry, schema.get("items", {}), set())
    yield from _rules(view, schema)


def _type_fault(value: Any, schema: Schema) -> str:
    if schema.get(_INT_OR_STRING):
        fits = isinstance(value, (int, str)) and not isinstance(value, bool)
        return "" if fits else f"{_name_of(value)}, where a whole number or text fits"
    if "type" not in schema:
        return ""
    types, name = _TYPES.get(schema["type"], ((object,), ""))
    is_number = schema["type"] in ("integer", "number")
    is_whole = isinstance(value, float) and value.is_integer() and schema["type"] == "integer"
    fits = (isinstance(value, types) and not (is_number and isinstance(value, bool))) or is_whole
    return "" if fits else f"{_name_of(value)}, where {name} fits{_quotes(value, schema)}"


def _quotes(value: Any, schema: Schema) -> str:
    return "; put it in quotes" if schema["type"] == "string" and isinstance(value, (bool, int, float)) else ""


def _name_of(value: Any) -> str:
    """The type in words. The value is not said: it may be a secret."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    name = next((name for types, name in _TYPES.values() if isinstance(value, types)), "a value")
    return "a number" if isinstance(value, (int, float)) else name


def _enum(value: Any, schema: Schema) -> str:
    choices = schema.get("enum")
    if choices is None or value in choices:
        return ""
    near = nearest(value, [choice for choice in choices if isinstance(choice, str)]) if isinstance(value, str) else None
    return f"{_shown(value)} is not {listed(choices)}{f'; did you mean `{near}`?' if near else ''}"


def _shown(value: Any) -> str:
    return show(redacted(value) if isinstance(value, str) else value)


def _pattern(value: Any, schema: Schema) -> str:
    pattern = schema.get("pattern")
    if pattern is None or not isinstance(value, str):
        return ""
    compiled = _compiled(pattern)
    return "" if compiled is None or compiled.search(value) else f"does not have the form {shorten(pattern)}"


@cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """The pattern, None where it uses what Go's syntax has and Python's has not."""
    try:
        return re.compile(pattern, re.ASCII)
    except re.error:
        return None


def _bounds(value: Any, schema: Schema) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return ""
    bits = _BITS.get(schema.get("format", ""))
    if bits is not None and not -(2**bits) <= value < 2**bits:
        return f"does not fit into {schema['format']}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and value < low:
        return f"{show(value)} is less than {show(low)}"
    if high is not None and value > high:
        return f"{show(value)} is more than {show(high)}"
    return ""


def _sizes(value: Any, schema: Schema) -> str:
    if not isinstance(value, (str, list, dict)):
        return ""
    noun = "Length" if isinstance(value, str) else "Items" if isinstance(value, list) else "Properties"
    unit = {"Length": "characters", "Items": "entries", "Properties": "fields"}[noun]
    low, high = schema.get(f"min{noun}"), schema.get(f"max{noun}")
    if low is not None and len(value) < low:
        return f"{len(value)} {unit}, where at least {low} are needed"
    if high is not None and len(value) > high:
        return f"{len(value)} {unit}, where at most {high} fit"
    return ""


def _keys(value: Any, schema: Schema) -> str:
    """A list that stands for a map or a set has each key once."""
    if not isinstance(value, list) or schema.get("x-kubernetes-list-type") not in ("map", "set"):
        return ""
    names = schema.get("x-kubernetes-list-map-keys")
    keys = [_key(entry, names) for entry in value]
    double = len(keys) != len(set(keys))
    return f"two entries with the same {listed(names, 'and') if names else 'value'}" if double else ""


def _key(entry: Any, names: list[str] | None) -> str:
    inside = [entry.get(name) for name in names] if names and isinstance(entry, dict) else entry
    return json.dumps(inside, sort_keys=True, default=str)


_CHECKS: tuple[Callable[[Any, Schema], str], ...] = (_enum, _pattern, _bounds, _sizes, _keys)


def _check_fields(view: View, schema: Schema, ignored: set[str]) -> Iterator[Remark]:
    properties = schema.get("properties", {})
    is_open = schema.get(_OPEN) or "additionalProperties" in schema or "type" not in schema
    ignored = ignored | (_OBJECT_FIELDS if schema.get(_EMBEDDED) else set())
    for key, entry in view.fields():
        if key in ignored:
            continue
        if key not in properties and not is_open:
            yield entry.remark(RULE, _unknown(key, {*properties, *ignored}))
        else:
            yield from _check(entry, _schema_of(key, schema), set())
    for key in schema.get("required", ()):
        if key not in view:
            yield view[key].remark(RULE, "has to be there")


def _unknown(key: str, known: set[str]) -> str:
    near = nearest(key, sorted(known))
    if near:
        return f"no such field; did you mean `{near}`?"
    return f"no such field; {listed(sorted(known))} fit" if 0 < len(known) <= 8 else "no such field"


def _rules(view: View, schema: Schema) -> Iterator[Remark]:
    for rule in schema.get("x-kubernetes-validations", ()):
        text = rule.get("rule", "")
        if "oldSelf" in text:
            continue
        verdict = _holds(text, view.value)
        if verdict is None:
            hint = "" if _cel() else f"pip install {CEL_PACKAGE}"
            yield view.remark(CEL_RULE, "a rule of the schema could not be evaluated", hint, "warning")
        elif not verdict:
            yield view.remark(CEL_RULE, rule.get("message") or f"breaks the rule {shorten(text)}")


def _holds(rule: str, value: Any) -> bool | None:
    """Whether a CEL rule holds; None where it cannot be evaluated here. A field that is not there breaks the rule."""
    program = _program(rule)
    if program is None:
        return None
    try:
        return bool(program.execute({"self": value}))
    except KeyError:
        return False
    except Exception:  # the library raises what its functions raise: ValueError, TypeError, OverflowError, RuntimeError
        return None


@cache
def _program(rule: str) -> Any:
    """The compiled rule, None without the library or where it does not know the rule's syntax."""
    library = _cel()
    try:
        return library.compile(rule) if library else None
    except ValueError:
        return None


@cache
def _cel() -> Any:
    """The CEL library; None where it is not installed."""
    try:
        return importlib.import_module("cel")
    except ImportError:
        return None
