"""The stages by name. Nothing is imported before it is used, so that a plan needs neither ray nor torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from rayml.plan.plan import Step
from rayml.stages.api import Stage

STAGES = {
    "data": "rayml.stages.data.stage:run",
    "tune": "rayml.stages.tune.stage:run",
    "train": "rayml.stages.train.stage:run",
    "compress": "rayml.stages.compress.stage:run",
    "export": "rayml.stages.export.stage:run",
    "evaluate": "rayml.stages.evaluate.stage:run",
    "serve": "rayml.stages.serve.stage:run",
}

INNER_STAGES = {
    "finetune": "rayml.stages.train.stage:run",
    "teacher": "rayml.stages.compress.teacher:run",
    "rung": "rayml.stages.compress.rung:run",
}
"""Steps that another step has made: what they leave is found again like any artifact."""

PREPARATIONS = {"train": "rayml.stages.train.launchers.table:prepare"}
"""What a stage can start before its step begins."""


def load_stage(name: str) -> Stage:
    """The function that runs a step of this name."""
    return cast("Stage", _load({**STAGES, **INNER_STAGES}[name]))


def stage_of(name: str) -> str:
    """The stage whose folder has the code that a step of this name runs: its own, or `train` for `finetune`."""
    return {**STAGES, **INNER_STAGES}[name].split(".")[2]


def load_preparation(name: str) -> Callable[[Step], None] | None:
    """What is called as soon as it is known that a step of this name will run; None where it has nothing to prepare."""
    return cast("Callable[[Step], None]", _load(PREPARATIONS[name])) if name in PREPARATIONS else None


def _load(reference: str) -> object:
    module, _, attribute = reference.partition(":")
    return cast("object", getattr(import_module(module), attribute))
