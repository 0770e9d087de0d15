"""The memory estimate is held against what real ranks take, and kept so that a plan needs no torch to show it."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from stages.train.memory_ranks import MODELS, SCHEMA, measured_peak, resolved

from rayml.errors import StageError
from rayml.stages.train.estimate import estimate

STRATEGIES = {
    "local": {"kind": "local"},
    "ddp": {"kind": "ddp", "transport": "network"},
    "fsdp": {"kind": "fsdp"},
    "pipeline": {"kind": "pipeline"},
    "tensor": {"kind": "tensor_parallel"},
    **{f"zero{stage}": {"kind": "deepspeed", "zero_stage": stage} for stage in range(4)},
}
WITHOUT_LINEAR_PAIRS = {("small_cnn", "tensor"), ("resnet18", "tensor")}
PAIRS = [pair for pair in itertools.product(MODELS, STRATEGIES) if pair not in WITHOUT_LINEAR_PAIRS]
QUICK = [("mlp", "ddp"), ("small_cnn", "local"), ("resnet18", "ddp"), ("mlp", "fsdp"), ("mlp", "tensor")]
RECIPES = {
    "bf16": {"precision": "bf16"},
    "accumulation": {"accumulation": 4},
    "computed twice": {"activation_checkpointing": True},
    "clipped lamb": {"clip": {"norm": 1.0}, "optimizer": {"kind": "lamb"}},
}
TOLERANCE = 0.15


def compare(train, work):
    expected, found = estimate(train, SCHEMA, None).total, measured_peak(train, work)
    print(f"{expected / 1e6:.1f} MB estimated, {found / 1e6:.1f} MB measured, ratio {expected / found:.3f}")
    assert expected == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.parametrize(("model", "strategy"), QUICK)
def test_an_estimate_is_what_a_rank_takes(tmp_path, model, strategy):
    compare(resolved(model, STRATEGIES[strategy]), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize(("model", "strategy"), [pair for pair in PAIRS if pair not in QUICK])
def test_an_estimate_is_what_a_rank_takes_for_every_pair(tmp_path, model, strategy):
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    accumulation = 4 if strategy == "pipeline" else 1
    compare(resolved(model, STRATEGIES[strategy], accumulation=accumulation), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("strategy", ["local", "ddp"])
def test_an_estimate_knows_the_recipe(tmp_path, strategy, recipe):
    compare(resolved("transformer", STRATEGIES[strategy], **RECIPES[recipe]), tmp_path)


def test_the_parts_of_a_model_in_one_process():
    parts = estimate(resolved("mlp", {"kind": "local"}), SCHEMA, None).parts
    numbers = 12288 * 1000 + 1000 + 2 * (1000 * 1000 + 1000) + 1000 * 7 + 7
    assert parts["weights"] == pytest.approx(4 * numbers, abs=100)  # the preprocessing has six numbers more
    assert parts["optimizer"] == pytest.approx(8 * numbers, abs=100)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"accumulation": 4}, "activations"),
        ({"activation_checkpointing": True}, "activations"),
        ({"optimizer": {"kind": "sgd"}}, "optimizer"),
        ({"strategy": {"kind": "fsdp"}, "workers": 2}, "weights"),
    ],
)
def test_what_saves_memory_is_seen_to_save_it(changes, part):
    before = estimate(resolved("transformer", {"kind": "local"}), SCHEMA, None)
    strategy = changes.pop("strategy", {"kind": "local"})
    after = estimate(resolved("transformer", strategy, **changes), SCHEMA, None)
    assert after.parts[part] < 0.7 * before.parts[part]
    assert after.total < before.total


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_strategy_is_without_an_estimate(strategy):
    found = estimate(resolved("mlp", STRATEGIES[strategy]), SCHEMA, None)
    assert found.total > 40e6
    assert min(found.parts.values()) > 0


def test_the_worst_stage_of_a_pipeline_is_told():
    """The first holds the wide layer, and activations of two micro-batches."""
    parts = estimate(resolved("mlp", STRATEGIES["pipeline"], accumulation=2), SCHEMA, None).parts
    assert parts["weights"] > 4 * 12288 * 1000


def test_what_lies_on_the_device_already_is_taken_as_it_is():
    weights = {"kind": "cross_entropy", "class_weights": {"Föhre": 2.0}}
    plain = estimate(resolved("mlp", {"kind": "local"}), SCHEMA, None)
    assert estimate(resolved("mlp", {"kind": "local"}, loss=weights), SCHEMA, None).total == pytest.approx(plain.total)


def test_averaged_weights_take_as_much_as_the_weights():
    parts = estimate(resolved("small_cnn", {"kind": "local"}, average={"kind": "ema"}), SCHEMA, None).parts
    assert parts["average"] == pytest.approx(parts["weights"], rel=0.01)


def test_a_sum_in_shared_memory_takes_a_slot_and_a_sum():
    """torch does not see the slot, which is mapped memory: it cannot be held against a measured peak."""
    network = estimate(resolved("mlp", STRATEGIES["ddp"]), SCHEMA, None)
    shared = estimate(resolved("mlp", {"kind": "ddp"}), SCHEMA, None)
    assert shared.parts["weights"] == network.parts["weights"]
    assert shared.parts["communication"] == pytest.approx(shared.parts["weights"], rel=0.01)
    assert shared.total == pytest.approx(network.total + shared.parts["weights"], rel=0.15)


def test_who_writes_checkpoints_keeps_a_copy():
    whole = estimate(resolved("mlp", {"kind": "ddp"}), SCHEMA, None)
    assert whole.checkpoint == pytest.approx(whole.parts["weights"] + whole.parts["optimizer"], rel=0.01)
    parts = estimate(resolved("mlp", {"kind": "fsdp"}), SCHEMA, None)
    assert parts.checkpoint == pytest.approx(parts.parts["weights"] + parts.parts["optimizer"], rel=0.01)
    assert parts.checkpoint == pytest.approx(whole.checkpoint / 2, rel=0.05)


OWN_NETWORK = """
import torch

class Reads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 7)

    def forward(self, images):
        means = images.mean(dim=(2, 3))
        return self.linear(torch.from_numpy(means.detach().numpy()))

def network(schema):
    return Reads()
"""


def test_a_network_that_needs_values_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "eigenes.py").write_text(OWN_NETWORK)
    train = resolved("mlp", {"kind": "local"})
    train["model"] = {"kind": "callable", "function": "eigenes:network", "args": {}}
    with pytest.raises(StageError) as refused:
        estimate(train, SCHEMA, str(tmp_path))
    assert "Traceback" not in str(refused.value)


def test_nothing_is_left_of_a_rehearsal():
    """Afterwards a process group of its own can be made, and storages are resized as before."""
    import torch
    import torch.distributed as dist

    resize = torch.UntypedStorage.resize_
    estimate(resolved("small_cnn", {"kind": "fsdp"}), SCHEMA, None)
    assert not dist.is_initialized()
    assert torch.UntypedStorage.resize_ is resize
    assert torch.ones(3).sum().item() == 3


def test_a_kept_estimate_is_read_without_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from rayml.plan.estimate import *;"
        f"home = Path({str(tmp_path)!r}); keep_estimate(home, 'k' * 64, MemoryEstimate(parts={{'weights': 3}}));"
        "assert kept_estimate(home, 'k' * 64).total == 3; assert kept_estimate(home, 'x' * 64) is None;"
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
