"""Tensor parallelism passes the contract, alone and with copies of the model."""

from __future__ import annotations

import pytest
from contract.strategy import StrategyContract
from stages.train.ranks import make_shards

from rayml.plan.parallel import auto_layers

MLP = {"kind": "mlp", "hidden": [16, 12], "dropout": 0.0}
TRANSFORMER = {"kind": "transformer", "width": 8, "depth": 2, "heads": 2, "patch": 3, "dropout": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


class TestMlp(StrategyContract):
    strategy = {"kind": "tensor_parallel", "tensor": "auto", "data": 1, "layers": auto_layers(MLP)}
    model = MLP


class TestTransformer(StrategyContract):
    strategy = {"kind": "tensor_parallel", "tensor": "auto", "data": 1, "layers": auto_layers(TRANSFORMER)}
    model = TRANSFORMER


class TestTwoCopies(StrategyContract):
    strategy = {"kind": "tensor_parallel", "tensor": 2, "data": 2, "layers": auto_layers(MLP)}
    model = MLP
    world_size = 4
