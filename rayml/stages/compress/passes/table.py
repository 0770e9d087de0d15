"""The passes by kind. Nothing is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from rayml.stages.compress.api import Pass

PASSES = {
    "distill": "rayml.stages.compress.passes.distill:run",
    "prune": "rayml.stages.compress.passes.prune:run",
    "quantize": "rayml.stages.compress.passes.quantize:run",
    "factorize": "rayml.stages.compress.passes.factorize:run",
    "share": "rayml.stages.compress.passes.share:run",
    "optimize": "rayml.stages.compress.passes.optimize:run",
}


def load_pass(kind: str) -> Pass:
    """The function that runs a pass of this kind."""
    module, _, attribute = PASSES[kind].partition(":")
    return cast("Pass", getattr(import_module(module), attribute))
