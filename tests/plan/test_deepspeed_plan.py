"""Job and DeepSpeed document brought together: what wins, what is refused, and that the shipped tables are true."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayml.errors import PlanError
from rayml.plan import deepspeed_keys
from rayml.plan.deepspeed import resolve_deepspeed
from rayml.plan.deepspeed_check import parse_document
from rayml.spec.train import TrainSpec

FILE = "ds_zero3.json"


def resolve(document: dict[str, Any] | None = None, workers: int = 2, **job: Any):
    strategy = {"kind": "deepspeed", **({} if document is None else {"config": FILE}), **job.pop("strategy", {})}
    return resolve_deepspeed(TrainSpec.model_validate({"strategy": strategy, **job}), document, workers)


def refusal(document: dict[str, Any] | None = None, workers: int = 2, **job: Any) -> str:
    with pytest.raises(PlanError) as caught:
        resolve(document, workers, **job)
    return str(caught.value)


def test_without_a_file_the_job_alone_decides():
    train, section = resolve(batch_size=48, accumulation=2, clip={"norm": 0.5}, precision="bf16")
    assert (train.batch_size, train.accumulation, train.clip.norm) == (48, 2, 0.5)
    assert section == {
        "kind": "deepspeed",
        "zero_stage": 2,
        "offload": "none",
        "document": {
            "train_batch_size": 48,
            "train_micro_batch_size_per_gpu": 12,
            "gradient_accumulation_steps": 2,
            "gradient_clipping": 0.5,
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": 2},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "timers": {"throughput": {"enabled": False}},
        },
    }


def test_where_the_job_says_nothing_the_file_decides():
    document = {
        "train_batch_size": 96,
        "gradient_accumulation_steps": 4,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True}},
        "optimizer": {"type": "AdamW", "params": {"lr": 3e-4, "betas": [0.9, 0.95], "weight_decay": 0.1}},
    }
    before = json.dumps(document)
    train, section = resolve(document)
    assert (train.batch_size, train.accumulation, train.precision, train.clip.norm) == (96, 4, "bf16", 1.0)
    optimizer = train.optimizer
    assert (optimizer.kind, optimizer.lr, optimizer.betas, optimizer.weight_decay) == ("adamw", 3e-4, (0.9, 0.95), 0.1)
    assert (section["zero_stage"], section["offload"]) == (3, "cpu")
    assert section["document"]["train_micro_batch_size_per_gpu"] == 12
    assert json.dumps(document) == before, "the file's own values are not touched"


def test_auto_is_a_value_everywhere():
    document = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "fp16": {"enabled": "auto", "loss_scale": 0},
        "bf16": {"enabled": "auto"},
        "amp": {"enabled": "auto", "opt_level": "auto"},
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
        },
        "scheduler": {
            "type": "WarmupLR",
            "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": 100},
        },
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": "auto",
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
        },
    }
    train, section = resolve(document, optimizer={"kind": "adamw", "lr": 5e-4}, batch_size=30, precision="bf16")
    found = section["document"]
    assert '"auto"' not in json.dumps(section)
    assert train.optimizer.lr == 5e-4
    assert found["scheduler"]["params"] == {"warmup_min_lr": 0.0, "warmup_max_lr": 5e-4, "warmup_num_steps": 100}
    assert (found["bf16"]["enabled"], found["fp16"]["enabled"]) == (True, False)
    assert found["zero_optimization"]["reduce_bucket_size"] == 500_000_000
    assert "amp" not in found


@pytest.mark.parametrize(
    ("job", "computed"),
    [
        ({}, False),
        ({"clip": {"norm": 1.0}}, True),
        ({"on_nonfinite": "skip"}, True),
        ({"precision": "bf16"}, True),
        ({"strategy": {"offload": "cpu"}}, True),
        ({"strategy": {"zero_stage": 3}}, True),
    ],
)
def test_the_norm_of_the_gradients_is_computed_where_it_decides_something(job, computed):
    _, section = resolve(**job)
    assert section["document"]["zero_optimization"].get("compute_grad_norm", True) is computed


def test_a_file_without_a_stage_is_stage_0_and_without_clipping_does_not_clip():
    _, section = resolve({"train_batch_size": 8})
    assert (section["zero_stage"], section["document"]["gradient_clipping"]) == (0, 0.0)


@pytest.mark.parametrize(
    ("params", "kind", "decay"),
    [
        ({"lr": 0.01}, "adamw", 0.0),
        ({"lr": 0.01, "torch_adam": True}, "adamw", 0.01),
        ({"lr": 0.01, "adam_w_mode": False, "weight_decay": 0.2}, "adam", 0.2),
    ],
)
def test_deepspeed_s_adam_is_adamw_and_decays_nothing_by_itself(params, kind, decay):
    train, _ = resolve({"train_batch_size": 8, "optimizer": {"type": "Adam", "params": params}})
    assert (train.optimizer.kind, train.optimizer.weight_decay) == (kind, decay)


BATCHES = [
    # train_batch_size, micro, accumulation in the file; workers; what comes out
    ((64, None, None), 2, (64, 32, 1)),
    ((64, 8, None), 2, (64, 8, 4)),
    ((64, None, 4), 2, (64, 8, 4)),
    ((None, 8, 3), 2, (48, 8, 3)),
    ((None, 8, None), 3, (24, 8, 1)),
    ((None, None, 5), 3, (60, 4, 5)),
    ((96, 8, 4), 3, (96, 8, 4)),
    ((None, None, None), 3, (63, 21, 1)),
]
NAMES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


@pytest.mark.parametrize(("given", "workers", "expected"), BATCHES)
def test_the_three_factors_make_the_batch(given, workers, expected):
    document = {name: value for name, value in zip(NAMES, given, strict=True) if value is not None}
    train, section = resolve(document, workers)
    assert tuple(section["document"][name] for name in NAMES) == expected
    assert (train.batch_size, train.accumulation) == (expected[0], expected[2])


def test_a_batch_that_does_not_divide_shows_all_factors_and_what_fits():
    said = refusal({"train_batch_size": 100, "train_micro_batch_size_per_gpu": 16, "gradient_accumulation_steps": 2}, 3)
    assert "train_batch_size 100 is not train_micro_batch_size_per_gpu 16 x gradient_accumulation_steps 2 x" in said
    assert "3 workers = 96" in said
    assert "train_batch_size 96 with train_micro_batch_size_per_gpu 16" in said
    assert "train_batch_size 102 with train_micro_batch_size_per_gpu 17" in said
    said = refusal(batch_size=50, accumulation=4, workers=2)
    assert "train_batch_size 48" in said and "train_batch_size 56" in said
    said = refusal({"train_batch_size": 64, "train_micro_batch_size_per_gpu": 16, "gradient_accumulation_steps": 1})
    assert "gradient_accumulation_steps 2" in said and "train.workers 4" in said


BASE = {"train_batch_size": 32}
CONTRADICTIONS = [
    (BASE, {"batch_size": 64}, ["train_batch_size: 32", "train.batch_size", "64"]),
    (
        {**BASE, "gradient_accumulation_steps": 2},
        {"accumulation": 4},
        ["gradient_accumulation_steps: 2", "train.accumulation", "4"],
    ),
    ({**BASE, "fp16": {"enabled": True}}, {"precision": "bf16"}, ["fp16.enabled", "train.precision", "bf16"]),
    ({**BASE, "bf16": {"enabled": True}}, {"precision": "fp32"}, ["bf16.enabled", "train.precision", "fp32"]),
    ({**BASE, "bf16": {"enabled": False}}, {"precision": "bf16"}, ["bf16.enabled", "false", "bf16"]),
    (
        {**BASE, "gradient_clipping": 1.0},
        {"clip": {"norm": 0.5}},
        ["gradient_clipping", "1.0", "train.clip.norm", "0.5"],
    ),
    (
        {**BASE, "zero_optimization": {"stage": 2}},
        {"strategy": {"zero_stage": 3}},
        ["zero_optimization.stage: 2", "train.strategy.zero_stage", "3"],
    ),
    (
        {**BASE, "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}},
        {"strategy": {"offload": "cpu"}},
        ["offload_optimizer.device", '"none"', "train.strategy.offload", '"cpu"'],
    ),
    (
        {**BASE, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}},
        {"optimizer": {"kind": "adamw", "lr": 3e-4}},
        ["optimizer.params.lr", "0.0001", "train.optimizer.lr", "0.0003"],
    ),
    (
        {**BASE, "optimizer": {"type": "AdamW", "params": {}}},
        {"optimizer": {"kind": "sgd"}},
        ["optimizer.type", "AdamW", "train.optimizer.kind", "sgd"],
    ),
    (
        {**BASE, "scheduler": {"type": "WarmupLR", "params": {}}},
        {"schedule": {"kind": "cosine"}},
        ["scheduler.type", "WarmupLR", "train.schedule.kind", "cosine"],
    ),
]


@pytest.mark.parametrize(("document", "job", "words"), CONTRADICTIONS)
def test_a_contradiction_names_both_places_and_values(document, job, words):
    said = refusal(document, **job)
    assert said.startswith(f"{FILE}: ")
    for word in words:
        assert word in said, said


def test_what_both_say_alike_is_no_contradiction():
    document = {
        "train_batch_size": 32,
        "gradient_clipping": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.999]}},
        "fp16": {"enabled": False},
        "zero_optimization": {"stage": 1},
    }
    train, _ = resolve(
        document,
        batch_size=32,
        clip={"norm": 1.0},
        precision="bf16",
        optimizer={"kind": "adamw", "no_decay": "vectors"},
    )
    assert (train.precision, train.optimizer.no_decay) == ("bf16", "vectors")


DISK = {"device": "nvme", "nvme_path": "/local_nvme"}


def swapping(optimizer: dict[str, Any], stage: int = 3, **more: Any) -> dict[str, Any]:
    """A document with the optimizer's tensors on a disk."""
    return {"zero_optimization": {"stage": stage, "offload_optimizer": {"device": "nvme", **optimizer}}, **more}


WRONG = [
    ({"train_batchsize": 8}, {}, "train_batchsize: DeepSpeed knows no such key; did you mean `train_batch_size`?"),
    (
        {"zero_optimization": {"stage": 2, "reduce_buckets_size": 1}},
        {},
        "zero_optimization.reduce_buckets_size: DeepSpeed knows no such key; did you mean `reduce_bucket_size`?",
    ),
    (
        {"zero_optimization": {"stage": 3, "offload_param": {"devise": "cpu"}}},
        {},
        "zero_optimization.offload_param.devise: DeepSpeed knows no such key; did you mean `device`?",
    ),
    ({"zero_optimization": {"stage": 4}}, {}, "zero_optimization.stage: 4 is not 0, 1, 2 or 3"),
    ({"zero_optimization": {"stage": "2"}}, {}, 'zero_optimization.stage: "2" is not a number'),
    ({"zero_optimization": {"stage": 2, "overlap_comm": [1]}}, {}, "overlap_comm: [1] is not"),
    ({"zero_optimization": {"stage": 3, "zenflow": {"topk_ratio": 0.1}}}, {}, "zero_optimization.zenflow"),
    ({"bf16": {"enabled": "yes"}}, {}, 'bf16.enabled: "yes" is not true or false'),
    ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, {}, "both fp16 and bf16 are on"),
    ({"elasticity": {"enabled": True}}, {}, "elasticity: rayml does not hand this to DeepSpeed"),
    ({"pipeline": {"stages": 2}}, {}, "write train.strategy: {kind: pipeline}"),
    ({"sequence_parallel_size": 2}, {}, "rayml has no sequence parallelism"),
    ({"sparse_gradients": True}, {}, "sparse_gradients"),
    ({"gradient_allreduce_op": "sum"}, {}, "the mean over the global batch"),
    ({"optimizer": {"type": "OneBitAdam", "params": {}}}, {}, '"OneBitAdam" is not run by rayml'),
    ({"optimizer": {"type": "AdamW", "params": {"beta": 1}}}, {}, "did you mean `betas`?"),
    ({"optimizer": {"type": "AdamW", "params": {"lr": -1}}}, {}, "optimizer.params.lr: -1"),
    ({"optimizer": {"type": "AdamW", "params": {"max_grad_norm": 1}}}, {}, "`gradient_clipping`"),
    ({"optimizer": {"type": "AdamW", "params": {"amsgrad": True}}}, {}, "true is another rule"),
    ({"scheduler": {"type": "WarmupLr", "params": {}}}, {}, "did you mean `WarmupLR`?"),
    ({"scheduler": {"type": "WarmupDecayLR", "params": {}}}, {}, "total_num_steps: null, and how many"),
    ({"scheduler": {"type": "WarmupLR", "params": {"warmup_steps": 3}}}, {}, "did you mean `warmup_num_steps`?"),
    (
        {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": "auto"}}},
        {},
        'total_num_steps: "auto", and how many steps there are is known when the data is',
    ),
    ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, {}, "weights are sharded by stage 3"),
    (swapping({}), {}, "offload_optimizer.nvme_path: nvme needs a folder of a disk"),
    (swapping({"nvme_path": "swap"}), {}, '"swap" is not a path from the root'),
    (swapping(DISK, stage=2), {}, "swaps to a disk in stage 3 alone"),
    (swapping({**DISK, "buffer_count": 3}), {}, "3 buffers, and adamw has weights, gradients and 2 more"),
    (swapping({**DISK, "buffer_count": 4, "pipeline_read": True}), {}, 'write 8, or "auto"'),
    (swapping({**DISK, "fast_init": True}), {}, "fast_init"),
    (swapping(DISK, aio={"queue_depth": 0}), {}, "aio.queue_depth: 0 is not a whole number from 1"),
    (swapping(DISK, aio={"blocksize": 1}), {}, "did you mean `block_size`?"),
    (swapping(DISK, aio={"use_gds": True}), {}, "GPUDirect"),
    (
        swapping(DISK),
        {"strategy": {"offload": "cpu"}},
        'device: "nvme", and train.strategy.offload in the job is "cpu"',
    ),
    (swapping(DISK), {"strategy": {"nvme_path": "/b"}}, "train.strategy.nvme_path in the job is"),
    (
        {"zero_optimization": {"stage": 3, "stage3_max_reuse_distance": 1e9, "offload_param": DISK}},
        {},
        "stay in a buffer each",
    ),
    ({"zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 5e7, "offload_param": DISK}}, {}, "two uses"),
    ({"zero_optimization": {"stage": 3, "offload_param": {**DISK, "max_in_cpu": 1e9}}}, {}, "max_in_cpu"),
    (
        {"zero_optimization": {"stage": 3, "sub_group_size": 1e9, "offload_optimizer": DISK}},
        {},
        "no multiple of 512 bytes",
    ),
    (None, {"strategy": {"zero_stage": 3, "offload": "cpu", "nvme_path": "/a"}}, "nothing is kept on a disk"),
    (None, {"strategy": {"zero_stage": 3, "offload": "nvme"}}, "offload_optimizer.nvme_path"),
    ({"train_batch_size": 0}, {}, "train_batch_size: 0 is not a whole number from 1"),
    ({"train_micro_batch_size_per_gpu": "8"}, {}, '"8" is not a whole number from 1'),
    ({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}}}, {}, '"auto" has no value here'),
    ({"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": "x"}}}, {}, 'cycle_min_lr: "x" is not a number'),
    (None, {"strategy": {"zero_stage": 0, "offload": "cpu"}}, "needs ZeRO stage 1, 2 or 3, and the stage is 0"),
    (None, {"strategy": {"zero_stage": 0}, "precision": "bf16"}, "trains otherwise in bf16"),
    (None, {"clip": {"value": 1.0}}, "train.clip.value: DeepSpeed clips by norm alone"),
    (None, {"l1": 0.1}, "train.l1: DeepSpeed takes no L1 penalty"),
    (None, {"strategy": {"zero_stage": 0}, "on_nonfinite": "skip"}, "train.on_nonfinite"),
    (None, {"optimizer": {"kind": "lamb"}}, "lamb needs whole parameters, and ZeRO stage 2 flattens"),
    (None, {"strategy": {"zero_stage": 3}, "average": {"kind": "ema"}}, "train.average"),
]


@pytest.mark.parametrize(("document", "job", "words"), WRONG)
def test_what_is_refused_and_why(document, job, words):
    assert words in refusal(document, **job)


def test_nvme_in_the_job_is_nvme_for_the_state_and_the_weights():
    _, section = resolve(strategy={"zero_stage": 3, "offload": "nvme", "nvme_path": "/local_nvme"})
    assert section["offload"] == "nvme"
    assert section["document"]["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": {**DISK, "buffer_count": 4},
        "offload_param": {**DISK, "max_in_cpu": 0},
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
        "sub_group_size": 1,
    }


def test_a_file_with_nvme_is_taken_with_its_autos():
    aio = {"block_size": 262144, "queue_depth": 32, "single_submit": False, "overlap_events": True}
    zero = {
        "stage": 3,
        "offload_optimizer": {**DISK, "buffer_count": "auto", "pipeline_read": True, "pipeline_write": True},
        "offload_param": {**DISK, "buffer_size": "auto", "max_in_cpu": 0},
        "stage3_max_reuse_distance": "auto",
        "sub_group_size": "auto",
    }
    _, section = resolve({"zero_optimization": zero, "aio": aio}, optimizer={"kind": "lion"})
    found = section["document"]
    assert found["aio"] == aio
    assert found["zero_optimization"]["offload_optimizer"]["buffer_count"] == 9
    assert found["zero_optimization"]["offload_param"] == {**DISK, "max_in_cpu": 0}
    assert found["zero_optimization"]["stage3_max_reuse_distance"] == 0
    autos = {"stage3_max_reuse_distance": "auto", "sub_group_size": "auto"}
    _, section = resolve({"zero_optimization": {"stage": 3, **autos}})
    assert section["document"]["zero_optimization"] == {"stage": 3, **dict.fromkeys(autos, 1_000_000_000)}


def test_everything_that_is_wrong_is_said_at_once():
    said = refusal({"train_batch_sise": 8, "zero_optimisation": {}, "elasticity": {"enabled": True}})
    assert said.count("DeepSpeed knows no such key") == 2
    assert "elasticity" in said


@pytest.mark.parametrize(
    "off",
    [
        {"elasticity": {"enabled": False}},
        {"sparse_gradients": False},
        {"sequence_parallel_size": 1},
        {"amp": {"enabled": "auto"}},
    ],
)
def test_what_is_switched_off_may_stand_there(off):
    _, section = resolve({"train_batch_size": 8, **off})
    assert not set(off) & set(section["document"])


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('{\n  "train_batch_size": 8,\n}', f"{FILE}:3:1", "this is not JSON"),
        ('{\n  // Größe\n  "train_batch_size": 8\n}', f"{FILE}:2:3", "JSON has no comments"),
        ('{"bf16": {}, "bf16": {}}', FILE, "`bf16` stands there twice"),
        ('{"gradient_clipping": NaN}', FILE, "NaN is no number"),
        ("[1]", FILE, "a DeepSpeed document is a JSON object"),
        ("", f"{FILE}:1:1", "this is not JSON"),
        ("[" * 100_000, FILE, "more deeply than JSON is read"),
    ],
)
def test_a_broken_file_is_told_with_line_and_column(text, where, what):
    with pytest.raises(PlanError) as caught:
        parse_document(text, FILE)
    assert caught.value.where == where
    assert what in caught.value.what


def defaults(model: Any) -> dict[str, Any]:
    """Name in a file to default, of one of DeepSpeed's pydantic classes."""
    found = {}
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True)
        found[field.alias or name] = getattr(value, "value", value)
    return found


def flat(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if not isinstance(value, dict)}


def test_the_tables_are_those_of_the_installed_deepspeed(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    pytest.importorskip("deepspeed")
    import inspect

    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.monitor.config import CSVConfig, TensorBoardConfig, WandbConfig
    from deepspeed.runtime import config, constants, lr_schedules, precision_config
    from deepspeed.runtime.swap_tensor.aio_config import AIO_DEFAULT_DICT
    from deepspeed.runtime.zero import config as zero
    from deepspeed.runtime.zero import offload_config

    known = deepspeed_keys.DOCUMENT
    pairs = [
        (deepspeed_keys.OFFLOAD_OPTIMIZER, offload_config.DeepSpeedZeroOffloadOptimizerConfig),
        (deepspeed_keys.OFFLOAD_PARAM, offload_config.DeepSpeedZeroOffloadParamConfig),
        (deepspeed_keys.FP16, precision_config.DeepSpeedFP16Config),
        (deepspeed_keys.BF16, precision_config.DeepSpeedBF16Config),
        (known["tensorboard"], TensorBoardConfig),
        (known["csv_monitor"], CSVConfig),
        (known["wandb"], WandbConfig),
        (known["comms_logger"], CommsLoggerConfig),
    ]
    for ours, theirs in pairs:
        assert ours == defaults(theirs), theirs.__name__
    whole = defaults(zero.DeepSpeedZeroConfig)
    missing = whole.keys() - deepspeed_keys.ZERO.keys()
    assert missing == deepspeed_keys.UNDER_ZERO.keys() - config._REMOVED_ZERO_CONFIG_KEYS.keys()
    assert deepspeed_keys.ZERO.keys() <= whole.keys()
    assert flat(deepspeed_keys.ZERO).items() <= whole.items()
    assert known["aio"] == AIO_DEFAULT_DICT
    assert config._REMOVED_TOP_LEVEL_CONFIG_KEYS.keys() <= deepspeed_keys.LEFT_TO_OTHERS.keys()
    for name, value in flat(known).items():
        constant = getattr(constants, f"{name.upper()}_DEFAULT", value)
        assert getattr(constants, name.upper(), name) == name
        assert value == constant, name
    for name, ours in deepspeed_keys.SCHEDULERS.items():
        signature = inspect.signature(getattr(lr_schedules, name).__init__).parameters
        assert ours.keys() == signature.keys() - {"self", "optimizer"}, name
        for key, parameter in signature.items():
            if ours.get(key) is not None and parameter.default not in (parameter.empty, None):
                assert ours[key] == parameter.default, f"{name}.{key}"
    assert set(deepspeed_keys.SCHEDULERS) == set(lr_schedules.VALID_LR_SCHEDULES)
