"""The pipeline passes the contract, alone and with copies of the model."""

from __future__ import annotations

import pytest
from contract.strategy import StrategyContract
from stages.train.ranks import make_shards

MLP = {"kind": "mlp", "hidden": [16, 12], "dropout": 0.0}
CNN = {"kind": "small_cnn", "width": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


class TestMlp(StrategyContract):
    strategy = {"kind": "pipeline", "stages": "auto", "data": 1, "schedule": "1f1b"}
    model = MLP


class TestCnn(StrategyContract):
    strategy = {"kind": "pipeline", "stages": "auto", "data": 1, "schedule": "gpipe"}
    model = CNN


class TestTwoCopies(StrategyContract):
    strategy = {"kind": "pipeline", "stages": 2, "data": 2, "schedule": "1f1b"}
    model = MLP
    world_size = 4
