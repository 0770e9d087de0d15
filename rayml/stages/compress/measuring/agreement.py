"""How a candidate's answers differ from the uncompressed model's on the same rows, with 95 % intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]
Integers = NDArray[np.int64]

RESAMPLES = 2000
Z = 1.959964
"""Of a two-sided 95 % interval."""
LEAST = 1e-12
"""A probability below this counts as this in a logarithm."""
NO_ANSWER = -1
"""Stands for the class of a row whose probabilities are not numbers: it is neither right nor the same as another."""


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers, and what was lost against the baseline."""

    value: float
    drop: float
    """Of the baseline less of the candidate; negative where the candidate is better."""
    low: float
    high: float
    """Of the drop: 2.5th and 97.5th percentile of resamples of the rows."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Agreement:
    """How far the answers are the same."""

    value: float
    """Share of the rows with the same most probable class."""
    low: float
    high: float
    """Wilson's interval (J. Am. Stat. Assoc. 22, 1927): of use at a share of 1, where that of a normal is empty."""
    rows: int
    only_baseline_right: int
    only_candidate_right: int
    """The two counts that McNemar's test is about (Psychometrika 12, 1947)."""
    max_abs: float
    mean_abs: float
    """Difference of the probabilities, over all rows and classes. What is not a number counts as 0."""
    mean_kl: float
    """Kullback-Leibler divergence of the candidate from the baseline, in nats per row."""
    not_numbers: int
    """Rows for which the candidate gave a probability that is not a number."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def accuracy(labels: Integers, baseline: Probabilities, candidate: Probabilities, *, seed: int) -> Accuracy:
    """Accuracy, and the paired bootstrap of its drop (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    A row adds -1, 0 or 1 to the drop, so a resample of the rows is a draw of three counts from a multinomial
    distribution: the same distribution as drawing rows, for the price of three numbers.

    Args:
        labels: `[rows] int64`.
        baseline, candidate: `[rows, classes] float32`.
    """
    rows = len(labels)
    right = top(candidate) == labels
    lost, won = discordant(labels, baseline, candidate)
    counts = np.array([lost, won, rows - lost - won])
    drawn = np.random.default_rng(seed).multinomial(rows, counts / rows, size=RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / rows, [2.5, 97.5])
    return Accuracy(float(right.mean()), (lost - won) / rows, float(low), float(high))


def agreement(labels: Integers, baseline: Probabilities, candidate: Probabilities) -> Agreement:
    """How far two models answer the same: labels `[rows] int64`, probabilities `[rows, classes] float32`."""
    same = int(((top(baseline) == top(candidate)) & (top(candidate) != NO_ANSWER)).sum())
    low, high = wilson(same, len(labels))
    lost, won = discordant(labels, baseline, candidate)
    before, after = (np.nan_to_num(each.astype(np.float64)) for each in (baseline, candidate))
    differences = np.abs(before - after)
    logarithms = np.log(np.maximum(before, LEAST)) - np.log(np.maximum(after, LEAST))
    return Agreement(
        value=same / len(labels),
        low=low,
        high=high,
        rows=len(labels),
        only_baseline_right=lost,
        only_candidate_right=won,
        max_abs=float(differences.max()),
        mean_abs=float(differences.mean()),
        mean_kl=max(0.0, float((before * logarithms).sum(axis=1).mean())),
        not_numbers=int((top(candidate) == NO_ANSWER).sum()),
    )


def loss(labels: Integers, probabilities: Probabilities) -> float:
    """Mean cross-entropy in nats per row; a probability that is not a number counts as 0."""
    own = np.nan_to_num(probabilities[np.arange(len(labels)), labels].astype(np.float64))
    return float(-np.log(np.maximum(own, LEAST)).mean())


def top(probabilities: Probabilities) -> Integers:
    """The most probable class of each row, `[rows] int64`."""
    known = np.isfinite(probabilities).all(axis=1)
    return np.where(known, probabilities.argmax(axis=1), NO_ANSWER)


def discordant(labels: Integers, baseline: Probabilities, candidate: Probabilities) -> tuple[int, int]:
    """Rows that only the baseline has right, and rows that only the candidate has right."""
    before, after = top(baseline) == labels, top(candidate) == labels
    return int((before & ~after).sum()), int((after & ~before).sum())


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    share, square = hits / rows, Z**2 / rows
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * float(np.sqrt(share * (1 - share) / rows + square / (4 * rows)))
    # Exact at the ends, where the rounding of floats leaves 1e-16.
    return (max(0.0, middle - half) if hits else 0.0), (min(1.0, middle + half) if hits < rows else 1.0)
