"""Adapters of the `peft` library on the layers of any model, and the way back to a model without them.

`merge_adapter` leaves the modules and names that the model had before, with other weights: what is exported needs no
peft.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rayml.errors import StageError
from rayml.ml.models import Classifier
from rayml.ml.names import require_matching
from rayml.ml.networks import head_name
from rayml.ml.schema import Schema
from rayml.spec.words import count

WHERE = "train.adapter"

TOLERANCE = 1e-4
"""Of the largest logit: float32 sums in another order differ by about 1e-6."""

LINEAR_ONLY = ("oft",)
"""Kinds that peft gets wrong for convolutions: its oft leaves out their padding (seen in 0.21.2)."""


@dataclass(frozen=True)
class AdapterReport:
    """What `add_adapter` has done."""

    kind: str
    layers: tuple[str, ...]
    """Names of the layers that have an adapter."""
    head: str | None
    """The layer that is trained itself."""
    trained: int
    """Numbers that are trained, adapters and head."""
    total: int
    """Numbers of the model without adapters."""

    def sentence(self) -> str:
        head = f", and {self.head} is trained itself" if self.head else ""
        share = self.trained / self.total
        return (
            f"{self.kind} on {count(len(self.layers), 'layer')}{head}: "
            f"{count(self.trained, 'parameter')} to train, {share:.2%} of the model's {self.total:,}"
        )


def add_adapter(model: Classifier, config: dict[str, Any], schema: Schema) -> AdapterReport:
    """Freeze a model and put adapters on its layers, in place. Its answers do not change before the first step.

    Raises:
        StageError: peft is not installed, a pattern matches no layer that can have an adapter, or the layer's forward
            pass is never called, so that an adapter on it would do nothing.
    """
    peft = import_peft()
    head = head_name(model)
    rows = zeros(model, schema)
    called, before = call(model, rows)
    layers = targets(model, config, head, called)
    total = sum(parameter.numel() for parameter in model.parameters())
    pattern = "|".join(re.escape(name) for name in layers)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oft tells of each block size that it had to change
            peft.inject_adapter_in_model(CONFIGS[config["kind"]](peft, config, pattern), model)
    except ValueError as error:
        raise StageError(f"peft refuses the adapter: {' '.join(str(error).split())}", where=WHERE) from error
    require_same(
        before, call(model, rows)[1], f"peft's {config['kind']} on {len(layers)} layers, before the first step,"
    )
    for parameter in model.get_submodule(head).parameters():
        parameter.requires_grad_(config["train_head"])
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return AdapterReport(config["kind"], tuple(layers), head if config["train_head"] else None, trained, total)


def import_peft() -> Any:
    """The peft library, which takes seconds to import. StageError where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise StageError(
            f"adapters need the peft library: {error}", where=WHERE, hint="pip install 'rayml[finetune]'"
        ) from error
    return peft


def zeros(model: nn.Module, schema: Schema) -> Tensor:
    """Two raw records `[2, *shape]`, all 0, where the model is."""
    device = next(model.parameters()).device
    return torch.zeros((2, *schema.feature.shape), dtype=getattr(torch, schema.feature.dtype), device=device)


def call(model: nn.Module, rows: Tensor) -> tuple[set[str], Tensor]:
    """Names of the modules whose forward pass runs for some rows in evaluation, and the logits.

    Gradients are on: without them torch takes short cuts around the modules of its own transformer layers.
    """
    called: set[str] = set()
    hooks = [module.register_forward_pre_hook(note(name, called)) for name, module in model.named_modules()]
    training = model.training
    try:
        logits: Tensor = model.eval()(rows)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return called, logits.detach()


def note(name: str, called: set[str]) -> Callable[..., None]:
    """A hook that remembers a name."""

    def hook(*_: Any) -> None:
        called.add(name)

    return hook


def targets(model: nn.Module, config: dict[str, Any], head: str, called: set[str]) -> list[str]:
    """Names of the layers that get an adapter, in the model's order."""
    kinds = (nn.Linear,) if config["kind"] in LINEAR_ONLY else (nn.Linear, nn.Conv2d)
    fitting = [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and getattr(module, "groups", 1) == 1 and name != head
    ]
    where = f"{WHERE}.targets"
    layers = fitting
    if config["targets"] != "all":
        matched = {
            name
            for pattern in config["targets"]
            for name in require_matching(pattern, fitting, "layer that can have an adapter", where)
        }
        layers = [name for name in fitting if name in matched]
    idle = [name for name in layers if name not in called]
    if idle and config["targets"] != "all":
        raise StageError(
            f"{idle[0]} is never called, since the module around it reads its weights: an adapter would do nothing",
            where=where,
            hint="leave it out of the patterns",
        )
    if len(idle) == len(layers):
        raise StageError(
            f"the model has no layer for an adapter of kind {config['kind']}, besides the last one",
            where=where,
            hint="leave train.adapter out, or name another kind",
        )
    return [name for name in layers if name in called]


def require_same(before: Tensor, after: Tensor, what: str) -> float:
    """The largest difference between logits. StageError where it is more than float32 arithmetic explains."""
    difference = float((before - after).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(before.abs().max())):
        raise StageError(
            f"{what} changes the model's answers by {difference:.2g}",
            where=WHERE,
            hint="name other layers in targets, or another kind of adapter",
        )
    return difference


def merge_adapter(model: nn.Module, rows: Tensor) -> float:
    """Add the adapters to the weights of their layers, in place, and take them out.

    Args:
        model: a model after `add_adapter`. Its modules and names are then those that it had before.
        rows: raw records `[n, *shape]`, for which the answers of before and after are held against each other.

    Returns:
        The largest difference between the logits.

    Raises:
        StageError: an adapter holds a number that is not finite, or the answers differ.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    _, before = call(model, rows)
    training = model.training
    model.eval()
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    assert adapted, "there is an adapter where one is to be merged"
    for name, layer in adapted:
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise StageError(f"the adapter of {name} cannot be merged: {error}", where=WHERE) from error
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config
    model.train(training)
    return require_same(before, call(model, rows)[1], f"merging {len(adapted)} adapters")


def lora(peft: Any, config: dict[str, Any], layers: str) -> Any:
    return peft.LoraConfig(
        r=config["rank"],
        lora_alpha=config["alpha"],
        lora_dropout=config["dropout"],
        use_dora=config["kind"] == "dora",
        target_modules=layers,
    )


def loha(peft: Any, config: dict[str, Any], layers: str) -> Any:
    return peft.LoHaConfig(
        r=config["rank"], alpha=config["alpha"], rank_dropout=config["dropout"], target_modules=layers
    )


def lokr(peft: Any, config: dict[str, Any], layers: str) -> Any:
    return peft.LoKrConfig(
        r=config["rank"], alpha=config["alpha"], rank_dropout=config["dropout"], target_modules=layers
    )


def oft(peft: Any, config: dict[str, Any], layers: str) -> Any:
    return peft.OFTConfig(
        oft_block_size=config["block_size"],
        module_dropout=config["dropout"],
        use_cayley_neumann=False,  # exact rotations; the blocks are small enough for it
        target_modules=layers,
    )


def ia3(peft: Any, config: dict[str, Any], layers: str) -> Any:
    return peft.IA3Config(target_modules=layers, feedforward_modules=[])


CONFIGS: dict[str, Callable[[Any, dict[str, Any], str], Any]] = {
    "lora": lora,
    "dora": lora,
    "loha": loha,
    "lokr": lokr,
    "oft": oft,
    "ia3": ia3,
}
"""Kind of adapter to its peft configuration."""
