"""Where DeepSpeed keeps what is not in use: the device, the host's memory, or a disk (arXiv 2101.06840, 2104.07857)."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from rayml.plan.deepspeed_check import AUTO, Checked, agree
from rayml.plan.deepspeed_keys import DOCUMENT, OFFLOAD_OPTIMIZER
from rayml.spec.optimizer import Optimizer
from rayml.spec.strategy import DeepSpeedStrategy
from rayml.spec.train import TrainSpec
from rayml.spec.words import show

DEVICES = ("none", "cpu", "nvme")
SHARDS = 3
"""The stage that shards weights, and the one in which DeepSpeed 0.19 swaps to a disk."""
REUSE, PREFETCH = "stage3_max_reuse_distance", "stage3_prefetch_bucket_size"
PLACES = {name: f"zero_optimization.offload_{name}" for name in ("optimizer", "param")}
MISALIGNED = (
    "DeepSpeed 0.19 reads gradients from the disk to where they begin in their group, past the page cache, which fails "
    "silently where that is no multiple of 512 bytes; with 1 each weight is a group"
)
"""Held against training without a disk: layers of 600 and 1024 had other losses from the second step on."""
AIO_COUNTS = ("block_size", "queue_depth", "intra_op_parallelism")


def settle_offload(checked: Checked, train: TrainSpec, stage: int) -> str:
    """Where the optimizer keeps its tensors, none, cpu or nvme; it and the weights' place written into the document."""
    strategy = train.strategy
    assert isinstance(strategy, DeepSpeedStrategy), "the caller asks for no other"
    zero = checked.document["zero_optimization"]
    in_job = None if strategy.offload == AUTO else strategy.offload
    devices = {}
    for name, place in PLACES.items():
        section = zero.get(f"offload_{name}", {})
        wanted = in_job if name == "optimizer" or (stage == SHARDS and in_job != "none") else None
        device = agree(checked, f"{place}.device", section.get("device"), "train.strategy.offload", wanted) or "none"
        if device not in DEVICES:
            checked.problem(f"{place}.device", f"{show(device)} is not none, cpu or nvme")
        if wanted not in (None, "none"):
            section = zero[f"offload_{name}"] = {**section, "device": device}
        if device == "nvme":
            settle_folder(checked, section, place, strategy.nvme_path)
        devices[name] = device
    check_stage(checked, devices, stage)
    if zero.get("offload_optimizer", {}).get("super_offload"):
        checked.problem(f"{PLACES['optimizer']}.super_offload", "rayml cannot save its state", "write false")
    if "nvme" in devices.values():
        settle_swapping(checked, devices, train.optimizer)
    elif strategy.nvme_path is not None:
        checked.problem(
            "train.strategy.nvme_path", "nothing is kept on a disk", "write offload: nvme beside it, or delete it"
        )
    settle_autos(zero)
    return devices["optimizer"]


def check_stage(checked: Checked, devices: dict[str, str], stage: int) -> None:
    """Problems where the stage has nothing to put there."""
    optimizer, weights = devices["optimizer"], devices["param"]
    if optimizer != "none" and stage == 0:
        checked.problem(f"{PLACES['optimizer']}.device", f"{optimizer} needs ZeRO stage 1, 2 or 3, and the stage is 0")
    elif optimizer == "nvme" and stage != SHARDS:
        checked.problem(
            f"{PLACES['optimizer']}.device",
            f"DeepSpeed 0.19 swaps to a disk in stage 3 alone; in stage {stage} it takes nvme for cpu, silently",
            "write zero_stage: 3, or cpu",
        )
    if weights != "none" and stage != SHARDS:
        checked.problem(PLACES["param"], f"weights are sharded by stage 3, and the stage is {stage}")


def settle_folder(checked: Checked, section: dict[str, Any], place: str, in_job: str | None) -> None:
    """The folder of a section that is on a disk. A problem without one, and where every node would see another."""
    key = f"{place}.nvme_path"
    path = agree(checked, key, section.get("nvme_path"), "train.strategy.nvme_path", in_job)
    fits = "write nvme_path: /local_nvme, or what a folder of a local disk is called on every node"
    if path is None:
        checked.problem(key, "nvme needs a folder of a disk, and none is named", fits)
    elif not isinstance(path, str) or not PurePosixPath(path).is_absolute():
        checked.problem(key, f"{show(path)} is not a path from the root", fits)
    section["nvme_path"] = path


def settle_swapping(checked: Checked, devices: dict[str, str], optimizer: Optimizer) -> None:
    """How tensors come from the disk and go there. Problems where DeepSpeed would run out of buffers later."""
    zero = checked.document["zero_optimization"]
    if devices["param"] == "nvme":
        only(
            checked,
            zero,
            REUSE,
            0,
            "weights that are used again within it stay in a buffer each, of which there are few",
        )
        only(
            checked,
            zero,
            PREFETCH,
            0,
            "DeepSpeed 0.19 ends where it fetches a weight from the disk for two uses at once",
        )
        only(checked, zero["offload_param"], "max_in_cpu", 0, "rayml has not been run with a part of them in memory")
    if devices["optimizer"] == "nvme":
        only(checked, zero, "sub_group_size", 1, MISALIGNED)
        check_buffers(checked, zero["offload_optimizer"], optimizer)
    aio = checked.document.get("aio", {})
    for key in AIO_COUNTS:
        value = aio.get(key, 1)
        if not isinstance(value, int) or value < 1:
            checked.problem(f"aio.{key}", f"{show(value)} is not a whole number from 1")
    if aio.get("use_gds"):
        checked.problem("aio.use_gds", "rayml has not been run with GPUDirect Storage", "write false")


def only(checked: Checked, section: dict[str, Any], key: str, value: int, reason: str) -> None:
    """Write the one value with which the training is right; a problem where the document says another."""
    said = section.get(key, AUTO)
    if said not in (AUTO, value):
        checked.problem(f"zero_optimization, {key}", f"{show(said)}: {reason}", f'write {value}, or "auto"')
    section[key] = value


def check_buffers(checked: Checked, section: dict[str, Any], optimizer: Optimizer) -> None:
    """Problems with the buffers of the optimizer's tensors: one for each tensor of a group, and again for each group
    that is under way beside it."""
    place = PLACES["optimizer"]
    if section.get("fast_init"):
        checked.problem(
            f"{place}.fast_init", "it needs buffers of the weights as large as all of a group", "write false"
        )
    states = {"adam": 2, "adamw": 2, "lion": 1, "sgd": 1}.get(optimizer.kind, 0)
    ways = [name for name in ("pipeline_read", "pipeline_write") if section.get(name)]
    needed = (2 + states) * (1 + len(ways))
    said = section.get("buffer_count", AUTO)
    if said == AUTO:
        section["buffer_count"] = max(needed, OFFLOAD_OPTIMIZER["buffer_count"])
    elif said < needed:
        beside = f", and again for {' and '.join(ways)}" if ways else ""
        checked.problem(
            f"{place}.buffer_count",
            f"{show(said)} buffers, and {optimizer.kind} has weights, gradients and {states} more of a part in one "
            f"each{beside}",
            f'write {needed}, or "auto"',
        )


def settle_autos(zero: dict[str, Any]) -> None:
    """DeepSpeed's default for an "auto" that nobody has settled. What depends on the model the training settles."""
    for name in ("optimizer", "param"):
        section = zero.get(f"offload_{name}", {})
        for key in [key for key in section if section[key] == AUTO]:
            del section[key]
    for key in (REUSE, PREFETCH, "sub_group_size"):
        if zero.get(key) == AUTO:
            zero[key] = DOCUMENT["zero_optimization"][key]
