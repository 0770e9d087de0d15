"""From the train step's configuration to the parts of the loop: model, recipe, strategy, schedule, data."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayml.ml import order
from rayml.ml.adapters import add_adapter
from rayml.ml.losses import build_loss
from rayml.ml.models import Classifier, build_model
from rayml.ml.pretrained import load_start
from rayml.ml.schema import Schema
from rayml.ml.shards import ShardSet, load_schema
from rayml.ml.trained import load_trained
from rayml.stages.api import Emit
from rayml.stages.train.averaging import Average, build_average
from rayml.stages.train.distill import build_distillation, open_logits
from rayml.stages.train.fake_quant import add_fake_quantization
from rayml.stages.train.matching import add_matching, has_matches
from rayml.stages.train.modules import compute_twice
from rayml.stages.train.optimizers import build_optimizer
from rayml.stages.train.schedules import Schedule
from rayml.stages.train.state import LoopConfig
from rayml.stages.train.strategies.base import Recipe, Seat, Strategy
from rayml.stages.train.strategies.statistics import has_running_statistics
from rayml.stages.train.strategies.table import build_strategy

TRAINED_ON = {"train": ("train",), "train_and_val": ("train", "val")}


@dataclass
class Training:
    """All parts of one rank's training."""

    config: LoopConfig
    seat: Seat
    generator: torch.Generator
    """Dropout draws from it."""
    train_set: ShardSet
    val_set: ShardSet
    expected_ids: int
    """Fingerprint of the training split's sample ids: what an epoch has to have read."""
    model: Classifier
    recipe: Recipe
    strategy: Strategy
    schedule: Schedule
    average: Average | None
    soft: NDArray[np.float32] | None = None
    """`[rows, classes]` logits of the teacher for the rows of `train_set`, mapped."""
    stepped: bool = False
    """Whether this process has made an optimizer step."""
    fewest_rows: int = 1
    """Rows that a micro-batch has at least: batch norm needs two."""
    statistics: dict[str, Tensor] = field(default_factory=dict)
    """Buffers that belong to the averaged weights, from the last validation."""


def assemble(config: LoopConfig, seat: Seat, emit: Emit) -> Training:
    """Build everything but what a checkpoint holds; the strategy is not prepared yet."""
    train = config.train
    torch.set_num_threads(config.threads)
    torch.manual_seed(train["seed"])
    if train["deterministic"]:
        be_deterministic()
    data = Path(config.data)
    schema = load_schema(data)
    train_set = ShardSet.open(data, *TRAINED_ON[train["rows"]])
    steps_per_epoch = -(-len(train_set) // train["batch_size"])
    soft = None if train["distill"] is None else open_logits(config.teacher, len(train_set), len(schema.classes))
    model = make_model(config, schema, emit)
    return Training(
        config=config,
        seat=seat,
        generator=device_generator(seat.device),
        train_set=train_set,
        soft=soft,
        val_set=ShardSet.open(data, "val"),
        expected_ids=order.fingerprint(train_set.sample_ids),
        model=model,
        recipe=build_recipe(train, schema, class_counts(train_set, schema), config.code),
        strategy=build_strategy(train["strategy"], seat),
        schedule=Schedule(train["schedule"], steps_per_epoch, train["epochs"]),
        fewest_rows=2 if has_running_statistics(model) else 1,
        average=build_average(train["average"], steps_per_epoch, train["epochs"]),
    )


def make_model(config: LoopConfig, schema: Schema, emit: Emit) -> Classifier:
    """The network with its first weights, its adapter, and what makes it fast. Tells what was loaded."""
    train = config.train
    model = build_model(train["model"], schema, config.code)
    if config.start is not None:
        loaded = load_start(train["start"], model, Path(config.start))
        emit("note", text=loaded.sentence())
        emit("fact", name="start", value=loaded.to_json())
    if train["adapter"] is not None:
        adapted = add_adapter(model, train["adapter"], schema)
        emit("note", text=adapted.sentence())
        emit("fact", name="adapter", value=asdict(adapted))
    if train["channels_last"]:
        use_channels_last(model)
    if train["quantize"] is not None:
        left_out = "; activation_checkpointing is left out" if train["activation_checkpointing"] else ""
        emit("note", text=add_fake_quantization(model, train["quantize"]) + left_out)
    # Computed twice, a layer would count each batch twice in its range, and round otherwise at the second time.
    if train["activation_checkpointing"] and train["quantize"] is None:
        compute_twice(model, train["blocks"])
    if config.teacher is not None and has_matches(train["distill"]):
        teacher = load_trained(Path(config.teacher), schema, config.code)
        # The hooks that read the layers of two networks do not survive it.
        left_out = "; compile is left out" if train["compile"] else ""
        emit("note", text=add_matching(model, teacher, train["distill"], train["strategy"]["kind"], schema) + left_out)
    elif train["compile"]:
        model.compile()
    return model


def class_counts(train_set: ShardSet, schema: Schema) -> list[int]:
    """Rows of each class."""
    return np.bincount(train_set.labels, minlength=len(schema.classes)).tolist()  # type: ignore[no-any-return]


def build_recipe(train: dict[str, Any], schema: Schema, counts: list[int], code: str | None) -> Recipe:
    """What every strategy has to honour. `counts`: rows of each class in the training split."""
    return Recipe(
        loss=build_loss(train["loss"], schema.classes, counts, code),
        make_optimizer=partial(build_optimizer, train["optimizer"], fused=train["fused"]),
        example=torch.zeros((1, *schema.feature.shape), dtype=getattr(torch, schema.feature.dtype)),
        blocks=tuple(train["blocks"]),
        accumulation=train["accumulation"],
        precision=train["precision"],
        clip_norm=train["clip"]["norm"],
        clip_value=train["clip"]["value"],
        l1=train["l1"],
        distill=build_distillation(train["distill"], len(schema.classes)),
        on_nonfinite=train["on_nonfinite"],
    )


def use_channels_last(model: Classifier) -> None:
    """Let convolutions read `[batch, height, width, channels]`, which is faster on most processors and GPUs."""
    model.to(memory_format=torch.channels_last)
    model.preprocess.memory_format = torch.channels_last


def be_deterministic() -> None:
    """The same bits at each run on the same machine; an operation that cannot raises an error that names it."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def device_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout draws from. Seeding it alone is 50 times cheaper than `torch.manual_seed`."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
