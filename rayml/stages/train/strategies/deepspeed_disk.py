"""ZeRO-Infinity (arXiv 2104.07857): optimizer state and weights that lie on a disk between uses.

DeepSpeed swaps tensors of 1 MiB and more; what is smaller stays in memory. It does not look at what became of a read or
a write, so the plan lets each weight be a group, which is aligned, and all room is taken once before the training.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from math import ceil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayml.errors import StageError
from rayml.stages.train.strategies.deepspeed_shards import Parts
from rayml.stages.train.strategies.swap_folder import room_for, take_folder

SWAPPED_BYTES = 2**20
"""What is smaller DeepSpeed leaves in memory, or smaller than `aio.block_size`."""
TENSORS = {"offload_optimizer": 4, "offload_param": 1}
"""How many of a weight's size lie there at most: weight, gradient and two of state; the weight that computes."""
BUFFERS = 5
"""`offload_param.buffer_count` where the document does not name it."""


def use_disk(document: dict[str, Any], model: nn.Module, ranks: int) -> dict[str, Any]:
    """The document for this rank: a folder of its own in each `nvme_path`, and buffers in which the weights fit.

    As it is where nothing lies on a disk. StageError where this node has no compiler, library or folder for it.
    """
    found = deepcopy(document)
    zero = found["zero_optimization"]
    sections = [zero[name] for name in ("offload_optimizer", "offload_param") if is_on_disk(zero, name)]
    if not sections:
        return document
    require_disk_access()
    folders = {path: str(take_folder(Path(path))) for path in sorted({each["nvme_path"] for each in sections})}
    for section in sections:
        section["nvme_path"] = folders[section["nvme_path"]]
    if is_on_disk(zero, "offload_param"):
        fit_buffers(zero["offload_param"], model, ranks)
    reserve(zero, model, ranks)
    return found


def reserve(zero: Mapping[str, Any], model: nn.Module, ranks: int) -> None:
    """See that all ranks together have room. StageError where they have not."""
    elements = sum(ceil(each.numel() / ranks) for each in model.parameters())
    sizes: Counter[str] = Counter()
    for name, tensors in TENSORS.items():
        if is_on_disk(zero, name):
            sizes[zero[name]["nvme_path"]] += elements * tensors * torch.float32.itemsize
    with ExitStack() as stack:
        for folder, size in sizes.items():
            stack.enter_context(room_for(Path(folder), size))
        dist.barrier()


def is_on_disk(zero: Mapping[str, Any], name: str) -> bool:
    return bool(zero.get(name, {}).get("device") == "nvme")


def require_disk_access() -> None:
    """Load DeepSpeed's async_io, which is compiled at the first start on a node: 1 to 5 minutes.

    StageError with what is missing. The first rank of a node compiles, the others wait for it.
    """
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if shutil.which("ninja") is None:
        # It comes with DeepSpeed, and lies beside this Python, which may have been started by its path.
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
    builder = AsyncIOBuilder()
    try:
        builder.load(verbose=False)
    except Exception as error:
        what, hint = lacking(builder) or (
            f"{type(error).__name__}: {error}",
            "type ds_report there, which says what DeepSpeed has found, or write offload: cpu",
        )
        raise StageError(
            f"DeepSpeed's async_io cannot be built on {os.uname().nodename}: {what}",
            where="train.strategy.offload",
            hint=hint,
        ) from error


def lacking(builder: Any) -> tuple[str, str] | None:
    """What this node does not have, and what to type. None where everything is there."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return "there is no C++ compiler", "type apt-get install g++ (dnf install gcc-c++) on every node"
    if shutil.which("ninja") is None:
        return "there is no ninja", "type pip install ninja on every node"
    if not builder.is_compatible(verbose=False):
        return (
            "libaio is not there, or without its header",
            "type apt-get install libaio-dev (dnf install libaio-devel) on every node; where it lies elsewhere let "
            "CFLAGS and LDFLAGS say so",
        )
    return None


def fit_buffers(section: dict[str, Any], model: nn.Module, ranks: int) -> None:
    """Buffers as large as the largest part of a weight where the document does not say. StageError where it says less,
    and where a module needs more of them at once than there are."""
    parts = {name: ceil(each.numel() / ranks) for name, each in model.named_parameters()}
    largest = max(parts, key=lambda name: parts[name])
    said = section.setdefault("buffer_size", parts[largest])
    where = "train.strategy, zero_optimization.offload_param"
    if said < parts[largest]:
        raise StageError(
            f"buffers of {said:,} elements, and a worker's part of {largest} has {parts[largest]:,}",
            where=f"{where}.buffer_size",
            hint=f'write {parts[largest]}, or "auto"',
        )
    for name, module in model.named_modules():
        own = [each for each in module.parameters(recurse=False) if ceil(each.nbytes / ranks) >= SWAPPED_BYTES]
        if len(own) > section.get("buffer_count", BUFFERS):
            raise StageError(
                f"{section.get('buffer_count', BUFFERS)} buffers, and {name} computes with {len(own)} large weights",
                where=f"{where}.buffer_count",
                hint=f"write {len(own)} or more",
            )


class OnDisk(Parts):
    """Stage 3 with something on a disk. The optimizer's tensors are fetched by groups, each once while it is in use."""

    held: int | None = None
    """The group that lies in the buffers, of which there are enough for one."""
    changed = False

    def weights(self, model: nn.Module, keeps: bool) -> dict[str, Tensor]:
        with self.swapping():
            return super().weights(model, keeps)

    def slots(self, keeps: bool) -> dict[str, Tensor]:
        with self.swapping():
            return super().slots(keeps)

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        with self.swapping():
            super().load_weights(model, weights)

    def load_slots(self, slots: Mapping[str, Tensor]) -> None:
        """All slots of a parameter before those of the next: DeepSpeed swaps what is there when it first writes."""
        order = {name: number for number, name in enumerate(self.trained)}
        keys = sorted(slots, key=lambda key: order.get(key.rpartition(".")[0], -1))
        with self.swapping():
            super().load_slots({key: slots[key] for key in keys})

    @contextmanager
    def swapping(self) -> Iterator[None]:
        yield
        self.release()

    def flat(self, name: str) -> Tensor:
        position, _, _ = self.place(name)
        found: Tensor = self.optimizer.fp32_partitioned_groups_flat[position]
        if position != self.held and self.optimizer._swappable_optimizer_subgroup(position):
            self.release()
            self.optimizer.optimizer_swapper.swap_in_optimizer_state(parameter=found, async_parameter=None)
            self.held = position
        return found

    def release(self) -> None:
        """Give the buffers back, after what was written into them is on the disk."""
        if self.held is None:
            return
        flat = self.optimizer.fp32_partitioned_groups_flat[self.held]
        if self.changed:
            self.optimizer.optimizer_swapper.swap_out_optimizer_state(parameter=flat, async_swap=False)
        else:
            self.optimizer.optimizer_swapper.release_swap_buffers(parameter=flat)
        flat.grad = None
        self.held, self.changed = None, False

    def place(self, name: str) -> tuple[int, int, int]:
        """Group, first element and number of elements of this rank's part of a parameter."""
        position, start, rows = self.optimizer.grad_position[self.optimizer.get_param_id(self.trained[name])]
        return position, start, rows

    def part(self, name: str, slot: str | None) -> Tensor:
        flat = self.flat(name)
        _, start, rows = self.place(name)
        return (flat.data if slot is None else self.inner.state[flat][slot]).narrow(0, start, rows)

    def read(self, name: str, slot: str | None) -> Tensor:
        parameter: Any = self.trained[name]
        mine = self.part(name, slot).to(parameter.device)
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine)
        return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)

    def put(self, name: str, slot: str | None, mine: Tensor) -> None:
        self.part(name, slot).copy_(mine)
        self.changed = True
