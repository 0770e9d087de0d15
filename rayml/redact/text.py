"""What rayml says, without secrets: texts, and documents before they are written as JSON."""

from __future__ import annotations

from typing import Any

from rayml.redact.named import may_have_spaces, without_named
from rayml.redact.names import is_secret_name
from rayml.redact.shapes import HIDDEN, shape_of, without_shapes
from rayml.redact.values import known_secrets

KNOWN = "a secret of this environment"


def secret_in(text: str) -> str | None:
    """What secret a text holds, in words, by its shape or because its value is known here; None where there is none."""
    known = known_secrets()
    return shape_of(text) or (KNOWN if known is not None and known.search(text) else None)


def redacted(text: str) -> str:
    """A text in which no secret is left that is known here, has a secret's shape, or stands beside a secret's name."""
    known = known_secrets()
    if known is not None:
        text = known.sub(HIDDEN, text)
    return without_named(without_shapes(text))


def cleaned(document: Any, name: str = "") -> Any:
    """A document of dict, list and scalars in which no text holds a secret; `name` is the key that it stands at.

    Tuples become lists, as they do in JSON. Numbers stay what they are.
    """
    if isinstance(document, str):
        is_one = " " not in document or may_have_spaces(name)
        return HIDDEN if document and name and is_one and is_secret_name(name) else redacted(document)
    if isinstance(document, dict):
        return {
            redacted(key) if isinstance(key, str) else key: cleaned(value, str(key)) for key, value in document.items()
        }
    if isinstance(document, (list, tuple)):
        return [cleaned(value, name) for value in document]
    return document
