"""Which parameters are trained in which epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rayml.errors import StageError
from rayml.ml.names import matching, require_matching

WHERE = "train.freeze"

Rules = Sequence[dict[str, Any]]
"""The `freeze` list of a job: `pattern` and `until_epoch`, which is None for the whole training."""


def trainable(names: Sequence[str], rules: Rules, epoch: int) -> frozenset[str]:
    """The parameters that are trained in an epoch, counted from 0.

    Raises:
        StageError: a pattern matches no parameter, or nothing is left to train.
    """
    free = frozenset(names) - frozen(names, rules, epoch)
    if not free:
        raise StageError(
            f"all {len(names)} parameters are frozen in epoch {epoch + 1}",
            where=WHERE,
            hint="leave the last layer out of the patterns",
        )
    return free


def frozen(names: Sequence[str], rules: Rules, epoch: int) -> frozenset[str]:
    """The parameters that rest in an epoch: of several rules that match one, a single one suffices."""
    matched = [
        (require_matching(rule["pattern"], names, "parameter of the model", WHERE), rule["until_epoch"])
        for rule in rules
    ]
    return frozenset(name for found, until in matched if until is None or epoch < until for name in found)


def apply_freeze(model: nn.Module, rules: Rules, epoch: int) -> bool:
    """Let the parameters of an epoch, counted from 0, be trained and the others rest. Whether that changes anything.

    Those that no rule matches stay as they are. Frozen ones lose their gradient. Where something changes,
    whatever has looked up what is trained (DistributedDataParallel) has to do so again.
    """
    parameters = dict(model.named_parameters())
    free = trainable(list(parameters), rules, epoch)
    changed = False
    for name in {name for rule in rules for name in matching(rule["pattern"], parameters)}:
        changed |= parameters[name].requires_grad != (name in free)
        parameters[name].requires_grad_(name in free)
        if name not in free:
            parameters[name].grad = None
    return changed


def keep_frozen_statistics(model: nn.Module) -> None:
    """Keep the running statistics of batch norms whose parameters are frozen. To be called after `model.train()`."""
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, _BatchNorm) and own and not any(parameter.requires_grad for parameter in own):
            module.eval()
