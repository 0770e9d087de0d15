"""Why two steps differ: the keys of their configuration that changed, their inputs, or the code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from rayml.plan.plan import Plan, Step


class Change(BaseModel):
    """One difference between two runs."""

    step: str
    path: str
    """`train.optimizer.lr`; `code` where rayml's or the user's code changed."""
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.path == "code":
            return f"{self.step}: its code changed"
        return f"{self.step}: {self.path}: {_show(self.before)} -> {_show(self.after)}"


def diff_plans(before: Plan, after: Plan) -> list[Change]:
    """Every difference that changes a key, step by step. Equal plans have none."""
    changes = []
    before_steps = {step.name: step for step in before.steps}
    after_steps = {step.name: step for step in after.steps}
    for name in dict.fromkeys([*before_steps, *after_steps]):
        if name not in after_steps:
            changes.append(Change(step=name, path=name, before="present", after="absent"))
        elif name not in before_steps:
            changes.append(Change(step=name, path=name, before="absent", after="present"))
        else:
            changes += diff_steps(before_steps[name], after_steps[name])
    return changes


def diff_steps(before: Step, after: Step) -> list[Change]:
    """What changed in one step itself; a changed input is told where it arises."""
    changes = [
        Change(step=after.name, path=f"{after.name}.{path}", before=old, after=new)
        for path, old, new in _walk(before.config, after.config, "")
    ]
    if before.code != after.code:
        changes.append(Change(step=after.name, path="code", before=before.code, after=after.code))
    return changes


def _walk(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _walk(before.get(key, "absent"), after.get(key, "absent"), f"{path}.{key}".lstrip("."))
    elif before != after:
        yield path, before, after


def _show(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
