"""Which parameters share a learning rate and a weight decay. Read from names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch.nn import Parameter

from rayml.ml.names import require_matching

Named = Sequence[tuple[str, Parameter]]

VECTOR = 1
"""Dimensions of a bias or of a norm's scale, at most."""


@dataclass
class Group:
    """Parameters that are treated alike."""

    lr_factor: float
    """Times the learning rate of the optimizer."""
    weight_decay: float
    exempt: bool
    """Whether `no_decay` names them."""
    names: list[str] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)


def parameter_groups(config: dict[str, Any], named_parameters: Iterable[tuple[str, Parameter]]) -> list[Group]:
    """Every trained parameter in exactly one group, in the order of their first parameters.

    Args:
        config: an `optimizer` section with `weight_decay`, `no_decay`, `lr_by` and `layer_decay`.
        named_parameters: all of the model, frozen ones too: a layer's depth does not change when it is frozen. One that
            has two names counts under the first.

    Raises:
        StageError: a pattern matches no parameter.
    """
    first: dict[int, tuple[str, Parameter]] = {}
    for name, parameter in named_parameters:
        first.setdefault(id(parameter), (name, parameter))
    named = list(first.values())
    names = [name for name, _ in named]
    no_decay = () if config["no_decay"] == "vectors" else config["no_decay"]
    require_matches("no_decay", no_decay, names)
    require_matches("lr_by", [rule["match"] for rule in config["lr_by"]], names)
    depths = depths_from_output(named)
    groups: dict[tuple[float, bool], Group] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        is_vector = config["no_decay"] == "vectors" and parameter.ndim <= VECTOR
        exempt = is_vector or matches(name, no_decay)
        factor = next((rule["factor"] for rule in config["lr_by"] if fnmatchcase(name, rule["match"])), 1.0)
        factor *= config["layer_decay"] ** depths[name]
        decay = 0.0 if exempt else config["weight_decay"]
        group = groups.setdefault((factor, exempt), Group(factor, decay, exempt))
        group.names.append(name)
        group.parameters.append(parameter)
    return list(groups.values())


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether any pattern (`*`, `?`, `[ab]`) matches the whole name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def require_matches(field_name: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """StageError where a pattern of the `optimizer` section matches no name."""
    for pattern in patterns:
        require_matching(pattern, names, "parameter of the model", f"train.optimizer.{field_name}")


def depths_from_output(named: Named) -> dict[str, int]:
    """Name of each parameter to how many layers stand between it and the output.

    A layer is what a name says up to its first part that ends in a digit (`network.3`, `network.blocks.11`,
    `network.layer1`), or else the module. One that holds vectors only, such as the norm behind a convolution, belongs
    to the layer before it. Layers come in the order in which the model registers them.
    """
    layers: dict[str, int] = {}
    first_matrix = True
    for layer, is_matrix in _with_matrices(named).items():
        starts = is_matrix and not first_matrix
        first_matrix = first_matrix and not is_matrix
        layers[layer] = max(layers.values(), default=0) + starts
    last = max(layers.values(), default=0)
    return {name: last - layers[layer_of(name)] for name, _ in named}


def _with_matrices(named: Named) -> dict[str, bool]:
    """Each layer's name to whether one of its parameters has more than one dimension."""
    found: dict[str, bool] = {}
    for name, parameter in named:
        layer = layer_of(name)
        found[layer] = found.get(layer, False) or parameter.ndim > VECTOR
    return found


def layer_of(name: str) -> str:
    """`network.blocks.11` of `network.blocks.11.attention.weight`; `network.stem` of `network.stem.weight`."""
    parts = name.split(".")[:-1]
    end = next((number for number, part in enumerate(parts, start=1) if part[-1].isdigit()), len(parts))
    return ".".join(parts[:end])
