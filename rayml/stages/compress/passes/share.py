"""`share`: blocks of the same shape become one that runs as often (Lan et al., arXiv 1909.11942)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.surgery import share, sizes
from rayml.spec.words import listed
from rayml.stages.compress.api import Made, Work
from rayml.stages.compress.finetuning import training

WHERE = "compress.ladder"
SHOWN = 8
"""Blocks that a message names."""


def run(work: Work) -> Made:
    """Share the weights of blocks that follow each other, at first their mean. StageError where no two are alike."""
    config = work.config
    network = work.parent.network(work.schema, work.code)
    groups = [group for row in alike(network) for group in chunks(row, config["every"])]
    if not groups:
        raise StageError(
            f"no {config['every']} blocks that follow each other are alike, so none can share weights{there(network)}",
            where=WHERE,
            hint="transformers and the deeper ResNets have such blocks; use `distill` or `prune` for this network",
        )
    before = sum(each.numel() for each in network.parameters())
    for group in groups:
        take_mean([network.get_submodule(name) for name in group])
    edit = {"kind": "shared", "groups": groups}
    share(network, edit)
    weights: dict[str, Tensor] = dict(network.state_dict())
    parent = work.parent.config
    model = {**parent, "surgery": [*parent.get("surgery", []), edit]}
    after = sum(each.numel() for each in network.parameters())
    if config["finetune"]["epochs"]:
        weights = work.train(model, weights, training(config))
    return Made(
        config=model, weights=weights, facts={"groups": groups, "parameters": {"before": before, "after": after}}
    )


def there(network: Classifier) -> str:
    """The blocks that follow each other in the network, for the message that says that they are not alike."""
    rows = [
        [f"{name}.{child} ({type(block).__name__})" for child, block in parent.named_children() if shape_of(block)]
        for name, parent in network.named_modules()
        if isinstance(parent, nn.Sequential | nn.ModuleList)
    ]
    named = [name for row in rows for name in row][:SHOWN]
    return f"; there are {listed(named, 'and')}" if named else "; there are no blocks in it"


def alike(network: Classifier) -> list[list[str]]:
    """Names of blocks with parts of their own that follow each other and have the same class and shapes."""
    rows = []
    for name, parent in network.named_modules():
        if not isinstance(parent, nn.Sequential | nn.ModuleList):
            continue
        row: list[str] = []
        known: object = None
        for child, block in parent.named_children():
            shape = shape_of(block)
            if shape is None or shape != known:
                rows.append(row)
                row = []
            known = shape
            if shape is not None:
                row.append(f"{name}.{child}")
        rows.append(row)
    found = [row for row in rows if len(row) > 1]
    taken = [name for row in found for name in row]
    # Blocks inside of blocks that are shared themselves: the outer ones are shared as they are.
    return [row for row in found if not any(row[0].startswith(f"{name}.") for name in taken)]


def shape_of(block: nn.Module) -> object:
    """What two blocks have to have in common; None for one that has no parts, or no weights."""
    shapes = tuple((name, tuple(each.shape)) for name, each in block.state_dict().items())
    has_parts = any(True for _ in block.children())
    # Strides and dilations too: two blocks may hold equal weights and compute different things.
    settings = [(name, type(each).__name__, sizes(each)) for name, each in block.named_modules()]
    return (type(block).__name__, shapes, repr(settings)) if has_parts and shapes else None


def chunks(row: list[str], every: int) -> list[list[str]]:
    """Groups of so many names; what is left over stays as it is."""
    return [row[start : start + every] for start in range(0, len(row) - every + 1, every)]


@torch.no_grad()
def take_mean(blocks: list[nn.Module]) -> None:
    """Give the first block the mean of all."""
    states = [block.state_dict() for block in blocks]
    for name, tensor in states[0].items():
        if tensor.is_floating_point():
            tensor.copy_(torch.stack([state[name] for state in states]).mean(0))
