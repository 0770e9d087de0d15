"""`local`: one process, no torch.distributed and no Ray. Every other strategy is held against it."""

from __future__ import annotations

from rayml.stages.train.strategies.eager import Eager


class Local(Eager):
    """The whole model and every row in this process; a breakpoint stops where it is written."""
