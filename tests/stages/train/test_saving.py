"""What a start reads of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rayml.ml.checkpoint import Checkpoint
from rayml.stages.train.saving import load_checkpoint


class Asked(Checkpoint):
    """A checkpoint that only notes what it is asked for; tests/ml/test_parts.py shows what is read then."""

    def tensors(self, group, held=None):
        NOTED[group] = held
        return {}


NOTED = {}


@pytest.mark.parametrize("sharded", [True, False])
def test_a_strategy_with_parts_is_given_parts_of_every_group(sharded):
    training = SimpleNamespace(
        strategy=SimpleNamespace(sharded=sharded, load=lambda state: None),
        schedule=SimpleNamespace(load=lambda saved: None),
        average=SimpleNamespace(load=lambda means, plain: None),
        model=torch.nn.Linear(1, 1),
    )
    saved = {"strategy": {}, "schedule": {}, "average": {}}
    load_checkpoint(training, Asked(Path(), saved))
    held = training.model.state_dict() if sharded else None
    assert dict.fromkeys(("model", "optimizer", "average"), held) == NOTED
