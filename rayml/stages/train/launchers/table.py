"""The launchers by name. Nothing is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from rayml.plan.plan import Step
from rayml.stages.train.launchers.base import Launcher

LAUNCHERS = {
    "inline": "rayml.stages.train.launchers.inline:fit",
    "processes": "rayml.stages.train.launchers.processes:fit",
    "ray_train": "rayml.stages.train.launchers.ray_train:fit",
}

PREPARES = {"processes": "rayml.stages.train.launchers.processes:warm_up"}


def prepare(step: Step) -> None:
    """Let the step's launcher start what takes long to start."""
    if reference := PREPARES.get(step.policy["launcher"]):
        _load(reference)()


def load_launcher(name: str) -> Launcher:
    """The function that starts the ranks."""
    return cast("Launcher", _load(LAUNCHERS[name]))


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)
