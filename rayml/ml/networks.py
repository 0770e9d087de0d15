"""What strategies and fine-tuning ask about a network: its repeated blocks, its parts in order, its last layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import nn

from rayml.errors import StageError
from rayml.ml.models import Classifier

LIBRARIES = ("torch.nn.", "torchvision.ops.", "peft.")
"""A class from here is a layer, and not a block."""

RESNET = "torchvision.models.resnet"
"""The module of torchvision's ResNet and its blocks. It takes a second to import, and most networks are others."""

Parts = list[tuple[str, nn.Module]]
"""Modules in the order in which they run. The name is the prefix of the part's parameters in the whole model."""


def blocks(model: nn.Module) -> tuple[type[nn.Module], ...]:
    """The classes of the blocks that a network repeats: what is gathered at a time where weights are sharded, and
    computed again where activations are not kept.

    A class counts that has layers inside, is no layer or chain of torch, and occurs more than once. Of those that stand
    inside each other the outermost counts. Empty for a plain chain of layers, such as `mlp`.
    """
    counts = Counter(type(module) for module in model.modules() if may_be_block(module))
    repeated = {kind for kind, number in counts.items() if number > 1}
    return tuple(dict.fromkeys(type(module) for module in outermost(model, repeated)))


def may_be_block(module: nn.Module) -> bool:
    """Whether a module is a class of its own with layers inside."""
    is_own = not type(module).__module__.startswith(LIBRARIES) and not isinstance(module, nn.Sequential)
    return is_own and any(True for _ in module.children())


def outermost(model: nn.Module, kinds: set[type[nn.Module]]) -> Iterator[nn.Module]:
    """The modules of some classes that stand in no other module of these classes."""
    for child in model.children():
        if type(child) in kinds:
            yield child
        else:
            yield from outermost(child, kinds)


def sequential_parts(model: Classifier) -> Parts:
    """A model as parts that, run one after another, are its forward pass: `preprocess`, `resize`, `network.0`, ...

    Each part takes one tensor and makes one.

    Raises:
        StageError: the network has a forward pass of its own, so that its order is not known.
    """
    network = chain("network", model.network)
    if len(network) == 1:
        raise StageError(
            f"{type(model.network).__name__} has a forward pass of its own and cannot be cut into parts",
            where="model",
            hint="small_cnn, mlp, transformer, torchvision's ResNets and an nn.Sequential can",
        )
    return [("preprocess", model.preprocess), ("resize", model.resize), *network]


def chain(name: str, module: nn.Module) -> Parts:
    """The parts of a module; the module itself where its order is not known."""
    if type(module) is nn.Sequential:
        return [part for child, inner in module.named_children() for part in chain(f"{name}.{child}", inner)]
    return resnet_parts(name, module) if type(module).__module__ == RESNET else [(name, module)]


def resnet_parts(name: str, network: nn.Module) -> Parts:
    """torchvision's ResNet in the order of its forward pass, which flattens before the last layer.

    One of its blocks is one part.
    """
    if not hasattr(network, "fc"):
        return [(name, network)]
    *body, (head, linear) = network.named_children()
    parts = [part for child, inner in body for part in chain(f"{name}.{child}", inner)]
    return [*parts, (f"{name}.flatten", nn.Flatten()), (f"{name}.{head}", linear)]


def head_name(model: nn.Module) -> str:
    """The name of the last layer: of the last module that has parameters of its own, in the order of registration."""
    modules = list(model.named_modules())
    own: list[str] = [name for name, module in modules if any(True for _ in module.parameters(recurse=False))]
    assert own, "a model without a parameter is refused when it is built"
    return own[-1]
