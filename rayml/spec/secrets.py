"""Secrets that are written out in a job or cluster file. They are refused: what a file holds is kept with its runs."""

from __future__ import annotations

from collections.abc import Iterator

from rayml.errors import Problem
from rayml.redact.names import is_secret_name
from rayml.redact.text import secret_in
from rayml.spec.tree import Node, join

FREE = "args"
"""The field of a section that holds what the user's own function takes; its keys are the user's."""
NAMED = "a value for a name that holds a secret"
LARGE = 10_000
"""A number from here on may be a password."""
INSTEAD = (
    'leave it out, and let the code that needs it read the environment, such as `os.environ["NAME"]`; '
    "on Kubernetes, `secrets: [NAME]` in the cluster file brings a Secret there by secretRef"
)


def literal_secrets(root: Node) -> list[Problem]:
    """One problem for each value or key that is a secret, by its shape, its value or the name beside it."""
    return list(_in(root, "", ""))


def _in(node: Node, path: str, name: str) -> Iterator[Problem]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            if what := _what(key):
                yield Problem(child.file, child.line, path, f"{what} is written out as a key; {INSTEAD}")
            is_free = FREE in path.split(".") or path == FREE
            yield from _in(child, join(path, key), key if is_free else "")
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _in(child, join(path, index), name)
    elif what := _what(node.value) or _beside(name, node.value):
        yield Problem(node.file, node.line, path, f"{what} is written out; {INSTEAD}")


def _what(value: object) -> str | None:
    return secret_in(value) if isinstance(value, str) and value else None


def _beside(name: str, value: object) -> str | None:
    return NAMED if name and is_secret_name(name) and _tells(value) else None


def _tells(value: object) -> bool:
    """Whether it is more than a switch or a small number, such as a count."""
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, (int, float)) and abs(value) >= LARGE
