"""Statistics of the training split, and the normalization that is fitted on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.ml.schema import ImageFeature, Normalization
from rayml.stages.data.rows import Feature

Floats = NDArray[np.float64]

EXACT_ROWS = 256
"""The sum of so many squares of uint8 stays below 2^24, up to which float32 counts exactly."""


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared distances from it, least and greatest value; each `[columns or channels] float64`."""

    count: Floats
    mean: Floats
    squares: Floats
    low: Floats
    high: Floats

    def merge(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm, 1979)."""
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        distance = other.mean - self.mean
        return Moments(
            count,
            self.mean + distance * share,
            self.squares + other.squares + distance**2 * self.count * share,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def std(self) -> Floats:
        """Standard deviation of the population."""
        std: Floats = np.sqrt(self.squares / np.maximum(self.count, 1))
        return std


def measure(features: NDArray[Any]) -> Moments:
    """Moments of `[rows, height, width, channels] uint8` per channel, or of `[rows, columns] float32` without NaN."""
    return _measure_images(features) if features.dtype == np.uint8 else _measure_columns(features)


def fit_normalization(
    feature: Feature,
    moments: Moments,
    normalize: Literal["standard", "minmax", "none"],
    missing: Literal["error", "mean", "median"],
    medians: Floats | None,
) -> Normalization:
    """What the model does to its input first.

    Args:
        feature: names the columns.
        moments: of the training split.
        normalize: how; a constant column is only shifted.
        missing: what NaN becomes. An image has none.
        medians: `[columns]` of the training split, where `missing` asks for them.

    Raises:
        StageError: a column has no value in the training split.
    """
    if not isinstance(feature, ImageFeature):
        _refuse_empty_columns(moments, feature.columns)
    constant = moments.low == moments.high
    if normalize == "standard":
        offset, scale = np.where(constant, moments.low, moments.mean), moments.std
    elif normalize == "minmax":
        offset, scale = moments.low, moments.high - moments.low
    else:
        offset, scale = np.zeros_like(moments.mean), np.ones_like(moments.mean)
    fill = None if missing == "error" or isinstance(feature, ImageFeature) else moments.mean
    if fill is not None and missing == "median":
        assert medians is not None, "the median was asked for and not computed"
        fill = medians
    return Normalization(
        offset=tuple(offset.tolist()),
        scale=tuple(np.where(constant, 1.0, scale).tolist()),
        missing=None if fill is None else tuple(fill.tolist()),
    )


def _measure_images(pixels: NDArray[np.uint8]) -> Moments:
    rows, height, width, channels = pixels.shape
    flat = pixels.reshape(rows, -1)
    sums, squares = np.zeros(flat.shape[1]), np.zeros(flat.shape[1])
    for start in range(0, rows, EXACT_ROWS):
        chunk = flat[start : start + EXACT_ROWS].astype(np.float32)
        sums += chunk.sum(axis=0)
        squares += np.einsum("ij,ij->j", chunk, chunk)
    by_channel = (height * width, channels)
    total, total_squares = sums.reshape(by_channel).sum(axis=0), squares.reshape(by_channel).sum(axis=0)
    count = np.full(channels, float(rows * height * width))
    mean = total / count
    low = flat.min(axis=0).reshape(by_channel).min(axis=0)
    high = flat.max(axis=0).reshape(by_channel).max(axis=0)
    distances = np.maximum(total_squares - total * mean, 0.0)
    return Moments(count, mean, distances, low.astype(np.float64), high.astype(np.float64))


def _measure_columns(values: NDArray[np.float32]) -> Moments:
    numbers = values.astype(np.float64)
    present = ~np.isnan(numbers)
    count = present.sum(axis=0).astype(np.float64)
    mean = np.where(present, numbers, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = (np.where(present, numbers - mean, 0.0) ** 2).sum(axis=0)
    low = np.where(present, numbers, np.inf).min(axis=0)
    high = np.where(present, numbers, -np.inf).max(axis=0)
    return Moments(count, mean, squares, low, high)


def _refuse_empty_columns(moments: Moments, columns: Sequence[str]) -> None:
    empty = [name for name, count in zip(columns, moments.count, strict=True) if count == 0]
    if empty:
        raise StageError(
            f"the columns {empty[:5]} have no value in the training split",
            hint="leave them out of data.columns",
        )
