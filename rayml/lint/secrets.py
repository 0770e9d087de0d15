"""Secrets written out in a manifest, found by their shape or by the name beside them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from rayml.lint.documents import embedded
from rayml.lint.finding import Remark
from rayml.lint.view import View
from rayml.redact.names import is_secret_name
from rayml.redact.shapes import shape_of

RULE = "security.secret"
NAMED = "a literal value for a name that holds a secret"
HINT = "keep it in a Secret and name it by `valueFrom: {secretKeyRef: ...}`"

_REFERENCE = re.compile(r"\$\w+|\$\(\w+\)|\$\{(env:)?\w+\}", re.ASCII)
_NAMED_MAPS = {"data", "stringData", "rayStartParams", "env_vars", "annotations", "labels", "volumeAttributes"}
_EMBEDDED = {"runtimeEnvYAML", "serveConfigV2"}
_REDIS_FIELD = "redisPassword"
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def check_secrets(kind: str, document: View) -> list[Remark]:
    """Each literal secret of a document, once, at the path where it stands."""
    found: dict[tuple[str | int, ...], Remark] = {}
    for remark in (*_by_shape(document), *_by_name(document), *_secret_data(kind, document)):
        found.setdefault(remark.path, remark)
    return list(found.values())


def _by_shape(document: View) -> Iterator[Remark]:
    for place in document.every():
        if place.text and (shape := shape_of(place.text)):
            yield place.remark(RULE, f"{shape} is written out", HINT)
        for key, _ in place.fields():
            if shape := shape_of(key):
                yield place.remark(RULE, f"{shape} is written out as a key", HINT)


def _by_name(document: View) -> Iterator[Remark]:
    for place in document.every():
        if is_secret_name(place["name"].text) and _is_literal(place["value"]):
            yield place["value"].remark(RULE, NAMED, HINT)
        for key, entry in place.fields():
            yield from _by_key(key, entry)


def _by_key(key: str, entry: View) -> Iterator[Remark]:
    if key == _REDIS_FIELD and _is_literal(entry["value"]):
        yield entry["value"].remark(RULE, NAMED, HINT)
    if key in _NAMED_MAPS:
        yield from _named_literals(entry)
    inside = View(embedded(entry.text)) if key in _EMBEDDED and entry.text else View(None)
    if any(_named_literals(place) for place in inside.every()):
        yield entry.remark(RULE, NAMED, HINT)


def _named_literals(mapping: View) -> list[Remark]:
    names = [(name, value) for name, value in mapping.fields() if name != _APPLIED]
    return [value.remark(RULE, NAMED, HINT) for name, value in names if is_secret_name(name) and _is_literal(value)]


def _is_literal(value: View) -> bool:
    """Text that is more than a reference: `$(NAME)` is filled in by Kubernetes, `$NAME` by the shell of `ray start`."""
    is_number = isinstance(value.value, (int, float)) and not isinstance(value.value, bool)
    return is_number or (bool(value.text.strip()) and not _REFERENCE.fullmatch(value.text))


def _secret_data(kind: str, document: View) -> Iterator[Remark]:
    """A Secret with its values in it, or a ConfigMap with a secret shape in its base64."""
    if kind == "Secret":
        for name in ("data", "stringData"):
            for _, value in document[name].fields():
                if value.text:
                    hint = "create it outside of the manifests: `kubectl create secret`, or an operator for secrets"
                    yield value.remark(RULE, "the value of a Secret is written out", hint)
    for _, value in document["binaryData"].fields():
        if shape := shape_of(_decoded(value.text)):
            yield value.remark(RULE, f"{shape} is written out in base64", HINT)


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""
