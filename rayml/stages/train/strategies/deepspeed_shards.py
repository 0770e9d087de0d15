"""ZeRO 1 to 3: an optimizer tensor is flat, holds parts of many parameters, and has one count of steps for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayml.stages.train.strategies.deepspeed_state import Layout, require_shape


class Sharded(Layout):
    """What the stages share in which an optimizer tensor is flat, and holds parts of many parameters."""

    def flat(self, name: str) -> Tensor:
        """The float32 tensor on this rank in which the parameter has its part."""
        raise NotImplementedError

    def read(self, name: str, slot: str | None) -> Tensor:
        """The whole of a parameter, or of its slot, in float32 on the device."""
        raise NotImplementedError

    def write(self, name: str, slot: str | None, value: Tensor) -> None:
        """Put this rank's part of a whole tensor where it belongs."""
        raise NotImplementedError

    def slots(self, keeps: bool) -> dict[str, Tensor]:
        found = {}
        for name in self.trained:
            for slot, tensor in self.inner.state.get(self.flat(name), {}).items():
                value = self.read(name, slot) if tensor.ndim else tensor
                if keeps:
                    found[f"{name}.{slot}"] = value.detach().to("cpu", copy=True)
        return found

    def load_slots(self, slots: Mapping[str, Tensor]) -> None:
        for key, value in slots.items():
            name, _, slot = key.rpartition(".")
            if name not in self.trained:
                # It was trained when the state was saved.
                continue
            flat = self.flat(name)
            state = self.inner.state[flat]
            if value.ndim == 0:
                state[slot] = value.detach().to(flat.device if self.fused(name) else "cpu", copy=True)
                continue
            require_shape(key, self.trained[name], value)
            if slot not in state:
                state[slot] = torch.zeros_like(flat, requires_grad=False)
            self.write(name, slot, value)

    def fused(self, name: str) -> bool:
        """Whether one kernel updates all, which wants the count of steps on the device."""
        return any(group.get("fused") for group in self.inner.param_groups if name in group["names"])


class Flat(Sharded):
    """Stages 1 and 2: whole weights, and of each group's float32 copy and optimizer state one part per rank."""

    def __init__(self, engine: Any, trained: dict[str, nn.Parameter]) -> None:
        super().__init__(engine, trained)
        groups: list[dict[str, Any]] = self.inner.param_groups
        self.flats: dict[str, Tensor] = {name: group["params"][0] for group in groups for name in group["names"]}

    def flat(self, name: str) -> Tensor:
        return self.flats[name]

    def read(self, name: str, slot: str | None) -> Tensor:
        parameter = self.trained[name]
        whole = torch.zeros(parameter.numel(), device=parameter.device)
        if (mine := self.mine(name, slot, whole)) is not None:
            mine[1].copy_(mine[0])
        dist.all_reduce(whole)
        return whole.view_as(parameter)

    def write(self, name: str, slot: str | None, value: Tensor) -> None:
        if (mine := self.mine(name, slot, value.reshape(-1))) is not None:
            mine[0].copy_(mine[1])

    def mine(self, name: str, slot: str | None, whole: Tensor) -> tuple[Tensor, Tensor] | None:
        """This rank's part as it lies in the flat tensor and as it lies in the whole one; None where it has none."""
        parameter: Any = self.trained[name]
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        flat = self.flats[name].data if slot is None else self.inner.state[self.flats[name]][slot]
        there, here = mapping.hp_fragment_address, mapping.lp_fragment_address
        return flat.narrow(0, there.start, there.numel), whole.narrow(0, here.start, here.numel)

    def read_weight(self, name: str, parameter: nn.Parameter) -> Tensor:
        return parameter if parameter.dtype == torch.float32 else self.read(name, None)

    def write_weight(self, name: str, parameter: nn.Parameter, value: Tensor) -> None:
        parameter.data.copy_(value)
        if name in self.trained:
            self.write(name, None, value)


class Parts(Sharded):
    """Stage 3: of every parameter, its float32 copy and its optimizer state one part per rank, filled up with 0."""

    def flat(self, name: str) -> Tensor:
        position, _, _ = self.optimizer.grad_position[self.optimizer.get_param_id(self.trained[name])]
        found: Tensor = self.optimizer.fp32_partitioned_groups_flat[position]
        return found

    def read(self, name: str, slot: str | None) -> Tensor:
        whole: Tensor = self.optimizer.get_full_hp_param(self.trained[name], slot)
        return whole

    def write(self, name: str, slot: str | None, value: Tensor) -> None:
        parameter: Any = self.trained[name]
        rows = parameter.ds_tensor.ds_numel
        filled = torch.zeros(rows * dist.get_world_size())
        filled[: value.numel()] = value.reshape(-1)
        self.put(name, slot, filled.narrow(0, rows * dist.get_rank(), rows))

    def put(self, name: str, slot: str | None, mine: Tensor) -> None:
        """Take over this rank's part."""
        self.optimizer.set_local_hp_param(mine, self.trained[name], slot)

    def read_weight(self, name: str, parameter: nn.Parameter) -> Tensor:
        return self.read(name, None)

    def read_frozen(self, parameter: nn.Parameter) -> Tensor:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            whole: Tensor = parameter.detach().clone()
        return whole

    def write_weight(self, name: str, parameter: nn.Parameter, value: Tensor) -> None:
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                parameter.data.copy_(value)
        if name in self.trained:
            self.write(name, None, value)
