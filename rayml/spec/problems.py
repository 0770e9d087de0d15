"""What pydantic found, as sentences about the file that a person wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from rayml.errors import Problem
from rayml.spec.base import Spec
from rayml.spec.fits import Place, Slot, child_slots, describe, field_names, is_spec, kinds_of, place_of, slots_of
from rayml.spec.tree import Node, join
from rayml.spec.words import listed, nearest, shorten, show

MAX_FAULTS = 1_000
"""More are not read by anyone, and finding a near name for each takes about 0.5 ms."""


def problems_of(error: ValidationError, spec: type[Spec], root: Node) -> list[Problem]:
    """One problem for each place that is wrong, with the file and line of the value there."""
    found: dict[tuple[str | int, ...], tuple[Place, Problem]] = {}
    faults = error.errors(include_url=False)[:MAX_FAULTS]
    # Of a list whose entries are wrong pydantic also says that it is too short: it counts the right ones.
    around = {fault["loc"][:length] for fault in faults for length in range(len(fault["loc"]))}
    for fault in faults:
        if fault["type"] == "too_short" and fault["loc"] in around:
            continue
        place = place_of(spec, fault["loc"], is_unknown=fault["type"] == "extra_forbidden")
        if fault["type"].startswith("union_tag") and isinstance(find(root, place.path)[0].value, dict):
            kinds = Slot(Literal[tuple(kinds_of(place.slots))])
            place = Place((*place.path, "kind"), [kinds], place.slots, False)
        found.setdefault(place.path, (place, _problem(place, fault, spec, root)))
    inside = {path[:length] for path in found for length in range(len(path))}
    problems = [problem for path, (place, problem) in found.items() if not (place.is_alternative and path in inside)]
    if error.error_count() > MAX_FAULTS:
        problems.append(Problem(root.file, None, "", f"more than {MAX_FAULTS} places are wrong; these are the first"))
    return problems


def _problem(place: Place, fault: Any, spec: type[Spec], root: Node) -> Problem:
    node, is_there = find(root, place.path)
    if fault["type"] == "extra_forbidden":
        what = _unknown_field(place, spec)
    elif fault["type"] == "value_error":
        what = str(fault["ctx"]["error"])
    elif place.is_key:
        what = _misfit(str(place.path[-1]), show(str(place.path[-1])), place.slots)
    elif not is_there:
        what = f"missing; write {describe(place.slots)}"
    else:
        what = _misfit(node.value, node.shown(), place.slots)
    return Problem(node.file, node.line, path_text(place.path), what)


def path_text(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        text = join(text, part if isinstance(part, int) else shorten(part))
    return text


def find(root: Node, path: Sequence[str | int]) -> tuple[Node, bool]:
    """The deepest node on the way to `path`, and whether it is the end of the way."""
    node = root
    for part in path:
        child: Node | None = None
        if isinstance(node.value, dict):
            child = node.value.get(str(part))
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
        if child is None:
            return node, False
        node = child
    return node, True


def _unknown_field(place: Place, spec: type[Spec]) -> str:
    name = str(place.path[-1])
    homes = _homes(spec)
    here = homes.get(name, {}).get(path_text(place.path))
    if here:
        return f"no such field of kind {listed(list(kinds_of(place.around)))}, but of {listed(here)}"
    names = field_names(place.around)
    near = nearest(name, names)
    if near:
        return f"no such field; did you mean `{near}`?"
    elsewhere = homes.get(nearest(name, homes, likeness=0.8) or "")
    if elsewhere:
        return f"no such field here; did you mean {listed(list(elsewhere)[:3])}?"
    return f"no such field; the fields here are {listed(names, 'and')}"


@cache
def _homes(spec: type[Spec]) -> dict[str, dict[str, list[str]]]:
    """By the name of a field: the paths at which it stands, with the kinds of the section that have it."""
    homes: dict[str, dict[str, list[str]]] = {}
    for path, kinds in _fields(spec, ""):
        homes.setdefault(path.rpartition(".")[2], {}).setdefault(path, []).extend(kinds)
    return homes


def _fields(spec: type[Spec], above: str) -> Iterator[tuple[str, list[str]]]:
    """Every field of a spec and of the sections in it, with the kinds of the section that it stands in."""
    for name, field in spec.model_fields.items():
        yield join(above, name), list(kinds_of([Slot(spec)]))
        for slot in slots_of(field.annotation, field.metadata):
            if is_spec(slot):
                yield from _fields(slot.type, join(above, name))


def _misfit(value: object, shown: str, slots: Sequence[Slot]) -> str:
    sentence = f"{shown} is not {describe(slots)}"
    if not isinstance(value, str):
        return f'{sentence}; put it in quotes: "{shown}"' if _fits_in_quotes(value, shown, slots) else sentence
    kinds = kinds_of(slots)
    near = nearest(value, kinds)
    if near:
        return f"{sentence}; did you mean `{{kind: {near}}}`?"
    choices = [each for slot in slots if get_origin(slot.type) is Literal for each in get_args(slot.type)]
    near = nearest(value, [each for each in choices if isinstance(each, str)])
    return f"{sentence}; did you mean `{near}`?" if near and near != value else sentence


def _fits_in_quotes(value: object, shown: str, slots: Sequence[Slot]) -> bool:
    """Whether a number such as `7` was meant as text."""
    if value is None or isinstance(value, (dict, list)):
        return False
    patterns = [
        [each.pattern for each in slot.constraints if hasattr(each, "pattern")] for slot in slots if slot.type is str
    ]
    named = [each for slot in slots if get_origin(slot.type) is Literal for each in get_args(slot.type)]
    return shown in named or any(all(re.search(pattern, shown) for pattern in each) for each in patterns)


def truth_values(root: Node, spec: type[Spec]) -> list[Problem]:
    """`true` and `false` where a number is meant: pydantic would read them as 1 and 0."""
    return list(_truth_values(root, [Slot(spec)], ""))


def _truth_values(node: Node, slots: Sequence[Slot], path: str) -> Iterator[Problem]:
    if isinstance(node.value, bool):
        fitting = {slot.type for slot in slots}
        if fitting & {int, float} and not fitting & {bool, Any}:
            yield Problem(node.file, node.line, path, _misfit(node.value, node.shown(), slots))
    elif isinstance(node.value, dict):
        kind = node.value.get("kind")
        chosen = kinds_of(slots).get(kind.value) if kind and isinstance(kind.value, str) else None
        for key, child in node.value.items():
            yield from _truth_values(child, child_slots([Slot(chosen)] if chosen else slots, key), join(path, key))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _truth_values(child, child_slots(slots, index), join(path, index))
