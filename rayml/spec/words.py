"""Pieces of the sentences that tell a person what is wrong: values shown short, choices listed, near names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence

from rayml.redact.text import redacted

SHOWN_CHARS = 60
NAME_CHARS = 80
"""A longer word is no misspelling, and comparing it takes time that grows with its length."""


def show(value: object) -> str:
    """A value as a person would type it, cut in the middle where it is long."""
    text = value if isinstance(value, RawText) else json.dumps(value, ensure_ascii=False, default=str)
    return shorten(text)


class RawText(str):
    """A number or word as it stands in the file (`1.0e-4`), shown without quotes."""

    __slots__ = ()


def shorten(text: str) -> str:
    """The text with at most SHOWN_CHARS of its characters, its start and its end; on one line, nothing invisible.

    Secrets are hidden before: what is cut in the middle no longer has a secret's shape.
    """
    text = redacted(text)
    if len(text) > SHOWN_CHARS:
        tail = SHOWN_CHARS // 3
        text = f"{text[: SHOWN_CHARS - tail - 3]}...{text[-tail:]}"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def listed(choices: Sequence[object], last: str = "or") -> str:
    """`a`, `b` or `c`; numbers without the backticks."""
    words = [f"`{choice}`" if isinstance(choice, str) else show(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def count(number: int, noun: str) -> str:
    """`1 row`, `1,797 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def nearest(word: str, names: Iterable[str], likeness: float = 0.6) -> str | None:
    """The name that was probably meant, or None where none is near."""
    if len(word) > NAME_CHARS:
        return None
    folded = {name.lower().replace("-", "_"): name for name in names}
    match = difflib.get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=likeness)
    return folded[match[0]] if match else None
