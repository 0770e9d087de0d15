"""How an epoch goes, told while it goes."""

from __future__ import annotations

import time

from torch import Tensor

from rayml.stages.api import Emit
from rayml.stages.train.state import LoopConfig, LoopState, settle

PROGRESS_INTERVAL_S = 0.5


class Progress:
    """Tells how the epoch goes, from this rank, at most twice a second."""

    def __init__(self, config: LoopConfig, rows: int, state: LoopState, emit: Emit) -> None:
        self.config, self.state, self.emit = config, state, emit
        self.batches = -(-rows // config.train["batch_size"])
        self.first_batch = state.batch
        self.started = self.shown = time.perf_counter()

    def show(self, running: Tensor) -> None:
        now = time.perf_counter()
        if now - self.shown < PROGRESS_INTERVAL_S:
            return
        self.shown = now
        settle(self.state, running)
        state, config = self.state, self.config
        self.emit(
            "progress",
            epoch=state.epoch + 1,
            epochs=config.train["epochs"],
            batch=state.batch,
            batches=self.batches,
            loss=state.loss_sum / state.rows_seen if state.rows_seen else 0.0,
            samples_per_s=config.train["batch_size"] * (state.batch - self.first_batch) / (now - self.started),
        )

    def stop_clock(self) -> None:
        """Add the time since the last call to the epoch's seconds: checkpoints and validation are not training."""
        now = time.perf_counter()
        self.state.seconds += now - self.started
        self.started, self.first_batch = now, self.state.batch
