"""Rows of the training split: some to find ranges on, others to judge what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader

from rayml.errors import StageError
from rayml.ml.shards import ShardSet
from rayml.stages.compress.api import Work

FEWEST = 16
JUDGED = 512
BATCH = 32


@dataclass(frozen=True)
class Rows:
    """Raw records `[n, *shape]` to calibrate on, and others `[m, *shape]` to judge on."""

    calibration: NDArray[Any]
    judged: NDArray[Any]
    apart: bool
    """Whether no row is in both."""


def rows_of(work: Work) -> Rows:
    """Rows spread evenly over the training split. StageError where fewer than 16 are asked for or there."""
    train = ShardSet.open(work.data, "train")
    asked, there = int(work.config["calibration"]["rows"]), len(train)
    if min(asked, there) < FEWEST:
        raise StageError(
            f"{min(asked, there)} rows are too few to find the range of an activation on; {FEWEST} to {there} fit"
            if there >= FEWEST
            else f"the training split has {there} rows, and calibration needs {FEWEST}",
            where="compress.ladder.calibration.rows",
            hint="write a larger number" if there >= FEWEST else "use a scheme without calibration, as int8_weights",
        )
    if asked > there:
        work.note(f"calibration on all {there} rows of the training split, which has fewer than the {asked} asked for")
    chosen = np.linspace(0, there - 1, num=min(asked, there), dtype=np.int64)
    others = np.setdiff1d(np.arange(there), chosen)
    apart = len(others) >= FEWEST
    judged = others if apart else chosen
    judged = judged[np.linspace(0, len(judged) - 1, num=min(JUDGED, len(judged)), dtype=np.int64)]
    return Rows(train.gather(chosen)[0], train.gather(judged)[0], apart)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands the rows to onnxruntime in batches of the same size, which its histograms need."""

    def __init__(self, feature: str, records: NDArray[Any]) -> None:
        self.feature, self.records, self.at = feature, records, 0

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch `[rows, *shape]`; None at the end."""
        batch = self.records[self.at : self.at + BATCH]
        self.at += BATCH
        return {self.feature: batch} if len(batch) else None
