"""Every synchronous strategy passes the contract on gloo ranks."""

from __future__ import annotations

import pytest
from contract.strategy import StrategyContract, history, train_with
from stages.train.ranks import make_shards

MLP = {"kind": "mlp", "hidden": [16, 12], "dropout": 0.0}
CNN = {"kind": "small_cnn", "width": 8, "dropout": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


class TestDdp(StrategyContract):
    strategy = {"kind": "ddp", "bucket_mb": 25.0, "static_graph": False, "compress": "none", "transport": "network"}
    model = CNN


class TestDdpInSharedMemory(StrategyContract):
    strategy = {**TestDdp.strategy, "transport": "shared_memory"}
    model = CNN


class TestFsdp(StrategyContract):
    strategy = {"kind": "fsdp", "replicate": 1, "shard": "auto", "reduce": "fp32", "reshard": True, "offload": False}
    model = MLP


def test_two_workers_that_accumulate_4_are_one_that_accumulates_8(tmp_path, data):
    changes = {"model": CNN, "batch_size": 16}
    two = train_with(data, tmp_path / "two", TestDdp.strategy, 2, accumulation=4, **changes)
    one = train_with(data, tmp_path / "one", {"kind": "local"}, 1, accumulation=8, **changes)
    for name, values in history(one).items():
        assert history(two)[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name
