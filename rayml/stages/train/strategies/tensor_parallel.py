"""`tensor_parallel`: pairs of linear layers in parts, one per rank (Megatron-LM, arXiv 1909.08053).

The first layer of a pair is cut by its outputs (colwise) and the second by its inputs (rowwise), so that each rank
computes a share of the units between them, and one all-reduce adds up what comes out. What stands between has to treat
each unit, or each attention head, alone. Everything else is whole on every rank.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.names import require_matching
from rayml.stages.train.placed import laid_out_like_all
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
        shared = SharedInput(mesh)
        for name, side in layers.items():
            layer = model.get_submodule(name)
            require_parts(name, layer, side, mesh.size())
            paired = is_paired(name, layers)
            if paired and side == "colwise":
                layer.register_forward_pre_hook(shared.give)
                layer.register_forward_hook(stream.enter)
            elif paired:
                layer.register_forward_pre_hook(shared.forget)
                layer.register_forward_pre_hook(stream.leave)
            # Every rank has built the same weights: it keeps its part, and nothing is sent.
            parallelize_module(layer, mesh, style_of(side, paired), src_data_rank=None)

    def share_gradients(self) -> None:
        assert self.mesh is not None, "prepare comes first"
        if self.data_size > 1:
            sum_gradients(self.trained, self.mesh.get_group("data"))

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(laid_out_like_all(self.model.state_dict(), weights))


class SharedInput:
    """Hooks that let layers which read the same tensor, as q, k and v do, send one gradient for it and not one each."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self._mesh = mesh
        self._seen: Tensor | None = None
        self._given: Tensor | None = None

    def give(self, layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor | None]:
        """Forward pre-hook of a colwise layer: what it gets in place of a plain tensor."""
        if inputs[0] is not self._seen:
            self._seen = inputs[0]
            self._given = DTensor.from_local(inputs[0], self._mesh, (Replicate(),), run_check=False)
        return (self._given,)

    def forget(self, layer: nn.Module, inputs: Any) -> None:
        """Forward pre-hook of the rowwise layer behind them: nothing may keep the activations alive."""
        self._seen = self._given = None


def style_of(side: str, paired: bool) -> ParallelStyle:
    """How torch cuts a layer. One without a counterpart takes or leaves whole units."""
    units = Shard(-1) if paired else Replicate()
    return ColwiseParallel(output_layouts=units) if side == "colwise" else RowwiseParallel(input_layouts=units)


def chosen_layers(model: nn.Module, patterns: dict[str, str]) -> dict[str, str]:
    """Name of each linear layer that is cut to `colwise` or `rowwise`, in the order in which the model has them."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    sides: dict[str, str] = {}
    for pattern, side in patterns.items():
        for name in require_matching(pattern, names, "linear layer of the model", WHERE):
            if sides.setdefault(name, side) != side:
                what = f"`{name}` is to be cut {sides[name]} and {side}"
                raise StageError(what, where=WHERE, hint="leave one of the two out")
    return {name: sides[name] for name in names if name in sides}


def is_paired(name: str, layers: dict[str, str]) -> bool:
    """Whether the units stay in parts on the way from a colwise layer to the rowwise one that follows it.

    What a colwise layer makes is put together again where no rowwise one follows; a rowwise one without a colwise one
    right before it takes its part of the whole.
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
