"""`--set a.b=value`: one value of a job or cluster file, replaced on the command line."""

from __future__ import annotations

import re
from typing import get_args, get_origin

from rayml.errors import Problem, SpecError
from rayml.spec.base import Spec
from rayml.spec.fits import Slot, child_slots, default_kind, field_names, slots_of
from rayml.spec.tree import Node, parse_yaml, resolve
from rayml.spec.words import shorten


def override(root: Node, text: str, spec: type[Spec]) -> list[Problem]:
    """Puts the value into the tree, with the sections on the way to it, and says what is wrong with the override.

    A section that is not in the file gets the `kind` that it has by default. Whether the field exists and the value
    fits is found with the rest of the file.
    """
    where = f"--set {shorten(text)}"
    path, equals, typed = text.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        return [Problem(where, None, "", "write a path and a value, such as `--set train.epochs=3`")]
    try:
        value, problems = _value(typed.strip(), where, path.strip())
    except SpecError as error:
        return error.problems
    node, slots, done = root, [Slot(spec)], 0
    while done < len(parts):
        taken = _parts_of_key(slots, parts[done:])
        part = ".".join(parts[done : done + taken])
        key = int(part) if isinstance(node.value, list) and part.isdecimal() else part
        is_last = done + taken == len(parts)
        child = value if is_last else _section(node, key, slots, where)
        what = _put(node, key, child)
        if what:
            return [*problems, Problem(where, None, ".".join(parts[:done]), what)]
        node, slots, done = child, child_slots(slots, key), done + taken
    return problems


def _parts_of_key(slots: list[Slot], parts: list[str]) -> int:
    """How many parts of the path are one key: `tune.space` has keys with dots of their own, such as `model.width`."""
    for slot in slots:
        if get_origin(slot.type) is not dict:
            continue
        keys, values = (slots_of(argument) for argument in get_args(slot.type))
        patterns = [each.pattern for key in keys for each in key.constraints if hasattr(each, "pattern")]
        if any("." in pattern and re.search(pattern, "a.b") for pattern in patterns):
            inside = field_names(values)
            return next((at for at, part in enumerate(parts) if at and part in inside), len(parts))
    return 1


def _value(typed: str, where: str, path: str) -> tuple[Node, list[Problem]]:
    """A list, a mapping or a quoted text is read as YAML; all else is one scalar, so that `>= 0.9` needs no quotes."""
    if typed[:1] in ("[", "{", '"', "'"):
        node, problems = parse_yaml(typed, where, path=path, numbered=False)
        assert node is not None, "text that starts with a bracket or a quote is a document"
        return node, problems
    try:
        return Node(resolve(typed), where, None, typed), []
    except ValueError as error:
        return Node(None, where, None), [Problem(where, None, path, str(error))]


def _section(node: Node, key: str | int, slots: list[Slot], where: str) -> Node:
    """The section that stands at `key`, or a new one where there is none."""
    present = None
    if isinstance(node.value, dict):
        present = node.value.get(str(key))
    elif isinstance(node.value, list) and isinstance(key, int) and key < len(node.value):
        present = node.value[key]
    if present is not None and present.value is not None:
        return present
    kind = default_kind(slots, key)
    return Node({} if kind is None else {"kind": Node(kind, where, None, kind)}, where, None)


def _put(node: Node, key: str | int, child: Node) -> str | None:
    """Sets one entry of a node; a sentence where the node has no such place."""
    if isinstance(node.value, dict):
        node.value[str(key)] = child
        return None
    if not isinstance(node.value, list):
        return f"{node.shown()} is a value and has no fields"
    if not isinstance(key, int) or key >= len(node.value):
        return f"`{key}` is not an entry of this list; its last one is {len(node.value) - 1}"
    node.value[key] = child
    return None
