"""Whether a model can be cut as `tensor_parallel` and `pipeline` cut it, from its section alone."""

from __future__ import annotations

from typing import Any

from rayml.errors import PlanError
from rayml.spec.model import RESNETS
from rayml.spec.words import count, listed

TRANSFORMER_LAYERS = {
    "network.blocks.*.attention.[qkv]": "colwise",
    "network.blocks.*.attention.o": "rowwise",
    "network.blocks.*.feed_forward.up": "colwise",
    "network.blocks.*.feed_forward.down": "rowwise",
}

MLP_STRIDE = 3
"""Places from one linear layer of an mlp to the next: ReLU and dropout stand between them. Place 0 flattens."""

WHOLE_TRANSFORMER_PARTS = 3
"""Parts with weights besides the blocks: tokens, norm, head."""


def resolve_parallel(config: dict[str, Any]) -> dict[str, Any]:
    """The strategy section of a train step without an `auto`. PlanError where the model does not fit it.

    Args:
        config: the step's configuration, with degrees that are numbers.
    """
    strategy, model = config["strategy"], config["model"]
    if strategy["kind"] == "tensor_parallel" and strategy["layers"] == "auto":
        strategy = {**strategy, "layers": auto_layers(model)}
        check_widths(strategy["tensor"], model)
    if strategy["kind"] == "pipeline":
        check_parts(strategy["stages"], model)
    return strategy  # type: ignore[no-any-return]


def auto_layers(model: dict[str, Any]) -> dict[str, str]:
    """Pattern of layer names to the side along which they are cut: in pairs, from the first layer on.

    The last layer of an odd number stays whole.
    """
    if model["kind"] == "transformer":
        return TRANSFORMER_LAYERS
    pairs = (len(model["hidden"]) + 1) // 2 if model["kind"] == "mlp" else 0
    if not pairs:
        raise PlanError(
            f"{model['kind']} has no pair of linear layers that follow each other",
            where="train.strategy.layers",
            hint="mlp with a hidden layer and transformer have them; name those of another model, as in "
            "{network.up: colwise, network.down: rowwise}",
        )
    return {f"network.{1 + MLP_STRIDE * place}": "rowwise" if place % 2 else "colwise" for place in range(2 * pairs)}


def check_widths(tensor: int, model: dict[str, Any]) -> None:
    """PlanError where units or attention heads cannot be dealt out evenly."""
    if model["kind"] == "transformer":
        widths = [("model.heads", model["heads"])]
    elif model["kind"] == "mlp":
        widths = [(f"model.hidden.{place}", units) for place, units in enumerate(model["hidden"])][::2]
    else:
        return
    for where, units in widths:
        if units % tensor:
            fits = [degree for degree in range(1, units + 1) if all(each % degree == 0 for _, each in widths)]
            raise PlanError(
                f"{units} = tensor {tensor} x {units / tensor:.10g}, and each part has whole ones",
                where=where,
                hint=f"train.strategy.tensor can be {listed(fits)}; or write a multiple of {tensor} here",
            )


def check_parts(stages: int, model: dict[str, Any]) -> None:
    """PlanError where there are more stages than parts with weights, or the order of the parts is not known."""
    if model["kind"] == "torchvision" and not model["name"].startswith(RESNETS):
        raise PlanError(
            f"{model['name']} has a forward pass of its own and cannot be cut into parts",
            where="model.name",
            hint="torchvision's ResNets, small_cnn, mlp and transformer can",
        )
    parts = {
        "mlp": len(model.get("hidden", ())) + 1,
        "small_cnn": 5,
        "transformer": model.get("depth", 0) + WHOLE_TRANSFORMER_PARTS,
    }.get(model["kind"])
    if parts is not None and stages > parts:
        raise PlanError(
            f"{stages} stages, and {model['kind']} has {count(parts, 'part')} with weights",
            where="train.strategy.stages",
            hint=f"write at most {parts} stages, or a deeper model",
        )
