"""`tensor_parallel`: pairs of linear layers in parts, one per rank (Megatron-LM, arXiv 1909.08053).

The first layer of a pair is cut by its outputs (colwise) and the second by its inputs (rowwise), so that each rank
computes a share of the units between them, and one all-reduce adds up what comes out. What stands between has to treat
each unit, or each attention head, alone. Everything else is whole on every rank.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.names import require_matching
from rayml.stages.train.placed import laid_out_like
from rayml.stages.train.strategies.base import Seat
from rayml.stages.train.strategies.eager import Eager
from rayml.stages.train.strategies.replicas import sum_gradients
from rayml.stages.train.strategies.streams import OwnStream

WHERE = "train.strategy.layers"


class TensorParallel(Eager):
    """torch's `parallelize_module` inside a copy of the model; the copies add up their gradients once per step."""

    sharded = True
    gradients_are_means = False

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        super().__init__(config, seat)
        self.data_rank, self.part = divmod(seat.rank, config["tensor"])
        self.data_size = config["data"]
        self.counts = self.part == 0
        self.mesh: DeviceMesh | None = None

    def wrap(self, model: Classifier) -> nn.Module:
        if self.mesh is None:
            degrees = (self.config["data"], self.config["tensor"])
            self.mesh = init_device_mesh(self.seat.device.type, degrees, mesh_dim_names=("data", "tensor"))
            model.to(self.seat.device)
            self.cut(model, self.mesh["tensor"])
        return model

    def cut(self, model: Classifier, mesh: DeviceMesh) -> None:
        """Leave this rank its part of each layer that `layers` names."""
        layers = chosen_layers(model, self.config["layers"])
        stream = OwnStream(self.seat.device, self.part)
        for name, side in layers.items():
            layer = model.get_submodule(name)
            require_parts(name, layer, side, mesh.size())
            paired = is_paired(name, layers)
            style: ParallelStyle
            if side == "colwise":
                style = ColwiseParallel(output_layouts=Shard(-1) if paired else Replicate())
            else:
                style = RowwiseParallel(input_layouts=Shard(-1) if paired else Replicate())
            # Every rank has built the same weights: it keeps its part, and nothing is sent.
            parallelize_module(layer, mesh, style, src_data_rank=None)
            if paired and side == "colwise":
                layer.register_forward_hook(stream.enter)
            elif paired:
                layer.register_forward_pre_hook(stream.leave)

    def share_gradients(self) -> None:
        assert self.mesh is not None, "prepare comes first"
        if self.data_size > 1:
            sum_gradients(self.trained, self.mesh.get_group("data"))

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        own = self.model.state_dict()
        parts = {name: laid_out_like(own[name], each) if name in own else each for name, each in weights.items()}
        self.model.load_state_dict(parts)


def chosen_layers(model: nn.Module, patterns: dict[str, str]) -> dict[str, str]:
    """Name of each linear layer that is cut to `colwise` or `rowwise`, in the order in which the model has them."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    sides: dict[str, str] = {}
    for pattern, side in patterns.items():
        for name in require_matching(pattern, names, "linear layer of the model", WHERE):
            if sides.setdefault(name, side) != side:
                raise StageError(f"`{name}` is to be cut {sides[name]} and {side}", where=WHERE, hint="leave one of the two out")
    return {name: sides[name] for name in names if name in sides}


def is_paired(name: str, layers: dict[str, str]) -> bool:
    """Whether what comes out of a colwise layer goes into a rowwise one in parts, or the other way round.

    It does where the next layer that is cut otherwise, after a colwise one, or the one before a rowwise one, is there.
    """
    names = list(layers)
    position = names.index(name)
    if layers[name] == "colwise":
        return "rowwise" in [layers[each] for each in names[position:]]
    return position > 0 and layers[names[position - 1]] == "colwise"


def require_parts(name: str, layer: nn.Module, side: str, parts: int) -> None:
    """StageError where the units of a layer cannot be dealt out evenly."""
    assert isinstance(layer, nn.Linear), "only linear layers were matched"
    units = layer.out_features if side == "colwise" else layer.in_features
    if units % parts:
        raise StageError(
            f"{units} {'outputs' if side == 'colwise' else 'inputs'} of `{name}` do not divide by tensor {parts}",
            where="train.strategy.tensor",
            hint="change the width of the layer, or train.strategy.tensor",
        )
