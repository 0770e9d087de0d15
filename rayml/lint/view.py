"""A value of a manifest together with its path, read without fear: what is absent or of another type is empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rayml.lint.finding import Path, Remark, Severity


class View:
    """A place in a document. Each step into it gives a view again, also where nothing is there."""

    __slots__ = ("path", "value")

    def __init__(self, value: Any, path: Path = ()) -> None:
        self.value = value
        self.path = path

    def __getitem__(self, key: str) -> View:
        inside = self.value.get(key) if isinstance(self.value, dict) else None
        return View(inside, (*self.path, key))

    def at(self, *keys: str) -> View:
        view = self
        for key in keys:
            view = view[key]
        return view

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def items(self) -> list[View]:
        """The entries of a list."""
        if not isinstance(self.value, list):
            return []
        return [View(entry, (*self.path, at)) for at, entry in enumerate(self.value)]

    def fields(self) -> list[tuple[str, View]]:
        """The entries of a mapping."""
        if not isinstance(self.value, dict):
            return []
        return [(str(key), View(entry, (*self.path, str(key)))) for key, entry in self.value.items()]

    def texts(self) -> list[str]:
        """The strings in a list."""
        return [entry.value for entry in self.items() if isinstance(entry.value, str)]

    def every(self) -> Iterator[View]:
        """This place and all that lie in it."""
        yield self
        for _, entry in self.fields():
            yield from entry.every()
        for entry in self.items():
            yield from entry.every()

    @property
    def is_set(self) -> bool:
        return self.value is not None

    @property
    def is_true(self) -> bool:
        return self.value is True

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> int | None:
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else None

    def remark(self, rule: str, what: str, hint: str = "", severity: Severity = "error") -> Remark:
        return Remark(self.path, rule, what, hint, severity)


def named(entries: list[View]) -> dict[str, View]:
    """The entries of a list by their `name`; of two with one name the last, as in Kubernetes."""
    return {entry["name"].text: entry for entry in entries if entry["name"].text}
