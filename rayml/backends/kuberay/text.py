"""Documents as YAML that a person can read and every reader takes for the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

WIDE = 2**20
"""Characters before a line would be folded: never."""

_AMBIGUOUS = re.compile(r"[-+]?[.0-9][-+.0-9_eExXoObBa-fA-F:]*|[yYnN]")
"""Text to PyYAML, and a number or a truth value to kubectl's YAML 1.1: `12e45`, as in a digest, and `y`."""

_UNSEEN = re.compile(r"[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Control characters, and what YAML 1.1 takes for the end of a line besides one: escaped, never written as they are."""


class _Dumper(yaml.SafeDumper):
    """Without aliases, and with long texts as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=_style(value))


def _style(value: str) -> str | None:
    if _UNSEEN.search(value):
        return '"'
    if "\n" in value:
        return "|"
    return "'" if _AMBIGUOUS.fullmatch(value) else None


_Dumper.add_representer(str, _text)


def to_yaml(documents: Iterable[dict[str, Any]]) -> str:
    """A stream of documents, their keys in the order in which they were made."""
    return "".join(f"---\n{embedded(document)}" for document in documents)


def embedded(document: dict[str, Any]) -> str:
    """One document, as a text that stands in another one."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=WIDE
    )
    return text
