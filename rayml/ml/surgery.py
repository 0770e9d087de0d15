"""What passes have changed in a network, as a list of edits in JSON: enough to build it again, and nothing unpickled.

A `model` section with `surgery` is built as its kind says, and then each edit is applied in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rayml.errors import StageError
from rayml.spec.words import nearest

WHERE = "model.surgery"
Edit = dict[str, Any]


def apply(model: nn.Module, edits: list[Edit]) -> None:
    """Change a network that was just built. StageError where an edit does not fit it."""
    for edit in edits:
        if edit.get("kind") not in EDITS:
            raise StageError(
                f"{edit.get('kind')!r} is no edit of a network", where=WHERE, hint=f"known: {sorted(EDITS)}"
            )
        EDITS[edit["kind"]](model, edit)


def find(model: nn.Module, name: str) -> nn.Module:
    """A module by its name. StageError where the network has none of that name."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        near = nearest(name, [each for each, _ in model.named_modules()])
        hint = f"did you mean `{near}`?" if near else "the weights are of another network"
        raise StageError(f"the network has no module `{name}`", where=WHERE, hint=hint) from None


def record_resized(before: nn.Module, after: nn.Module) -> Edit:
    """What pruning has changed: the sizes that modules know of themselves, and the shapes of their tensors."""
    modules = {}
    for (name, old), (_, new) in zip(before.named_modules(), after.named_modules(), strict=True):
        changed = {key: value for key, value in sizes(new).items() if sizes(old).get(key) != value}
        if changed:
            modules[name] = changed
    shapes = {name: tuple(tensor.shape) for name, tensor in before.state_dict().items()}
    tensors = {
        name: list(tensor.shape) for name, tensor in after.state_dict().items() if shapes[name] != tuple(tensor.shape)
    }
    return {"kind": "resized", "modules": modules, "tensors": tensors}


def sizes(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module that are whole numbers, or rows of them."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and not isinstance(value, bool)
        and (
            isinstance(value, int) or (isinstance(value, tuple) and value and all(type(each) is int for each in value))
        )
    }


def resize(model: nn.Module, edit: Edit) -> None:
    """Give modules their recorded sizes, and tensors their recorded shapes, without values that mean anything."""
    for name, changed in edit["modules"].items():
        module = find(model, name)
        for key, value in changed.items():
            if not hasattr(module, key):
                raise StageError(f"`{name}` has no `{key}`", where=WHERE, hint="the weights are of another network")
            setattr(module, key, tuple(value) if isinstance(value, list) else value)
    for name, shape in edit["tensors"].items():
        above, _, leaf = name.rpartition(".")
        module = find(model, above)
        old = getattr(module, leaf, None)
        if not isinstance(old, torch.Tensor):
            raise StageError(
                f"the network has no tensor `{name}`", where=WHERE, hint="the weights are of another network"
            )
        new = torch.zeros(shape, dtype=old.dtype, device=old.device)
        if isinstance(old, nn.Parameter):
            setattr(module, leaf, nn.Parameter(new, requires_grad=old.requires_grad))
        else:
            module.register_buffer(leaf, new, persistent=leaf not in module._non_persistent_buffers_set)


def factorize(model: nn.Module, edit: Edit) -> None:
    """Put two thin layers in the place of one."""
    for name, settings in edit["modules"].items():
        replace(model, name, thin(find(model, name), settings["rank"]))


def thin(layer: nn.Module, rank: int) -> nn.Sequential:
    """Two layers of a rank that take and give what one layer did. StageError for a layer of another kind."""
    if isinstance(layer, nn.Linear):
        has_bias = layer.bias is not None
        return nn.Sequential(
            nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=has_bias)
        )
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        return nn.Sequential(
            nn.Conv2d(
                layer.in_channels,
                rank,
                layer.kernel_size,  # type: ignore[arg-type]
                stride=layer.stride,  # type: ignore[arg-type]
                padding=layer.padding,  # type: ignore[arg-type]
                dilation=layer.dilation,  # type: ignore[arg-type]
                bias=False,
                padding_mode=layer.padding_mode,
            ),
            nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None),
        )
    what = f"a {type(layer).__name__} is not made of two thin layers"
    raise StageError(what, where=WHERE, hint="linear layers and convolutions without groups are")


class Repeated(nn.Module):
    """One block that runs several times, in the place of as many blocks."""

    def __init__(self, block: nn.Module, times: int) -> None:
        super().__init__()
        self.block = block
        self.times = times

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            values = self.block(values)
        return values


def share(model: nn.Module, edit: Edit) -> None:
    """Let the first block of each group run in the place of all of them."""
    for group in edit["groups"]:
        first = find(model, group[0])
        for name in group[1:]:
            replace(model, name, nn.Identity())
        replace(model, group[0], Repeated(first, len(group)))


def replace(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of the one that has a name."""
    find(model, name)
    above, _, leaf = name.rpartition(".")
    setattr(find(model, above), leaf, new)


EDITS: dict[str, Callable[[nn.Module, Edit], None]] = {
    "resized": resize,
    "factorized": factorize,
    "shared": share,
}
"""Kind of edit to what makes it."""
