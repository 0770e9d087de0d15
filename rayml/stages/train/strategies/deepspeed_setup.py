"""What has to be so before DeepSpeed builds its engine."""

from __future__ import annotations

import os
import warnings
from typing import Any

from torch import nn

from rayml.errors import StageError
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.strategies.eager import COMPUTED_IN


def import_deepspeed(seat: Seat) -> None:
    """Import the library without the things that it would compile for a training that does not use them."""
    os.environ.setdefault("DS_ACCELERATOR", seat.device.type)
    os.environ["LOCAL_RANK"] = str(seat.device.index or 0) if seat.device.type == "cuda" else str(seat.rank)
    try:
        import deepspeed.ops
    except ImportError as error:
        raise StageError(
            f"DeepSpeed cannot be imported: {error}",
            where="train.strategy",
            hint="type pip install 'rayml[deepspeed]' on every node",
        ) from error
    # Its all-reduce through shared memory serves inference alone, and takes a C++ compiler and 67 s at the first run.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    import_muon_as_it_is()
    # DeepSpeed 0.19 calls these at every step, and torch 2.14 writes a line for each call.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def import_muon_as_it_is() -> None:
    """Import DeepSpeed's Muon, which every training imports, without torch.compile: 2 to 4 s, and it is not called."""
    from deepspeed.runtime import compiler

    real = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    finally:
        compiler.compile = real


def cast_inputs(network: nn.Module, document: dict[str, Any]) -> None:
    """Bring what enters the network to the type of its weights, which DeepSpeed rounds under bf16 and fp16."""
    dtype = next((COMPUTED_IN[name] for name in ("bf16", "fp16") if document.get(name, {}).get("enabled")), None)
    if dtype is not None:
        network.register_forward_pre_hook(
            lambda _, inputs: tuple(each.to(dtype) if each.is_floating_point() else each for each in inputs)
        )
