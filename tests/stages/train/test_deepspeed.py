"""DeepSpeed passes the contract of the strategies at every ZeRO stage, and with files as people have them."""

from __future__ import annotations

import pytest
from contract.strategy import StrategyContract
from stages.train.ranks import make_shards

MLP = {"kind": "mlp", "hidden": [16, 12], "dropout": 0.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def section(stage, **changes):
    zero = {"stage": stage, **changes}
    return {
        "kind": "deepspeed",
        "zero_stage": stage,
        "document": {
            "train_batch_size": 16,
            "train_micro_batch_size_per_gpu": 8,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": zero,
        },
    }


class TestZero0(StrategyContract):
    strategy = section(0)
    model = MLP
    recipes = ("plain", "accumulation", "clip by norm", "clip by norm, accumulation")


class TestZero2(StrategyContract):
    strategy = section(2)
    model = MLP
    recipes = ("plain", "accumulation", "clip by norm", "clip by norm, accumulation")


class TestZero3(StrategyContract):
    strategy = section(3)
    model = MLP
    recipes = ("plain", "accumulation", "clip by norm", "clip by norm, accumulation")


class TestZero3Sharded(StrategyContract):
    strategy = section(3, stage3_param_persistence_threshold=0)
    model = MLP
    recipes = ("plain", "accumulation", "clip by norm", "clip by norm, accumulation")
