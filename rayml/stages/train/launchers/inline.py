"""`inline`: the one rank in this very process, so that a breakpoint stops where it is written."""

from __future__ import annotations

import torch

from rayml.stages.api import Emit
from rayml.stages.train.launchers.base import Order
from rayml.stages.train.rank import work
from rayml.stages.train.strategies.base import Seat


def fit(order: Order, emit: Emit) -> None:
    """Train here. Raises what the loop raises."""
    device = torch.device("cuda" if order.resources.gpus_per_worker else "cpu")
    work(order.loop, Seat(0, 1, device), emit, log="the output above")
