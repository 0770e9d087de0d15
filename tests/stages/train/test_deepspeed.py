"""DeepSpeed passes the contract of the strategies at every ZeRO stage, and with files as people have them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from contract.strategy import StrategyContract, history, train_with
from stages.train.ranks import make_shards

from rayml.plan.deepspeed import resolve_deepspeed
from rayml.spec.train import TrainSpec

MLP = {"kind": "mlp", "hidden": [16, 13], "dropout": 0.0}
CNN = {"kind": "small_cnn", "width": 8, "dropout": 0.0}
LOCAL = {"kind": "local"}
SYNCHRONOUS = ("plain", "clip by norm, accumulation")


def resolved(document: dict[str, Any] | None = None, **strategy: Any) -> tuple[TrainSpec, dict[str, Any]]:
    """Train and strategy sections of a job with two workers, by the plan."""
    config = {} if document is None else {"config": "ds.json"}
    train = TrainSpec.model_validate({"strategy": {"kind": "deepspeed", **config, **strategy}, "batch_size": 16})
    return resolve_deepspeed(train, document, 2)


def section(document: dict[str, Any] | None = None, **strategy: Any) -> dict[str, Any]:
    return resolved(document, **strategy)[1]


def sharded(stage: int, **zero: Any) -> dict[str, Any]:
    """A document whose small parameters are cut into parts, too."""
    return {"zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0, **zero}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


class TestZero0(StrategyContract):
    strategy = section(zero_stage=0)
    model = MLP
    recipes = ("clip by norm, accumulation",)


class TestZero1(StrategyContract):
    """As it is without clipping: nobody asks for the norm, and none is computed."""

    strategy = section(zero_stage=1)
    model = MLP
    recipes = ("plain",)


class TestZero2(StrategyContract):
    strategy = section(sharded(2, compute_grad_norm=True))
    model = MLP
    recipes = SYNCHRONOUS


class TestZero3(StrategyContract):
    strategy = section(sharded(3))
    model = CNN
    recipes = SYNCHRONOUS


class TestZero2Offload(StrategyContract):
    strategy = section(zero_stage=2, offload="cpu")
    model = MLP
    recipes = ("clip by norm, accumulation",)


class TestZero3Offload(StrategyContract):
    strategy = section(sharded(3), offload="cpu")
    model = MLP
    recipes = ("clip by norm, accumulation",)


SWAP = Path(tempfile.gettempdir()) / "rayml-test-swap"
LARGE = {"kind": "mlp", "hidden": [1024, 600, 1024], "dropout": 0.0}
"""Half of a matrix is more than 1 MiB; what is smaller DeepSpeed does not swap. Half of 600 elements ends where no
sector of a disk does."""


def on_disk(*places: str, **optimizer: Any) -> dict[str, Any]:
    """A document with the optimizer's tensors, the weights, or both on the disk."""
    sections = {"optimizer": optimizer, "param": {}}
    place = {"device": "nvme", "nvme_path": str(SWAP)}
    zero = {f"offload_{name}": {**place, **sections[name]} for name in places or sections}
    return sharded(3, **zero)


@pytest.fixture(scope="module")
def async_io():
    """DeepSpeed's access to the disk, compiled. Skips where this machine cannot compile it."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    op_builder = pytest.importorskip("deepspeed.ops.op_builder")
    from rayml.stages.train.strategies.deepspeed_disk import lacking, require_disk_access

    if missing := lacking(op_builder.AsyncIOBuilder()):
        pytest.skip(f"nvme is not tried: {missing[0]}; {missing[1]}")
    require_disk_access()
    yield
    if SWAP.exists():
        assert not list(SWAP.iterdir()), "the workers have left something on the disk"
        SWAP.rmdir()


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("async_io")
class TestZero3Disk(StrategyContract):
    strategy = section(on_disk())
    model = LARGE
    recipes = SYNCHRONOUS


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("async_io")
class TestZero3DiskPipelined(StrategyContract):
    """Groups come and go beside the step, and the weights stay in memory."""

    strategy = section(on_disk("optimizer", pipeline_read=True, pipeline_write=True, buffer_count="auto"))
    model = LARGE
    recipes = ("clip by norm, accumulation",)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("async_io")
class TestZero3WeightsOnDisk(StrategyContract):
    strategy = section(on_disk("param"))
    model = LARGE
    recipes = ("clip by norm, accumulation",)


EVERY_STAGE = pytest.mark.parametrize(
    "strategy",
    [section(zero_stage=0), section(sharded(2, compute_grad_norm=True)), section(sharded(3))],
    ids=["zero 0", "zero 2", "zero 3"],
)
LOW_PRECISION = pytest.mark.parametrize(
    "strategy", [section(sharded(2, compute_grad_norm=True)), section(sharded(3))], ids=["zero 2", "zero 3"]
)


@EVERY_STAGE
def test_parameters_that_are_unfrozen_start_at_step_1(tmp_path, data, strategy):
    """Of one flat tensor all have the same count of steps: the ones that come later go into another."""
    freeze = [{"pattern": "network.1.*", "until_epoch": 1}, {"pattern": "network.4.bias", "until_epoch": None}]
    changes = {"model": MLP, "freeze": freeze, "epochs": 3}
    mine = train_with(data, tmp_path / "mine", strategy, 2, **changes)
    theirs = train_with(data, tmp_path / "theirs", LOCAL, 1, **changes)
    for name, values in history(theirs).items():
        assert history(mine)[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name
    steps = {float(value) for key, value in mine.tensors("optimizer").items() if key.endswith(".step")}
    assert len(steps) == 2
    # The last epoch again, from a checkpoint with two counts of steps.
    train_with(data, tmp_path / "parts", strategy, 2, **{**changes, "epochs": 2})
    again = train_with(data, tmp_path / "parts", strategy, 2, **changes)
    assert history(again)["train/loss"] == pytest.approx(history(mine)["train/loss"], rel=1e-9)


@EVERY_STAGE
@pytest.mark.parametrize(
    "optimizer",
    [{"kind": "sgd", "lr": 0.05, "momentum": 0.9}, {"kind": "lion", "lr": 0.001, "no_decay": "vectors"}],
    ids=["sgd", "lion"],
)
def test_other_optimizers_do_what_they_do_in_one_process(tmp_path, data, strategy, optimizer):
    train = TrainSpec.model_validate({"optimizer": optimizer})
    changes = {"model": MLP, "epochs": 2, "optimizer": train.optimizer.model_dump(mode="json")}
    mine = history(train_with(data, tmp_path / "mine", strategy, 2, **changes))
    theirs = history(train_with(data, tmp_path / "theirs", LOCAL, 1, **changes))
    assert mine["val/loss"] == pytest.approx(theirs["val/loss"], rel=1e-5, abs=1e-5)


@LOW_PRECISION
def test_bf16_keeps_whole_float32_weights_and_goes_on_to_the_same_end(tmp_path, data, strategy):
    document = {**strategy["document"], "bf16": {"enabled": True}}
    strategy, changes = {**strategy, "document": document}, {"model": MLP, "precision": "bf16"}
    whole = train_with(data, tmp_path / "whole", strategy, 2, **changes, epochs=2)
    train_with(data, tmp_path / "parts", strategy, 2, **changes, epochs=1)
    parts = train_with(data, tmp_path / "parts", strategy, 2, **changes, epochs=2)
    theirs = train_with(data, tmp_path / "theirs", LOCAL, 1, **changes, epochs=2)
    assert history(parts)["val/loss"] == pytest.approx(history(whole)["val/loss"], rel=1e-9)
    assert history(whole)["train/loss"] == pytest.approx(history(theirs)["train/loss"], rel=1e-3)
    weights = whole.tensors("model")
    assert {str(tensor.dtype) for name, tensor in weights.items() if name.startswith("network")} == {"torch.float32"}
    # Not what bf16 had rounded: the copies that the optimizer steps on.
    weight = weights["network.1.weight"]
    assert (weight != weight.bfloat16().float()).any()


@LOW_PRECISION
def test_fp16_goes_on_with_the_loss_scale_that_it_had(tmp_path, data, strategy):
    import torch

    if not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("this processor does not compute in fp16")
    fp16 = {"enabled": True, "initial_scale_power": 20, "loss_scale_window": 4}
    strategy = {**strategy, "document": {**strategy["document"], "fp16": fp16}}
    changes = {"model": MLP, "precision": "fp16"}
    whole = train_with(data, tmp_path / "whole", strategy, 2, **changes, epochs=2)
    train_with(data, tmp_path / "parts", strategy, 2, **changes, epochs=1)
    parts = train_with(data, tmp_path / "parts", strategy, 2, **changes, epochs=2)
    assert parts.state["strategy"] == whole.state["strategy"]
    assert whole.state["strategy"]["skipped"] > 0
    assert history(parts)["val/loss"] == pytest.approx(history(whole)["val/loss"], rel=1e-6)


FILE = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": 8,
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 1.0,
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
    "optimizer": {"type": "Adam", "params": {"lr": 0.004, "betas": [0.9, 0.99], "eps": "auto", "weight_decay": 0.02}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {
            "total_num_steps": 15,
            "warmup_min_lr": "auto",
            "warmup_max_lr": "auto",
            "warmup_num_steps": 4,
            "warmup_type": "linear",
        },
    },
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": False, "loss_scale": 0},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": "auto",
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": 0,
    },
}


def test_a_file_as_it_is_trains_as_its_optimizer_and_schedule_say(tmp_path, data):
    """Held against DeepSpeed's own words: AdamW, a rate that rises for 4 steps and falls for 11, the norm clipped."""
    train, strategy = resolved(FILE)
    changes = {
        "model": MLP,
        "optimizer": train.optimizer.model_dump(mode="json"),
        "clip": {"norm": train.clip.norm, "value": None},
    }
    mine = train_with(data, tmp_path / "mine", strategy, 2, **changes, epochs=3)
    train_with(data, tmp_path / "parts", strategy, 2, **changes, epochs=1)
    parts = train_with(data, tmp_path / "parts", strategy, 2, **changes, epochs=3)
    assert history(parts)["val/loss"] == pytest.approx(history(mine)["val/loss"], rel=1e-9)
    assert mine.state["strategy"]["scheduler"] == {"last_batch_iteration": 14}
    # A constant rate, the peak of that schedule, ends elsewhere.
    other = train_with(data, tmp_path / "other", LOCAL, 1, **changes, epochs=3)
    assert abs(history(mine)["train/loss"][-1] - history(other)["train/loss"][-1]) > 1e-3


@pytest.mark.timeout(1200)
def test_weights_and_state_are_on_the_disk_while_they_train(tmp_path, data, async_io):
    """Files of both are written, and a worker that was killed has its folder removed by the next one."""
    from rayml.stages.train.strategies import swap_folder

    holder = "import sys, time; from pathlib import Path; from rayml.stages.train.strategies.swap_folder import *; "
    command = [sys.executable, "-c", holder + "print(take_folder(Path(sys.argv[1])), flush=True); time.sleep(600)"]
    with subprocess.Popen([*command, str(SWAP)], stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        theirs = Path(living.stdout.readline().strip())
        swap_folder.take_folder(SWAP)
        swap_folder.remove_folders()
        assert theirs.is_dir(), "it is in use"
        living.kill()
    assert theirs.is_dir(), "nobody was there to remove it"
    train_with(data, tmp_path / "mine", section(on_disk()), 2, model=LARGE, epochs=1)
    assert not theirs.exists()


def test_parameters_that_are_unfrozen_on_the_disk_start_at_step_1(tmp_path, data, async_io):
    """The second engine finds weights on the disk that no device holds, and more than there are buffers for."""
    model = {**LARGE, "hidden": [1024, 600, 1024, 600, 1024, 600, 1024]}
    freeze = [{"pattern": "network.1.*", "until_epoch": 1}]
    optimizer = TrainSpec.model_validate({"optimizer": {"kind": "adamw", "lr": 1e-4}}).optimizer
    changes = {"model": model, "freeze": freeze, "epochs": 2, "optimizer": optimizer.model_dump(mode="json")}
    mine = train_with(data, tmp_path / "mine", section(on_disk()), 2, **changes)
    theirs = train_with(data, tmp_path / "theirs", section(sharded(3)), 2, **changes)
    for name, values in history(theirs).items():
        assert history(mine)[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name


@pytest.mark.timeout(1200)
def test_bf16_on_the_disk_trains_as_it_does_in_memory(tmp_path, data, async_io):
    found = {}
    for name, document in (("disk", on_disk()), ("memory", sharded(3))):
        strategy = section({**document, "bf16": {"enabled": True}})
        changes = {"model": LARGE, "precision": "bf16", "epochs": 2}
        found[name] = history(train_with(data, tmp_path / name, strategy, 2, **changes))
    assert found["disk"]["val/loss"] == pytest.approx(found["memory"]["val/loss"], rel=1e-3)


def test_a_disk_that_is_too_small_is_told_before_the_training(tmp_path):
    from rayml.errors import StageError
    from rayml.stages.train.strategies.swap_folder import room_for

    with pytest.raises(StageError, match="has no room for"), room_for(tmp_path, 2**60):
        pass
    with room_for(tmp_path, 2**20):
        assert [file.stat().st_size for file in tmp_path.iterdir()] == [2**20]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused_before_the_training(tmp_path):
    from rayml.errors import StageError
    from rayml.stages.train.strategies.swap_folder import take_folder

    (tmp_path / "file").write_text("")
    with pytest.raises(StageError, match="cannot be swapped to") as caught:
        take_folder(tmp_path / "file" / "folder")
    assert "local disk" in caught.value.hint


def test_a_node_that_cannot_compile_is_told_what_to_type(monkeypatch):
    from types import SimpleNamespace

    from rayml.stages.train.strategies.deepspeed_disk import lacking

    without_libaio = SimpleNamespace(is_compatible=lambda verbose: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler" in lacking(without_libaio)[0]
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert "apt-get install libaio-dev" in lacking(without_libaio)[1]
    assert lacking(SimpleNamespace(is_compatible=lambda verbose: True)) is None


def test_buffers_are_as_large_as_the_largest_part_of_a_weight():
    import torch

    from rayml.errors import StageError
    from rayml.stages.train.strategies.deepspeed_disk import fit_buffers

    model = torch.nn.Sequential(torch.nn.Linear(1000, 1001), torch.nn.Linear(1001, 3))
    found: dict[str, Any] = {}
    fit_buffers(found, model, 2)
    assert found["buffer_size"] == 500_500
    with pytest.raises(StageError, match=r"part of 0.weight has 500,500"):
        fit_buffers({"buffer_size": 500_499}, model, 2)
    with pytest.raises(StageError, match="0 buffers"):
        fit_buffers({"buffer_count": 0}, model, 2)


def test_weights_of_another_model_are_named_with_both_shapes():
    import torch

    from rayml.errors import StageError
    from rayml.stages.train.strategies.deepspeed_state import require_shape

    with pytest.raises(StageError, match=r"'head.bias' has the shape \[1\], and the model's is \[10\]"):
        require_shape("head.bias", torch.nn.Parameter(torch.zeros(10)), torch.zeros(1))
