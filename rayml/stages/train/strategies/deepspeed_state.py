"""A DeepSpeed engine's weights and optimizer state, whole and by the model's names, whatever ZeRO has made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rayml.errors import StageError
from rayml.stages.train.optimizers import load_named_state, named_state, of_trained

Groups = list[dict[str, Any]]

STEP = ".step"


def split_by_step(groups: Groups, steps: Mapping[str, float]) -> Groups:
    """The groups, each cut by how many steps its parameters have taken: one that was frozen until now starts at 0."""
    found: Groups = []
    for group in groups:
        parts: dict[float, dict[str, Any]] = {}
        for name, parameter in zip(group["names"], group["params"], strict=True):
            part = parts.setdefault(steps.get(name, 0.0), {**group, "names": [], "params": []})
            part["names"].append(name)
            part["params"].append(parameter)
        found.extend(parts.values())
    return found


def steps_taken(slots: Mapping[str, Tensor]) -> dict[str, float]:
    """Parameter name to its count of steps, where the optimizer counts them."""
    return {key.removesuffix(STEP): float(value) for key, value in slots.items() if key.endswith(STEP)}


class Layout:
    """Stage 0: every rank holds everything, in float32.

    Every rank calls the same methods in the same order. Loaded tensors are whole, on the CPU, and the same everywhere.
    """

    def __init__(self, engine: Any, trained: dict[str, nn.Parameter]) -> None:
        self.engine, self.trained = engine, trained
        self.optimizer, self.inner = engine.optimizer, engine.basic_optimizer

    def weights(self, model: nn.Module, keeps: bool) -> dict[str, Tensor]:
        """Parameters as float32 and buffers. Empty where not `keeps`: such a rank only takes part."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        names = {id(parameter): name for name, parameter in self.trained.items()}
        found = {}
        for name, tensor in model.state_dict().items():
            parameter = parameters.get(name)
            if parameter is None:
                value = tensor
            elif id(parameter) in names:
                value = self.read_weight(names[id(parameter)], parameter)
            else:
                value = self.read_frozen(parameter)
            if keeps:
                value = value.float() if parameter is not None else value
                found[name] = value.detach().cpu()
        return found

    def slots(self, keeps: bool) -> dict[str, Tensor]:
        """`<parameter>.<slot>` to the optimizer's tensors."""
        return named_state(self.inner) if keeps else {}

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """StageError where they are of another model."""
        parameters = dict(model.named_parameters())
        own = model.state_dict().keys()
        if odd := sorted(own ^ weights.keys()):
            raise StageError(f"the weights are of another model: {odd[0]!r} is not in both", where="train")
        for name, parameter in parameters.items():
            require_shape(name, parameter, weights[name])
            self.write_weight(name, parameter, weights[name])
        for name, buffer in model.named_buffers():
            if name in weights:
                buffer.copy_(weights[name])

    def load_slots(self, slots: Mapping[str, Tensor]) -> None:
        """Put in what is there of the trained parameters. StageError where a shape is another."""
        load_named_state(self.inner, of_trained(dict(slots), self.inner))

    def read_weight(self, name: str, parameter: nn.Parameter) -> Tensor:
        return parameter

    def read_frozen(self, parameter: nn.Parameter) -> Tensor:
        return parameter

    def write_weight(self, name: str, parameter: nn.Parameter, value: Tensor) -> None:
        parameter.data.copy_(value)


def require_shape(key: str, parameter: nn.Parameter, value: Tensor) -> None:
    """StageError where a loaded tensor is not of the parameter's shape, which stage 3 keeps beside its part."""
    shape = list(getattr(parameter, "ds_shape", parameter.shape))
    if list(value.shape) != shape:
        raise StageError(
            f"{key!r} has the shape {list(value.shape)}, and the model's is {shape}",
            where="train",
            hint="it belongs to another model",
        )
