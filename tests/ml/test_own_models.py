"""A network of the user's that does not fit: each row is one mistake, and what the user reads of it."""

from __future__ import annotations

import sys

import pytest
import torch

from rayml.errors import StageError
from rayml.ml.models import build_model
from rayml.ml.schema import ImageFeature, Normalization, Schema, VectorFeature

IMAGES = Schema(
    feature=ImageFeature(height=8, width=8, channels=1),
    label="label",
    classes=("null", "eins", "größer"),
    normalization=Normalization(offset=(0.0,), scale=(255.0,)),
)
NUMBERS = Schema(
    feature=VectorFeature(columns=("Alter", "Größe")),
    label="label",
    classes=("a", "b"),
    normalization=Normalization(offset=(0.0, 0.0), scale=(1.0, 1.0)),
)

NETWORKS = """
import sys
import torch
from torch import nn

def fits(schema, width=4):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.Dropout(0.5), nn.Linear(width, len(schema.classes)))

def batch_norm(schema):
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3))

def raises(schema):
    raise RuntimeError("no weights:\\nlook in ./größe")

def leaves(schema):
    sys.exit("bye")

def returns(schema):
    return lambda rows: rows

def channels(schema):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(3))

def seven(schema):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(7))

def no_flatten(schema):
    return nn.Conv2d(1, 3, 3)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, rows):
        return rows * self.scale, rows

def two(schema):
    return Two()

def double(schema):
    return fits(schema).double()

def nothing(schema):
    return nn.Flatten()

number = 3
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    (tmp_path / "own_syntax.py").write_text("def build(:\n")
    (tmp_path / "own_import.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "own_exit.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield str(tmp_path)
    for name in ("own_networks", "own_syntax", "own_import", "own_exit"):
        sys.modules.pop(name, None)


def build(function, code, schema=IMAGES, **arguments):
    return build_model({"kind": "callable", "function": function, "args": arguments}, schema, code)


@pytest.mark.parametrize("function", ["fits", "batch_norm"])
def test_a_network_that_fits_is_ready_to_train(code, function):
    model = build(f"own_networks:{function}", code)
    assert all(module.training for module in model.modules())
    assert model(torch.zeros((5, 8, 8, 1), dtype=torch.uint8)).shape == (5, 3)


def test_asking_a_network_once_leaves_its_statistics_alone(code):
    state = build("own_networks:batch_norm", code).state_dict()
    assert state["network.0.num_batches_tracked"] == 0
    assert state["network.0.running_mean"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("own_networks:raises", r"raised RuntimeError: no weights: look in \./größe \(own_networks\.py line 13\)"),
        ("own_networks:leaves", r"raised SystemExit: bye \(own_networks\.py line 16\)"),
        ("own_networks:returns", "returned function, not a torch.nn.Module"),
        ("own_networks:channels", r"raised RuntimeError: .*expected input.* for \[2, 1, 8, 8\] float32"),
        ("own_networks:seven", r"makes \[2, 7\] float32 of \[2, 1, 8, 8\] float32; \[2, 3\] float32 is wanted"),
        ("own_networks:no_flatten", r"makes \[2, 3, 6, 6\] float32 .*\[2, 3\] float32 is wanted"),
        ("own_networks:two", r"makes a tuple of \[2, 1, 8, 8\]"),
        ("own_networks:double", "raised RuntimeError: .* must have the same dtype"),
        ("own_networks:nothing", "the network has no parameter to train"),
        ("own_networks:number", "'number' is a int, which cannot be called"),
        ("own_networks:absent", "has no 'absent'"),
        ("own_syntax:build", r"fails on import: SyntaxError: .*own_syntax\.py, line 1"),
        ("own_import:build", r"fails on import: ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("own_exit:build", r"fails on import: SystemExit: 3 \(own_exit\.py line 2\)"),
        ("own_absent:build", "no module 'own_absent' in "),
    ],
)
def test_a_network_that_does_not_fit_is_told_in_a_sentence(code, function, message):
    with pytest.raises(StageError, match=message) as raised:
        build(function, code)
    assert raised.value.where == function
    assert "Traceback" not in str(raised.value)


def test_a_wrong_argument_is_told_without_a_line_of_ours(code):
    with pytest.raises(StageError, match=r"fits\(\) got an unexpected keyword argument 'widht'") as raised:
        build("own_networks:fits", code, NUMBERS, widht=3)
    assert "models.py" not in str(raised.value)
