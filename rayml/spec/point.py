"""A job with the values of one configuration put in: the document of another, whole job."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from rayml.spec.fits import Slot, child_slots, default_kind, is_spec, kinds_of, slots_of
from rayml.spec.job import JobSpec

Document = dict[str, Any]
"""A job as its file has it: sections, lists and scalars."""


def job_document(job: JobSpec) -> Document:
    """What the author wrote, without what was left out."""
    return job.model_dump(mode="json", exclude_unset=True)


def put_values(document: Document, values: Mapping[str, Any]) -> Document:
    """A copy of a job's document in which each key has its value.

    A new `kind` makes its section another one: fields that the new kind does not have are left out, the others stay.
    Kinds come first, so that the values of the new kind's own fields find their place.
    """
    changed = copy.deepcopy(document)
    for path in sorted(values, key=lambda path: (path.rpartition(".")[2] != "kind", path.count("."))):
        put_value(changed, path, values[path])
    return changed


def put_value(document: Document, path: str, value: Any) -> None:
    """Set one key, and make the sections on the way to it. ValueError where a value stands in the way."""
    *above, last = path.split(".")
    node, slots = document, [Slot(JobSpec)]
    for part in above:
        child = entry(node, part)
        if child is None:
            kind = default_kind(slots, part)
            child = {} if kind is None else {"kind": kind}
            set_entry(node, part, child)
        if not isinstance(child, dict | list):
            raise ValueError(f"`{part}` is a value and has no fields")
        node, slots = child, child_slots(slots, int(part) if isinstance(node, list) else part)  # type: ignore[assignment]
    if last == "kind" and isinstance(node, dict) and node.get("kind") != value:
        keep_common_fields(node, slots, value)
    set_entry(node, last, copy.deepcopy(value))


def entry(node: Any, part: str) -> Any:
    """What stands at a key of a section or a place of a list; None where nothing does."""
    if isinstance(node, list):
        return node[int(part)] if part.isdecimal() and int(part) < len(node) else None
    return node.get(part)


def set_entry(node: Any, part: str, value: Any) -> None:
    """Put a value at a key or at a place that a list has."""
    if not isinstance(node, list):
        node[part] = value
    elif part.isdecimal() and int(part) < len(node):
        node[int(part)] = value
    else:
        raise ValueError(f"`{part}` is not an entry of this list; its last one is {len(node) - 1}")


def keep_common_fields(section: Document, slots: list[Slot], kind: Any) -> None:
    """Leave out what a section of another kind does not have."""
    spec = kinds_of(slots).get(kind)
    if spec is not None:
        for name in [name for name in section if name not in spec.model_fields]:
            del section[name]


def value_at(document: Any, path: str) -> tuple[Any, bool]:
    """The value of a key, and whether there is one."""
    for part in path.split("."):
        if isinstance(document, list) and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        elif isinstance(document, dict) and part in document:
            document = document[part]
        else:
            return None, False
    return document, True


def base_values(job: JobSpec) -> dict[str, Any]:
    """Every scalar of a job by its key, defaults included."""
    return dict(leaves(job.model_dump(mode="json", exclude={"tune"}), ""))


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif not isinstance(value, list):
        yield path, value


def is_key(path: str) -> bool:
    """Whether some job has such a key."""
    slots = [Slot(JobSpec)]
    for part in path.split("."):
        slots = child_slots(slots, int(part) if part.isdecimal() else part)
        if not slots:
            return False
    return True


def known_keys() -> list[str]:
    """Every key that a job can have, for "did you mean"."""
    return sorted(set(_keys([Slot(JobSpec)], "")))


def _keys(slots: list[Slot], above: str) -> Iterator[str]:
    for slot in slots:
        if is_spec(slot):
            for name, field in slot.type.model_fields.items():
                path = f"{above}.{name}" if above else name
                yield path
                if path not in ("tune",):
                    yield from _keys(slots_of(field.annotation, field.metadata), path)
