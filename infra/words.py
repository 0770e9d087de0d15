"""Sentences for people."""

from __future__ import annotations

from collections.abc import Sequence

from rayml.spec.words import listed

SHOWN = 8


def listed_names(names: Sequence[str], last: str = "or") -> str:
    """`a`, `b` or `c`; of many, the first ones."""
    return listed(list(names)[:SHOWN], last)
