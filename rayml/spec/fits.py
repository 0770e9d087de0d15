"""What fits at a place of a job or cluster file, read from the annotations of the spec classes."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from rayml.spec.base import Fits, Spec
from rayml.spec.words import either


class Slot(NamedTuple):
    """One type that a place takes, with the constraints on it. A place is a list of slots: any of them fits."""

    type: Any
    constraints: tuple[Any, ...] = ()


class Place(NamedTuple):
    """A place that pydantic found fault with, as the person who wrote the file would name it."""

    path: tuple[str | int, ...]
    slots: list[Slot]
    alternative: bool
    """Whether the fault is of one member of a union such as `int | auto`."""


def slots_of(annotation: Any, constraints: Sequence[Any] = ()) -> list[Slot]:
    """The members of an annotation; None is left out."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *extra = get_args(annotation)
        flat = [item for each in extra for item in (each.metadata if isinstance(each, FieldInfo) else [each])]
        return slots_of(base, (*constraints, *flat))
    if origin in (Union, types.UnionType):
        return [slot for member in get_args(annotation) for slot in slots_of(member, constraints)]
    return [] if annotation is types.NoneType else [Slot(annotation, tuple(constraints))]


def is_spec(slot: Slot) -> bool:
    return isinstance(slot.type, type) and issubclass(slot.type, Spec)


def kinds_of(slots: Sequence[Slot]) -> dict[str, type[Spec]]:
    """The classes of a union by the `kind` that chooses them. Empty where a place has no kinds."""
    specs = [slot.type for slot in slots if is_spec(slot) and "kind" in slot.type.model_fields]
    return {kind: spec for spec in specs for kind in get_args(spec.model_fields["kind"].annotation)}


def child_slots(slots: Sequence[Slot], part: str | int, kind: object = None) -> list[Slot]:
    """What fits at `part` of a value that fits one of `slots`. Empty where there is no such field.

    Args:
        kind: chooses the class where the place is a union; without it, every class counts.
    """
    chosen = kinds_of(slots).get(kind) if isinstance(kind, str) else None
    found = []
    for slot in slots:
        arguments = get_args(slot.type)
        if is_spec(slot):
            field = slot.type.model_fields.get(part) if chosen in (None, slot.type) else None
            found += slots_of(field.annotation, field.metadata) if field else []
        elif get_origin(slot.type) is dict and isinstance(part, str):
            found += slots_of(arguments[1])
        elif get_origin(slot.type) is tuple and isinstance(part, int):
            variadic = arguments[-1] is Ellipsis
            found += slots_of(arguments[0 if variadic else part]) if variadic or part < len(arguments) else []
        elif slot.type is Any:
            found.append(slot)
    return found


def place_of(spec: type[Spec], loc: Sequence[str | int]) -> Place:
    """The place of a pydantic error, without the tags and labels of unions that pydantic puts into `loc`."""
    slots, keys, path, alternative = [Slot(spec)], [], [], False
    for part in loc:
        if part == "[key]":
            slots = keys
        elif len(slots) > 1:
            kinds = kinds_of(slots)
            if part in kinds:
                slots = [Slot(kinds[str(part)])]
            else:
                alternative = True
                slots = [slot for slot in slots if get_origin(slot.type) is not Literal]
        else:
            path.append(part)
            keys = [key for slot in slots if get_origin(slot.type) is dict for key in slots_of(get_args(slot.type)[0])]
            slots = child_slots(slots, part)
    return Place(tuple(path), slots, alternative)
