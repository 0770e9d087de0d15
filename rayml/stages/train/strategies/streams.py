"""Random numbers of ranks that hold parts of one copy of a model. The loop seeds all of them alike at each step.

The ranks of a copy draw the same numbers, so dropout of a whole activation is the same on each. Between the two layers
of a pair each rank has other units: there it draws from a stream of its own, or unit 0 of every rank would fall
together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class OwnStream:
    """Hooks that change the stream of this rank's generator behind the first layer of a pair, and back at the second.

    What is drawn inside follows from the state of the generator before alone. So a block that is computed twice
    (activation checkpointing) draws the same numbers twice.

    Args:
        part: number of this rank among those that hold parts of the same layers.
    """

    def __init__(self, device: torch.device, part: int) -> None:
        self._generator = generator_of(device)
        self._part = part
        self._whole = self._generator.get_state()
        self._inside: int | None = None

    def enter(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Forward hook of a layer that leaves each rank other units."""
        generator = self._generator
        if not module.training or generator.initial_seed() == self._inside:
            return
        place = draw(generator)
        seed = generator.initial_seed()
        self._whole = generator.get_state()
        self._inside = own_seed(seed, place, self._part)
        generator.manual_seed(self._inside)

    def leave(self, module: nn.Module, inputs: Any) -> None:
        """Forward pre-hook of a layer behind which every rank has the whole again."""
        if module.training and self._generator.initial_seed() == self._inside:
            self._generator.set_state(self._whole)


def own_seed(seed: int, place: int, part: int) -> int:
    """The seed of one rank's own stream, of the seed that all have."""
    return ((seed * 1_000_003 + place) * 4096 + part + 1) % 2**63


def generator_of(device: torch.device) -> torch.Generator:
    """The generator that layers on a device draw from."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator


def draw(generator: torch.Generator) -> int:
    """A number that the next draw does not give again. On a GPU its position: for a value the program would wait."""
    if generator.device.type == "cuda":
        place = generator.get_offset()
        generator.set_offset(place + 4)
        return place
    return int(torch.randint(2**31, (), generator=generator))
