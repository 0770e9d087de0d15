"""`prune`: channels, units and heads are taken out of the network, or single weights set to 0 in place."""

from __future__ import annotations

import copy
import gzip
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.networks import head_name
from rayml.ml.shards import ShardSet
from rayml.ml.surgery import record_resized
from rayml.ml.usercode import own_line
from rayml.stages.compress.api import Made, Work
from rayml.stages.compress.finetuning import LAYERS, named_layers, training
from rayml.stages.compress.heads import has_heads, refuse_importance, take_out_heads

WHERE = "compress.ladder"
TAYLOR_ROWS = 512
LANES = 8
"""Channels that one instruction of a processor takes together."""
WIDE = 32
ZEROS = (
    "The zeros stay in the file and are multiplied: ONNX Runtime has no sparse kernels for processors, so size, memory"
    " and speed are what they were. 2:4 is faster only on NVIDIA's sparse tensor cores, through TensorRT."
)


def run(work: Work) -> Made:
    """Take away what the section says, and train what is left.

    Raises:
        StageError: a pattern names no layer, nothing can be taken out, or the dependency graph cannot take the network.
    """
    return shrink(work) if work.config["structured"] is not None else mask(work)


def shrink(work: Work) -> Made:
    """Fewer channels, units and heads: layers, file and work become smaller (DepGraph, arXiv 2301.12900)."""
    config = work.config
    network = work.parent.network(work.schema, work.code)
    base, surgery = split_surgery(work.parent.config)
    before = layer_sizes(network)
    weights = dict(network.state_dict())
    model = work.parent.config
    kept = 1 - config["structured"]
    for number in range(1, config["rounds"] + 1):
        share = 1 - kept ** (1 / config["rounds"])
        whole = copy.deepcopy(network)
        take_out(network, share, work)
        edit = record_resized(whole, network)
        if not edit["tensors"]:
            raise StageError(
                f"a share of {share:.2g} takes no channel out of any layer",
                where=WHERE,
                hint="write another `structured`, fewer `rounds`, a smaller `multiple`, or fewer patterns in `keep`",
            )
        surgery = [*surgery, edit]
        model = {**base, "surgery": surgery}
        weights = dict(network.state_dict())
        if config["finetune"]["epochs"]:
            work.note(f"round {number} of {config['rounds']}: {parameters(network):,} parameters are left")
            weights = work.train(model, weights, training(config, config["rounds"]))
            network.load_state_dict(weights)
            network.eval()
    after = layer_sizes(network)
    layers = {name: {"before": before[name], "after": after[name]} for name in before if before[name] != after[name]}
    facts = {"layers": layers, "importance": config["importance"], "scope": config["scope"]}
    return Made(config=model, weights=weights, facts=facts)


def split_surgery(model: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A `model` section without its edits, and the edits."""
    return {key: value for key, value in model.items() if key != "surgery"}, list(model.get("surgery", []))


def take_out(model: Classifier, share: float, work: Work) -> None:
    """Prune the network in place."""
    config = work.config
    kept = named_layers(model, config["keep"])
    refuse_tied(model)
    if not has_heads(model):
        take_out_channels(model, share, work, kept)
        return
    if problem := refuse_importance(config["importance"]):
        raise StageError(problem, where=WHERE)
    if config["importance"] == "taylor":
        accumulate_gradients(model, work)
    take_out_heads(model, share, list(kept.values()), config["multiple"], config["importance"] == "taylor")
    model.zero_grad(set_to_none=True)


def take_out_channels(model: Classifier, share: float, work: Work, kept: dict[str, nn.Module]) -> None:
    """Prune a network without attention, by torch-pruning's graph of which layers depend on each other."""
    import torch_pruning as tp

    config = work.config
    records, _ = ShardSet.open(work.data, "train").rows(0, 2)
    inputs = model.resize(model.preprocess(torch.from_numpy(np.array(records))))
    whole = copy.deepcopy(model)
    importance = importance_of(model, config["importance"])
    try:
        pruner = tp.pruner.MetaPruner(
            model.network,
            inputs,
            importance=importance,
            pruning_ratio=share,
            global_pruning=config["scope"] == "global",
            ignored_layers=[head_of(model), *kept.values()],
            round_to=multiple_of(model, config["multiple"]),
        )
        if config["importance"] == "taylor":
            accumulate_gradients(model, work)
        pruner.step()
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            model.network(inputs)
    except StageError:
        raise
    except Exception as error:
        name = culprit(whole, inputs, kept)
        what = "the network cannot be pruned as it stands" if name is None else f"`{name}` cannot lose channels"
        keep = "name the layers around it in `keep`" if name is None else f"write keep: [{name}]"
        line = own_line(error, work.code) if work.code else ""
        raise StageError(
            f"{what}: {' '.join(str(error).split())[:300]}{line}",
            where=WHERE,
            hint=f"{keep}, or use `factorize` or `distill`, which need no dependency graph",
        ) from error


def importance_of(model: Classifier, name: str) -> Any:
    """torch-pruning's ranking. StageError where the network has nothing that it could rank by."""
    import torch_pruning as tp

    if name == "bn_scale" and not any(isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d) for each in model.modules()):
        raise StageError(
            "bn_scale ranks channels by the scale of their batch norm, and the network has none",
            where=WHERE,
            hint="write importance: magnitude or taylor",
        )
    if name == "magnitude":
        return tp.importance.GroupMagnitudeImportance(p=2)
    return tp.importance.GroupTaylorImportance() if name == "taylor" else tp.importance.BNScaleImportance()


def culprit(model: Classifier, inputs: Tensor, kept: Collection[str]) -> str | None:
    """The first layer that, with one channel less, leaves a network that cannot run; None where it is not one alone."""
    import torch_pruning as tp

    for name, layer in model.named_modules():
        if not isinstance(layer, LAYERS) or name in kept or layer is head_of(model):
            continue
        trial = copy.deepcopy(model)
        take = tp.prune_linear_out_channels if isinstance(layer, nn.Linear) else tp.prune_conv_out_channels
        try:
            graph = tp.DependencyGraph().build_dependency(trial.network, example_inputs=inputs)
            graph.get_pruning_group(trial.get_submodule(name), take, idxs=[0]).prune()
            with torch.no_grad():
                trial.network(inputs)
        except Exception:  # whatever a network of the user's raises
            return str(name)
    return None


def head_of(model: Classifier) -> nn.Module:
    """The layer that gives one number for each class."""
    name = head_name(model)
    return model.get_submodule(name) if name else list(model.modules())[-1]


def refuse_tied(model: Classifier) -> None:
    """StageError where two layers use the same weights: what one loses, the other would."""
    owners: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(parameter), name)
        if first != name:
            raise StageError(
                f"`{first}` and `{name}` are the same weights, and channels cannot be taken out of one of them",
                where=WHERE,
                hint="untie them in the network, or use `distill` with a smaller student",
            )


def multiple_of(model: Classifier, multiple: int | str) -> int:
    """What is left of a layer is a multiple of this."""
    if multiple != "auto":
        return int(multiple)
    grouped = any(isinstance(each, nn.GroupNorm) for each in model.modules())
    narrow = min(each.weight.shape[0] for each in model.modules() if isinstance(each, LAYERS))
    wide = max(each.weight.shape[0] for each in model.modules() if isinstance(each, LAYERS))
    return LANES if not grouped and wide >= WIDE and narrow >= LANES else 1


def accumulate_gradients(model: Classifier, work: Work) -> None:
    """Gradients of the loss on training rows (Molchanov et al., arXiv 1906.10771)."""
    rows = ShardSet.open(work.data, "train")
    records, labels = rows.gather(np.linspace(0, len(rows) - 1, min(TAYLOR_ROWS, len(rows)), dtype=np.int64))
    for start in range(0, len(records), 64):
        part = slice(start, start + 64)
        loss = functional.cross_entropy(model(torch.from_numpy(records[part])), torch.from_numpy(labels[part]))
        loss.backward()  # type: ignore[no-untyped-call]


def layer_sizes(model: nn.Module) -> dict[str, list[int]]:
    """Name of each layer to the shape of its weights."""
    return {name: list(each.weight.shape) for name, each in model.named_modules() if isinstance(each, LAYERS)}


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def mask(work: Work) -> Made:
    """Set weights to 0 where they stand. Shown for what it is: nothing becomes smaller or faster."""
    network = work.parent.network(work.schema, work.code)
    layers = [each for each in network.modules() if isinstance(each, LAYERS) and each is not head_of(network)]
    kept = named_layers(network, work.config["keep"]).values()
    masked = [layer for layer in layers if all(layer is not each for each in kept)]
    with torch.no_grad():
        for layer, stays in zip(masked, masks([layer.weight for layer in masked], work.config), strict=True):
            layer.weight.mul_(stays)
    weights = dict(network.state_dict())
    zeros = sum(int((each.weight == 0).sum()) for each in layers)
    packed = len(gzip.compress(b"".join(each.numpy().tobytes() for each in weights.values())))
    facts = {"zeros": zeros / max(1, parameters(network)), "gzip_bytes": packed, "what_it_brings": ZEROS}
    return Made(config=work.parent.config, weights=weights, facts=facts, masked=True)


def masks(weights: list[Tensor], config: dict[str, Any]) -> list[Tensor]:
    """1 for the weights that stay and 0 for the others, of the same shapes."""
    if config["pattern"] is not None:
        return [two_of_four(weight) for weight in weights]
    together = [torch.cat([weight.flatten() for weight in weights])] if config["scope"] == "global" else weights
    bounds = [largest_gone(each.abs().flatten(), config["unstructured"]) for each in together]
    return [
        (weight.abs() > bound).float()
        for weight, bound in zip(weights, bounds * len(weights) if len(bounds) == 1 else bounds, strict=True)
    ]


def largest_gone(sizes: Tensor, share: float) -> float:
    """Up to which size so large a share of the weights goes."""
    gone = int(share * sizes.numel())
    return float(sizes.kthvalue(gone).values) if gone else -1.0


def two_of_four(weight: Tensor) -> Tensor:
    """1 for the two larger ones of each four weights of a row."""
    flat = weight.abs().flatten(1)
    padded = functional.pad(flat, (0, -flat.shape[1] % 4))
    groups = padded.reshape(len(padded), -1, 4)
    stays = torch.zeros_like(groups).scatter_(2, groups.topk(2, dim=2).indices, 1.0)
    return stays.flatten(1)[:, : flat.shape[1]].reshape(weight.shape)
