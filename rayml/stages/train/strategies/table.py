"""The strategies by name. Nothing is imported before it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rayml.stages.train.strategies.base import Seat, Strategy

STRATEGIES = {
    "local": "rayml.stages.train.strategies.local:Local",
    "ddp": "rayml.stages.train.strategies.ddp:Ddp",
    "fsdp": "rayml.stages.train.strategies.fsdp:Fsdp",
    "deepspeed": "rayml.stages.train.strategies.deepspeed:DeepSpeed",
    "tensor_parallel": "rayml.stages.train.strategies.tensor_parallel:TensorParallel",
    "pipeline": "rayml.stages.train.strategies.pipeline:Pipeline",
    "parameter_server": "rayml.stages.train.strategies.parameter_server:ParameterServer",
}


def build_strategy(config: dict[str, Any], seat: Seat) -> Strategy:
    """The strategy of a `strategy` section, for one rank."""
    module, _, attribute = STRATEGIES[config["kind"]].partition(":")
    strategy: Strategy = getattr(import_module(module), attribute)(config, seat)
    return strategy
