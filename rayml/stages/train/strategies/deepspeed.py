"""`deepspeed`: ZeRO 0 to 3 by the DeepSpeed library (arXiv 1910.02054, 2101.06840), which gets a complete document."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from rayml.ml.models import Classifier
from rayml.stages.train.schedules import set_lr
from rayml.stages.train.strategies.base import MicroBatch, Recipe, Seat, TrainingState
from rayml.stages.train.strategies.deepspeed_disk import use_disk
from rayml.stages.train.strategies.deepspeed_layouts import in_full_shape, layout_of
from rayml.stages.train.strategies.deepspeed_setup import cast_inputs, import_deepspeed
from rayml.stages.train.strategies.deepspeed_state import Layout, split_by_step, steps_taken
from rayml.stages.train.strategies.statistics import share_statistics


class DeepSpeed:
    """One DeepSpeed engine, configured by the document that the plan has resolved and by nothing else."""

    counts = True
    sharded = False
    notes: Sequence[str] = ()

    def __init__(self, config: dict[str, Any], seat: Seat) -> None:
        self.document, self.stage, self.seat = config["document"], config["zero_stage"], seat
        self.data_rank, self.data_size = seat.rank, seat.world_size
        self.engine: Any = None

    def prepare(self, model: Classifier, recipe: Recipe) -> None:
        kept = None if self.engine is None else self.gather(everywhere=True)
        if self.engine is None:
            import_deepspeed(self.seat)
            cast_inputs(model.network, self.document)
            self.document = use_disk(self.document, model, self.seat.world_size)
        self.model, self.recipe = model, recipe
        self.start(steps={})
        if kept is not None:
            self.load(kept)

    def start(self, steps: dict[str, float]) -> None:
        """Build the engine. Parameters that have taken different numbers of steps come into different groups."""
        import deepspeed

        if self.engine is not None:
            self.engine.destroy()
        with in_full_shape(self.model):
            optimizer = self.recipe.make_optimizer(self.model.named_parameters())
        optimizer.param_groups[:] = split_by_step(optimizer.param_groups, steps)
        self.engine, *_ = deepspeed.initialize(
            model=self.model,
            optimizer=optimizer,
            config=self.configuration(),
            dist_init_required=False,
        )
        trained = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        self.layout: Layout = layout_of(self.stage, self.engine, trained)

    def configuration(self) -> dict[str, Any]:
        """The document for this training. The plan has seen to it that file and job do not contradict each other."""
        rows, parts = self.document["train_micro_batch_size_per_gpu"], self.recipe.accumulation
        return {
            **deepcopy(self.document),
            "train_batch_size": rows * parts * self.data_size,
            "gradient_accumulation_steps": parts,
            "gradient_clipping": self.recipe.clip_norm or 0.0,
        }

    def step(self, batches: Sequence[MicroBatch]) -> Tensor:
        total: Tensor | None = None
        for left, batch in zip(range(len(batches) - 1, -1, -1), batches, strict=True):
            self.engine.set_gradient_accumulation_boundary(left == 0)
            loss = batch.loss(self.recipe, self.engine(batch.features).float())
            # The engine takes the mean over the ranks; over the micro-batches the weights have taken it.
            self.engine.backward(loss * (batch.weight * self.data_size), scale_wrt_gas=False)
            if batch.weight:
                total = loss.detach() if total is None else total + loss.detach()
        self.engine.step()
        if total is None:
            return torch.zeros((), device=self.seat.device)
        return total.nan_to_num(0.0, 0.0, 0.0) if self.recipe.on_nonfinite == "skip" else total

    @property
    def skipped(self) -> int:
        return int(self.engine.skipped_steps)

    def settle(self) -> None:
        share_statistics(self.model)

    def predict(self, features: Tensor) -> Tensor:
        logits: Tensor = self.model(features)
        return logits

    def set_lr(self, factor: float) -> None:
        if self.engine.lr_scheduler is None:
            set_lr(self.engine.basic_optimizer, factor)

    def state(self) -> TrainingState:
        return self.gather(everywhere=False)

    def gather(self, *, everywhere: bool) -> TrainingState:
        """The whole state on the CPU of the first rank, or of every rank; one tensor at a time on the device."""
        keeps = everywhere or self.seat.rank == 0
        plain = {"loss_scale": self.loss_scale(), "skipped": self.engine.skipped_steps}
        if self.engine.lr_scheduler is not None:
            plain["scheduler"] = self.engine.lr_scheduler.state_dict()
        return TrainingState(self.layout.weights(self.model, keeps), self.layout.slots(keeps), plain)

    def load(self, state: TrainingState) -> None:
        steps = steps_taken(state.optimizer)
        if self.stage and len({steps.get(name, 0.0) for name in self.layout.trained}) > 1:
            self.start(steps)
        self.layout.load_weights(self.model, state.weights)
        self.layout.load_slots(state.optimizer)
        self.engine.skipped_steps = state.plain.get("skipped", 0)
        self.load_loss_scale(state.plain.get("loss_scale", {}))
        if self.engine.lr_scheduler is not None and "scheduler" in state.plain:
            self.engine.lr_scheduler.load_state_dict(state.plain["scheduler"])
            for group, lr in zip(
                self.engine.basic_optimizer.param_groups, self.engine.lr_scheduler.get_lr(), strict=True
            ):
                group["lr"] = lr

    def loss_scale(self) -> dict[str, float]:
        """The dynamic scale as strategies/loss_scale.py keeps it, and how many overflows DeepSpeed still bears."""
        scaler: Any = getattr(self.engine.optimizer, "loss_scaler", None)
        if not hasattr(scaler, "last_overflow_iter"):
            return {}
        good_steps = scaler.cur_iter - scaler.last_overflow_iter - 1
        return {"value": scaler.cur_scale, "good_steps": good_steps, "hysteresis": scaler.cur_hysteresis}

    def load_loss_scale(self, kept: dict[str, float]) -> None:
        if kept and self.loss_scale():
            scaler = self.engine.optimizer.loss_scaler
            scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = kept["value"], int(kept["good_steps"]), -1
            scaler.cur_hysteresis = int(kept.get("hysteresis", scaler.cur_hysteresis))
