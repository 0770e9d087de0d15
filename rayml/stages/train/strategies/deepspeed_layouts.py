"""Which layout a DeepSpeed engine has, and the shapes of parameters that it has emptied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from rayml.stages.train.strategies.deepspeed_disk import OnDisk
from rayml.stages.train.strategies.deepspeed_shards import Flat, Parts
from rayml.stages.train.strategies.deepspeed_state import Layout


def layout_of(stage: int, engine: Any, trained: dict[str, nn.Parameter]) -> Layout:
    """How this stage of ZeRO keeps the trained parameters."""
    kinds: tuple[type[Layout], ...] = (Layout, Flat, Flat, Parts)
    on_disk = stage == 3 and (engine.optimizer.swap_optimizer or engine.optimizer.params_in_nvme_and_cpu)
    return (OnDisk if on_disk else kinds[stage])(engine, trained)


@contextmanager
def in_full_shape(model: nn.Module) -> Iterator[None]:
    """Parameters that stage 3 has emptied with their shapes, and no values: an optimizer's groups go by shapes."""
    emptied: list[Any] = [each for each in model.parameters() if each.shape != getattr(each, "ds_shape", each.shape)]
    kept = [each.data for each in emptied]
    for each in emptied:
        each.data = each.data.new_empty(1).expand(each.ds_shape)
    try:
        yield
    finally:
        for each, data in zip(emptied, kept, strict=True):
            each.data = data
