"""`factorize`: linear layers and convolutions become two thin ones, by the singular values of their weights.

A convolution becomes one with its kernel and few channels, and one of 1x1 (Zhang et al., arXiv 1505.06798).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.surgery import factorize
from rayml.stages.compress.api import Made, Work
from rayml.stages.compress.finetuning import named_layers, training

WHERE = "compress.ladder"


@dataclass(frozen=True)
class Thin:
    """A layer and the rank that it can be given."""

    name: str
    rank: int
    full: int
    before: int
    """Parameters of its weights."""
    after: int


def run(work: Work) -> Made:
    """Factorize every layer that becomes smaller by it. StageError where none does."""
    config = work.config
    network = work.parent.network(work.schema, work.code)
    kept = named_layers(network, config["keep"])
    found = [plan(name, layer, config) for name, layer in layers_of(network) if name not in kept]
    pays = [each for each in found if each.after < each.before]
    if not pays:
        raise nothing_pays(found)
    edit = {"kind": "factorized", "modules": {each.name: {"rank": each.rank} for each in pays}}
    halves = {each.name: split(network.get_submodule(each.name), each.rank) for each in pays}
    factorize(network, edit)
    for name, (first, second, bias) in halves.items():
        pair = network.get_submodule(name)
        with torch.no_grad():
            pair[0].weight.copy_(first)  # type: ignore[index]
            pair[1].weight.copy_(second)  # type: ignore[index]
            if bias is not None:
                pair[1].bias.copy_(bias)  # type: ignore[index]
    weights: dict[str, Tensor] = dict(network.state_dict())
    parent = work.parent.config
    model = {**parent, "surgery": [*parent.get("surgery", []), edit]}
    if config["finetune"]["epochs"]:
        weights = work.train(model, weights, training(config))
    layers = {each.name: {"rank": each.rank, "of": each.full} for each in pays}
    return Made(config=model, weights=weights, facts={"layers": layers})


def layers_of(network: Classifier) -> list[tuple[str, nn.Module]]:
    """Layers that can be factorized, by name. torch's own attention reads the weights of its layers itself."""
    attention = [each for each in network.modules() if isinstance(each, nn.MultiheadAttention)]
    inside = {id(layer) for each in attention for layer in each.modules()}
    return [
        (name, each)
        for name, each in network.named_modules()
        if (isinstance(each, nn.Linear) or (isinstance(each, nn.Conv2d) and each.groups == 1))
        and id(each) not in inside
    ]


def matrix(layer: nn.Module) -> Tensor:
    """The weights as `[outputs, inputs]` float32; of a convolution `[outputs, inputs x height x width]`."""
    weight = layer.weight
    assert isinstance(weight, Tensor), "a layer has weights"
    return weight.detach().flatten(1)


def plan(name: str, layer: nn.Module, config: dict[str, Any]) -> Thin:
    """The rank that the section gives a layer."""
    weights = matrix(layer)
    full = min(weights.shape)
    if config["rank"] is not None:
        rank = max(1, round(config["rank"] * full))
    else:
        squares = torch.linalg.svdvals(weights).square()
        shares = squares.cumsum(0) / squares.sum().clamp(min=1e-30)
        rank = min(full, int((shares < config["energy"]).sum()) + 1)
    return Thin(name, rank, full, weights.numel(), rank * sum(weights.shape))


def split(layer: nn.Module, rank: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights of the two thin layers whose product is nearest to the layer's own, and its bias."""
    u, s, v = torch.linalg.svd(matrix(layer), full_matrices=False)
    root = s[:rank].sqrt()
    first, second = root[:, None] * v[:rank], u[:, :rank] * root
    if isinstance(layer, nn.Conv2d):
        first = first.unflatten(1, layer.weight.shape[1:])
        second = second[:, :, None, None]
    bias = layer.bias
    return first, second, bias.detach() if isinstance(bias, Tensor) else None


def nothing_pays(found: list[Thin]) -> StageError:
    """Why no layer is factorized, with the one that comes nearest."""
    if not found:
        return StageError("no layer is left to factorize", where=WHERE, hint="write fewer patterns in `keep`")
    best = min(found, key=lambda each: each.after / each.before)
    largest = best.before // (best.after // best.rank)
    return StageError(
        f"no layer becomes smaller: `{best.name}` would have {best.after:,} weights at rank {best.rank} of {best.full},"
        f" and has {best.before:,}",
        where=WHERE,
        hint=f"below rank {largest} it pays: write a smaller `energy` or `rank`, or leave the pass out",
    )
