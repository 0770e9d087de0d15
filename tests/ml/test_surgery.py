"""Edits of a network: applied in order, and refused where they do not fit."""

from __future__ import annotations

import pytest
from torch import nn

from rayml.errors import StageError
from rayml.ml import surgery


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"kind": "melted"}, "'melted' is no edit of a network"),
        ({"kind": "resized", "modules": {"7": {"in_features": 2}}, "tensors": {}}, "no module `7`"),
        ({"kind": "resized", "modules": {"0": {"channels": 2}}, "tensors": {}}, "`0` has no `channels`"),
        ({"kind": "resized", "modules": {}, "tensors": {"0.scale": [2]}}, "no tensor `0.scale`"),
        ({"kind": "factorized", "modules": {"1": {"rank": 2}}}, "a ReLU is not made of two thin layers"),
        ({"kind": "shared", "groups": [["2", "9"]]}, "no module `9`"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit, said):
    with pytest.raises(StageError, match=said) as caught:
        surgery.apply(network(), [edit])
    assert caught.value.hint


def test_what_changed_is_recorded_and_made_again():
    before, after = network(), network()
    after[0] = nn.Linear(4, 5)
    after[2] = nn.Linear(5, 8)
    edit = surgery.record_resized(before, after)
    assert edit["modules"] == {"0": {"out_features": 5}, "2": {"in_features": 5}}
    again = network()
    surgery.apply(again, [edit])
    again.load_state_dict(after.state_dict())
    assert again[0].out_features == 5
