"""What goes through the stages of a pipeline, and where each stage is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayml.stages.train.strategies.cuts import Stage


class Part(nn.Module):
    """One stage's modules, one after another. What comes out is float32 in the plain order, as the next one expects."""

    def __init__(self, modules: Sequence[nn.Module], precision: AbstractContextManager[Any]) -> None:
        super().__init__()
        self.chain = nn.Sequential(*modules)
        self.precision = precision

    def forward(self, rows: Tensor) -> Tensor:
        with self.precision:
            made: Tensor = self.chain(rows)
        return made.float().contiguous()


def rank_of(stage: int, stages: int) -> int:
    """The rank of a stage among those of its copy, and the stage of a rank. The last stage is on the first rank."""
    return stages - 1 - stage


def example_for(stage: int, stages: Sequence[Stage], raw: Tensor, rows: int) -> Tensor:
    """Like what a stage takes, without values: shape, dtype, and whether a gradient is sent back for it.

    Args:
        stage: its number; that of one behind the last for what the last one makes.
        raw: `[1, *shape]`, like a raw record.
        rows: of a micro-batch.
    """
    if stage == 0:
        return raw.to("meta").expand(rows, *raw.shape[1:])
    before = (each for part in stages[:stage] for module in part.modules for each in module.parameters())
    learns = any(each.requires_grad for each in before)
    return torch.empty((rows, *stages[stage - 1].output), device="meta", requires_grad=learns)


def filled_up(features: Tensor, rows: int) -> Tensor:
    """`[rows, *shape]`: the first rows once more behind the last."""
    have = len(features)
    return features if have == rows else features[torch.arange(rows, device=features.device) % have]


def relay(
    part: nn.Module,
    features: Tensor,
    rows: int,
    stage: int,
    shapes: Sequence[tuple[int, ...]],
    group: dist.ProcessGroup,
) -> Tensor:
    """`[batch, classes]` logits on every rank of a copy, without gradients.

    Args:
        part: what this stage computes.
        features: `[batch, *shape]` raw records, the same on every rank.
        rows: how many go on at once, so that all stages work at the same time.
        shapes: of what each stage makes of one row.
    """
    stages, device = len(shapes), features.device
    made: list[Tensor] = []
    messages = []
    for received in torch.split(features, rows):
        given = received
        if stage > 0:
            given = torch.empty((len(received), *shapes[stage - 1]), device=device)
            dist.recv(given, group=group, group_src=rank_of(stage - 1, stages))
        made.append(part(given))
        if stage < stages - 1:
            messages.append(dist.isend(made[-1], group=group, group_dst=rank_of(stage + 1, stages)))
    for message in messages:
        assert message is not None, "this rank is in the group"
        message.wait()
    logits = torch.cat(made) if stage == stages - 1 else torch.empty((len(features), *shapes[-1]), device=device)
    dist.broadcast(logits, group=group, group_src=rank_of(stages - 1, stages))
    return logits
