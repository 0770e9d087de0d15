"""What fits at a place of a job or cluster file, read from the annotations of the spec classes."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from rayml.spec.base import Fits, Spec
from rayml.spec.words import listed

_TYPES = {int: "a whole number", float: "a number", str: "text", bool: "`true` or `false`"}
_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below", "multiple_of": "a multiple of"}


class Slot(NamedTuple):
    """One type that a place takes, with the constraints on it. A place is a list of slots: any of them fits."""

    type: Any
    constraints: tuple[Any, ...] = ()


class Place(NamedTuple):
    """A place that pydantic found fault with, as the person who wrote the file would name it."""

    path: tuple[str | int, ...]
    slots: list[Slot]
    """What fits there. Empty for a field that there is not."""
    around: list[Slot]
    """What fits one level above."""
    is_alternative: bool
    """Whether the fault is of one member of a union such as `int | auto`, of which another fault may say more."""
    is_key: bool = False
    """Whether the fault is of the key itself and not of its value."""


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
    """The classes of a place by the `kind` that chooses them. Empty where it has no kinds."""
    specs = [slot.type for slot in slots if is_spec(slot) and "kind" in slot.type.model_fields]
    return {kind: spec for spec in specs for kind in get_args(spec.model_fields["kind"].annotation)}


def default_kind(slots: Sequence[Slot], part: str | int) -> str | None:
    """The kind of the section at `part` where a file says nothing; None where it has no kind by default."""
    for slot in slots:
        field = getattr(slot.type, "model_fields", {}).get(part)
        kind = None if field is None or field.default is PydanticUndefined else getattr(field.default, "kind", None)
        if kind is not None:
            return str(kind)
    return None


def field_names(slots: Sequence[Slot]) -> list[str]:
    return list(dict.fromkeys(name for slot in slots if is_spec(slot) for name in slot.type.model_fields))


def child_slots(slots: Sequence[Slot], part: str | int) -> list[Slot]:
    """What fits at `part` of a value that fits one of `slots`. Empty where there is no such field."""
    found: list[Slot] = []
    for slot in slots:
        arguments = get_args(slot.type)
        if is_spec(slot):
            field = slot.type.model_fields.get(part)
            found += slots_of(field.annotation, field.metadata) if field else []
        elif get_origin(slot.type) is dict:
            found += slots_of(arguments[1])
        elif get_origin(slot.type) is tuple and isinstance(part, int):
            is_variadic = arguments[-1] is Ellipsis
            found += slots_of(arguments[0 if is_variadic else part]) if is_variadic or part < len(arguments) else []
        elif slot.type is Any:
            found.append(slot)
    return found


def place_of(spec: type[Spec], loc: Sequence[str | int], *, is_unknown: bool = False) -> Place:
    """The place of a pydantic error, without the tags and labels of unions that pydantic puts into `loc`.

    Args:
        is_unknown: whether the last part is a field that there is not, whatever it is called.
    """
    slots = [Slot(spec)]
    place = Place((), slots, [], False)
    for at, part in enumerate(loc, start=1):
        keys = [get_args(slot.type)[0] for slot in place.around if get_origin(slot.type) is dict]
        if part == "[key]" and keys and not (is_unknown and at == len(loc)):
            place = place._replace(slots=[slot for key in keys for slot in slots_of(key)], is_key=True)
        elif len(slots) > 1 and part in (kinds := kinds_of(slots)):
            slots = [Slot(kinds[str(part)])]
        elif len(slots) > 1:
            slots = [slot for slot in slots if get_origin(slot.type) is not Literal]
            place = place._replace(is_alternative=True)
        else:
            around, slots = slots, child_slots(slots, part)
            place = Place((*place.path, part), slots, around, place.is_alternative)
    return place


def describe(slots: Sequence[Slot]) -> str:
    """What fits, as the end of the sentence `4 is not ...`."""
    kinds = kinds_of(slots)
    if len(kinds) > 1:
        return f"a section with {listed([f'kind: {kind}' for kind in kinds])}"
    choices = [value for slot in slots if get_origin(slot.type) is Literal for value in get_args(slot.type)]
    others = [_describe_one(slot) for slot in slots if get_origin(slot.type) is not Literal]
    return (", or " if "," in "".join(others) else " or ").join([*others, *([listed(choices)] if choices else [])])


def _describe_one(slot: Slot) -> str:
    words = next((each.words for each in slot.constraints if isinstance(each, Fits)), None)
    if words:
        return words
    arguments = get_args(slot.type)
    if is_spec(slot):
        return f"a section with the fields {listed(list(slot.type.model_fields), 'and')}"
    if get_origin(slot.type) is dict:
        return "a section of `key: value`"
    if get_origin(slot.type) is tuple:
        is_variadic = arguments[-1] is Ellipsis
        least = next((each.min_length for each in slot.constraints if isinstance(each, annotated_types.MinLen)), 0)
        size = f" of {len(arguments)} entries" if not is_variadic else f" of {least} or more" if least else ""
        return f"a list{size}, each {describe(slots_of(arguments[0]))}"
    return _TYPES.get(slot.type, "a value") + _bounds(slot.constraints)


def _bounds(constraints: Sequence[Any]) -> str:
    bounds = {name: getattr(each, name) for each in constraints for name in _BOUNDS if hasattr(each, name)}
    is_range = "ge" in bounds and "le" in bounds
    words = [f"from {bounds.pop('ge')} to {bounds.pop('le')}"] if is_range else []
    words += [f"{_BOUNDS[name]} {bound}" for name, bound in bounds.items()]
    return f" {' and '.join(words)}" if words else ""
