"""Where a model is cut into stages: its parts are measured, and dealt out so that the slowest stage has least to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from rayml.errors import StageError
from rayml.ml.networks import Parts
from rayml.spec.words import count


@dataclass(frozen=True)
class Stage:
    """Consecutive parts of a model, which one rank of each copy holds."""

    names: tuple[str, ...]
    """Prefixes of the parts' parameters in the whole model."""
    modules: tuple[nn.Module, ...]
    work: int
    """Operations on one row in the forward pass, and one for each parameter."""
    parameters: int
    output: tuple[int, ...]
    """Shape of what it makes of one row."""


def cut(parts: Parts, stages: int, example: Tensor) -> list[Stage]:
    """A model as stages.

    Args:
        parts: what runs one after another, from `sequential_parts`.
        example: `[1, *shape]`, like a raw record.

    Raises:
        StageError: there are fewer parts with parameters than stages, two stages would share a parameter, or a part
            makes something else than one tensor of float32 with a row for each row.
    """
    groups = [joined(group) for group in with_parameters(measured(parts, example))]
    if len(groups) < stages:
        raise StageError(
            f"the model has {count(len(groups), 'part')} with weights, and {stages} stages need one each",
            where="train.strategy.stages",
            hint=f"write at most {len(groups)} stages, or a deeper model",
        )
    firsts = deal([group.work for group in groups], stages)
    found = [joined(groups[first:last]) for first, last in zip(firsts, [*firsts[1:], len(groups)], strict=True)]
    require_apart(found)
    return found


def measured(parts: Parts, example: Tensor) -> list[Stage]:
    """Each part as a stage of its own. Nothing is computed: tensors without values show shapes and operations."""
    rows = example.to("meta")
    found = []
    for name, module in parts:
        tensors = {key: each.detach().to("meta") for key, each in (*module.named_parameters(), *module.named_buffers())}
        training = module.training
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            rows = functional_call(module.eval(), tensors, (rows,))
        module.train(training)
        if not isinstance(rows, Tensor) or rows.dtype != torch.float32 or rows.ndim == 0 or len(rows) != 1:
            raise StageError(
                f"{name} makes something else than one tensor of float32 with a row for each row",
                where="model",
                hint="a pipeline sends one tensor from stage to stage; write strategy: {kind: fsdp}",
            )
        parameters = sum(each.numel() for each in module.parameters())
        work = counter.get_total_flops() + parameters
        found.append(Stage((name,), (module,), work, parameters, tuple(rows.shape[1:])))
    return found


def with_parameters(parts: Sequence[Stage]) -> list[list[Stage]]:
    """The parts in groups that begin with one that has parameters; what stands before the first joins it.

    So no stage begins with an activation that works in place, which what was received does not allow.
    """
    groups: list[list[Stage]] = [[]]
    for part in parts:
        if part.parameters and any(each.parameters for each in groups[-1]):
            groups.append([])
        groups[-1].append(part)
    return groups


def joined(parts: Sequence[Stage]) -> Stage:
    """Several in a row as one."""
    return Stage(
        names=tuple(name for part in parts for name in part.names),
        modules=tuple(module for part in parts for module in part.modules),
        work=sum(part.work for part in parts),
        parameters=sum(part.parameters for part in parts),
        output=parts[-1].output,
    )


def deal(works: Sequence[int], stages: int) -> list[int]:
    """The first position of each stage, with the largest sum of a stage as small as it can be. No stage is empty."""
    low, high = max(works), sum(works)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(filled(works, middle)) <= stages else (middle + 1, high)
    firsts = filled(works, low)
    spare = [position for position in range(len(works)) if position not in firsts]
    return sorted(firsts + spare[len(spare) - (stages - len(firsts)) :])


def filled(works: Sequence[int], limit: int) -> list[int]:
    """The first position of each stage where each is filled, from the left, up to a limit."""
    firsts, held = [0], 0
    for position, work in enumerate(works):
        if held + work > limit:
            firsts.append(position)
            held = 0
        held += work
    return firsts


def require_apart(stages: Sequence[Stage]) -> None:
    """StageError where a parameter is in two stages: each would train a weight of its own."""
    owner: dict[int, int] = {}
    for number, stage in enumerate(stages):
        for module in stage.modules:
            for parameter in module.parameters():
                if owner.setdefault(id(parameter), number) != number:
                    raise StageError(
                        f"stages {owner[id(parameter)] + 1} and {number + 1} share a weight of {list(parameter.shape)}",
                        where="train.strategy",
                        hint="write strategy: {kind: fsdp}",
                    )


def describe(stages: Sequence[Stage]) -> str:
    """One sentence for the person who waits: what each stage holds."""
    whole = sum(stage.work for stage in stages)
    shares = [
        f"{stage.names[0]} to {stage.names[-1]} ({stage.work / whole:.0%} of the work, "
        f"{count(stage.parameters, 'parameter')})"
        for stage in stages
    ]
    return f"{count(len(stages), 'stage')}: {'; '.join(shares)}"
