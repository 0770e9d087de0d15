"""The optimizers by name, and their state by the names of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adafactor, Adam, AdamW, Muon, Optimizer

from rayml.errors import StageError
from rayml.spec.optimizer import NEEDS_WHOLE
from rayml.spec.words import count, nearest
from rayml.stages.train.groups import Group, matches, parameter_groups, require_matches
from rayml.stages.train.placed import any_sharded, by_kind, laid_out_like
from rayml.stages.train.rules import Lamb, Lars, Lion

Groups = list[dict[str, Any]]

BY_PARAMETER = ("kind", "no_decay", "lr_by", "layer_decay")
"""Fields of every `optimizer` section that the groups have taken up."""

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
MATRIX = 2
EMBEDDINGS = ("*embed*",)
STEP = "step"
FACTORS = ("row_var", "col_var")
"""Adafactor's: one row and one column in place of a matrix."""


def build_optimizer(
    config: dict[str, Any], named_parameters: Iterable[tuple[str, Parameter]], fused: bool = True
) -> Optimizer:
    """The optimizer of an `optimizer` section. Each of its groups has `names` and `base_lr`, its lr at factor 1.

    Args:
        named_parameters: all of the model by their names in it; the frozen ones are left out here.
        fused: one kernel for all parameters of a group where torch has it: 0.07 to 0.10 ms instead of 0.28 ms per AdamW
            step of the small CNN on a CPU.

    Raises:
        StageError: a pattern matches no parameter, nothing is trained, or the optimizer needs whole parameters.
    """
    kind = config["kind"]
    named = list(named_parameters)
    groups = torch_groups(parameter_groups(config, named), config["lr"])
    parameters = [parameter for group in groups for parameter in group["params"]]
    if not parameters:
        raise StageError("every parameter of the model is frozen", where="train", hint="leave some to be trained")
    if kind in NEEDS_WHOLE and any_sharded(parameters):
        raise StageError(
            f"{kind} needs whole parameters, and they are sharded",
            where="train.optimizer",
            hint="write strategy: {kind: ddp}, or another optimizer, such as adamw",
        )
    fused = fused and all(each.is_floating_point() and each.device.type in FUSED_DEVICES for each in parameters)
    if kind == "muon":
        return build_muon(config, groups, fused, hidden_matrices(config, named))
    return BUILDERS[kind](config, groups, fused)


def torch_groups(groups: Sequence[Group], lr: float) -> Groups:
    """As torch.optim takes them; parameters sharded over one mesh apart from others, since no call takes both."""
    return [
        {
            "params": [group.parameters[position] for position in positions],
            "names": [group.names[position] for position in positions],
            "lr": lr * group.lr_factor,
            "base_lr": lr * group.lr_factor,
            "weight_decay": group.weight_decay,
            "exempt": group.exempt,
        }
        for group in groups
        for positions in by_kind(group.parameters)
    ]


def build_sgd(config: dict[str, Any], groups: Groups, fused: bool) -> Optimizer:
    # torch 2.14 has no sharded form of the fused SGD kernel (aten._fused_sgd_).
    sharded = any_sharded(parameter for group in groups for parameter in group["params"])
    how = {"foreach": True} if sharded or not fused else {"fused": True}
    return SGD(groups, **how, **settings(config))


def build_adam(config: dict[str, Any], groups: Groups, fused: bool) -> Optimizer:
    make: Callable[..., Optimizer] = {"adam": Adam, "adamw": AdamW}[config["kind"]]
    return make(groups, fused=fused, **settings(config))


def build_adafactor(config: dict[str, Any], groups: Groups, fused: bool) -> Optimizer:
    known = settings(config)
    return Adafactor(groups, d=known.pop("clip"), **known)


def build_rule(config: dict[str, Any], groups: Groups, fused: bool) -> Optimizer:
    rule: Callable[..., Optimizer] = {"lamb": Lamb, "lars": Lars, "lion": Lion}[config["kind"]]
    return rule(groups, **settings(config))


def hidden_matrices(config: dict[str, Any], named: Sequence[tuple[str, Parameter]]) -> set[str]:
    """Names of the parameters that Muon trains, of all in the order of the model. StageError where there is none."""
    matrices = [name for name, parameter in named if parameter.ndim == MATRIX]
    if config["not_on"] == "ends":
        left_out = {*matrices[-1:], *(name for name in matrices if matches(name, EMBEDDINGS))}
    else:
        require_matches("not_on", config["not_on"], [name for name, _ in named])
        left_out = {name for name in matrices if matches(name, config["not_on"])}
    hidden = {name for name, parameter in named if parameter.requires_grad and name in matrices} - left_out
    if not hidden:
        raise StageError(
            f"muon trains the matrices of hidden layers, and none of {count(len(named), 'parameter')} is one",
            where="train.optimizer",
            hint="write adamw, or say in `not_on` which matrices muon leaves to it",
        )
    return hidden


def build_muon(config: dict[str, Any], groups: Groups, fused: bool, hidden: set[str]) -> Optimizer:
    """Muon for the `hidden` parameters and AdamW for the rest, as one optimizer."""
    muon = Muon(
        [part_of(group, hidden) for group in groups if hidden & set(group["names"])],
        momentum=config["momentum"],
        nesterov=config["nesterov"],
        ns_steps=config["iterations"],
        adjust_lr_fn=config["scale"],
    )
    others = []
    for group in groups:
        if set(group["names"]) - hidden:
            lr = config["adamw_lr"] * group["base_lr"] / config["lr"]
            decay = 0.0 if group["exempt"] else config["adamw_weight_decay"]
            changes = {"lr": lr, "base_lr": lr, "weight_decay": decay}
            others.append({**part_of(group, set(group["names"]) - hidden), **changes})
    return Together([muon, AdamW(others, fused=fused, betas=tuple(config["adamw_betas"]))] if others else [muon])


def part_of(group: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The group with some of its parameters."""
    kept = [(name, each) for name, each in zip(group["names"], group["params"], strict=True) if name in names]
    return {**group, "names": [name for name, _ in kept], "params": [each for _, each in kept]}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """What is left for the class of the optimizer."""
    known = {key: value for key, value in config.items() if key not in BY_PARAMETER}
    return {**known, "betas": tuple(known["betas"])} if "betas" in known else known


BUILDERS: dict[str, Callable[[dict[str, Any], Groups, bool], Optimizer]] = {
    "sgd": build_sgd,
    "adam": build_adam,
    "adamw": build_adam,
    "adafactor": build_adafactor,
    "lamb": build_rule,
    "lars": build_rule,
    "lion": build_rule,
}


class Together(Optimizer):
    """Several optimizers as one. They share its groups, so a learning rate set here counts there, and its state."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss


def named_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """`<parameter name>.<slot>` to tensor, the step counts too. The tensors are the optimizer's own, not copies."""
    tensors: dict[str, Tensor] = {}
    for name, parameter, _ in named_parameters_of(optimizer):
        for slot, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                assert isinstance(value, Tensor), (
                    f"the state {slot} of {name} is a {type(value).__name__}, not a tensor"
                )
                tensors[f"{name}.{slot}"] = value
    return tensors


def load_named_state(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put what `named_state` gave into an optimizer of the same parameters, in any order and any groups.

    A parameter of which nothing was saved starts anew. Whole tensors for sharded parameters have to be the same on
    every rank.

    Raises:
        StageError: the tensors are of another model.
    """
    known = {name: (parameter, group) for name, parameter, group in named_parameters_of(optimizer)}
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition(".")
        if name not in known:
            near = nearest(name, known)
            raise StageError(
                f"the optimizer's state has {key!r}, and the model trains no {name!r}"
                + (f"; the nearest is {near!r}" if near else ""),
                where="train",
                hint="it belongs to another model, or to one with other frozen parameters",
            )
        parameter, group = known[name]
        optimizer.state[parameter][slot] = placed_slot(key, slot, tensor, parameter, bool(group.get("fused")))


def placed_slot(key: str, slot: str, tensor: Tensor, parameter: Tensor, fused: bool) -> Tensor:
    """A copy of a slot's tensor, where the optimizer would have made it."""
    if slot == STEP:
        return tensor.detach().to(parameter.device if fused else "cpu", copy=True)
    if tensor.shape == parameter.shape:
        return laid_out_like(parameter, tensor)
    if slot in FACTORS and tensor.ndim == parameter.ndim:
        return tensor.detach().to(parameter.device, copy=True)
    raise StageError(
        f"the optimizer's state {key!r} has the shape {list(tensor.shape)}, and the parameter {list(parameter.shape)}",
        where="train",
        hint="it belongs to another model",
    )


def named_parameters_of(optimizer: Optimizer) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """Name, parameter and group of everything that an optimizer trains."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            yield name, parameter, group


def of_trained(slots: Mapping[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
    """The slots of the parameters that an optimizer has: others may have been frozen since they were saved."""
    names = {name for group in optimizer.param_groups for name in group["names"]}
    return {slot: tensor for slot, tensor in slots.items() if slot.rpartition(".")[0] in names}
