"""The stages by name. Nothing is imported before it is used, so that a plan needs neither ray nor torch."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from rayml.stages.api import Stage

STAGES = {
    "data": "rayml.stages.data.stage:run",
    "train": "rayml.stages.train.stage:run",
    "export": "rayml.stages.export.stage:run",
    "evaluate": "rayml.stages.evaluate.stage:run",
    "serve": "rayml.stages.serve.stage:run",
}


def load_stage(name: str) -> Stage:
    """The function that runs a step of this name."""
    module, _, attribute = STAGES[name].partition(":")
    return cast("Stage", getattr(import_module(module), attribute))
