"""Metrics of a classifier with 95 % bootstrap intervals, for all resamples at once.

A resample of the rows is a column of weights: how often each row was drawn. Every metric is computed for a block of
such columns in one pass of numpy, so a thousand resamples cost a few dozen array operations and not a thousand calls.
The values are those of scikit-learn (`zero_division=0`), with and without `sample_weight`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayml.spec.evaluate import METRICS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK_BYTES = 2**20
"""Weights scored at once; never less than one resample. It fits the cache: 1 MiB is twice as fast as 16."""


@dataclass(frozen=True)
class Estimate:
    """A metric and the interval that holds 95 % of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """How one class fared."""

    precision: float
    recall: float
    f1: float
    support: int
    """Rows of this class."""
    roc_auc: float | None
    """This class against the rest; None where the sample has no row of it, or no row of another."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    metrics: dict[str, Estimate]
    """By the names of rayml.spec.evaluate.METRICS; `roc_auc` is left out where only one class occurs."""
    per_class: tuple[ClassScore, ...]
    confusion: Integers
    """`[true class, predicted class]` counts."""
    absent: tuple[int, ...]
    """Classes without a row in the sample: no recall and no ROC AUC can be given for them."""


def evaluate(
    labels: Integers,
    probabilities: NDArray[np.floating],
    *,
    predicted: Integers | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Every metric, with percentile intervals over bootstrap resamples of the rows.

    Args:
        labels: `[rows] int64`, indices of classes.
        probabilities: `[rows, classes]` floats.
        predicted: `[rows] int64`, the classes that the model named; the most probable ones where not given.
        resamples: how many times the rows are drawn again, with replacement.
        seed: the same seed gives the same intervals, whatever the size of a block.
    """
    sample = _Sample(labels, probabilities, predicted)
    values = sample.score(np.ones((sample.rows, 1)))
    drawn = _resample(sample, resamples, np.random.default_rng(seed))
    metrics: dict[str, Estimate] = {}
    for name in METRICS:
        value = float(values[name][0])
        if not np.isnan(value):
            low, high = np.nanpercentile(drawn[name], [2.5, 97.5])
            metrics[name] = Estimate(value, float(low), float(high))
    confusion = sample.confusion()
    support = confusion.sum(axis=1)
    return Evaluation(metrics, sample.per_class(), confusion, tuple(np.flatnonzero(support == 0).tolist()))


def score(
    labels: Integers,
    probabilities: NDArray[np.floating],
    *,
    predicted: Integers | None = None,
    sample_weight: Floats | None = None,
) -> dict[str, float]:
    """Every metric without intervals. `roc_auc` is NaN where only one class has weight."""
    sample = _Sample(labels, probabilities, predicted)
    weights = np.ones(sample.rows) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    return {name: float(values[0]) for name, values in sample.score(weights[:, None]).items()}


def _resample(sample: _Sample, resamples: int, generator: np.random.Generator) -> dict[str, Floats]:
    """Each metric of each resample, `[resamples]`."""
    rows = sample.rows
    block = max(1, BLOCK_BYTES // (8 * rows))
    drawn: dict[str, Floats] = {name: np.empty(resamples) for name in METRICS}
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        weights = np.empty((rows, stop - start))
        for column in range(stop - start):
            weights[:, column] = np.bincount(generator.integers(rows, size=rows), minlength=rows)
        for name, values in sample.score(weights).items():
            drawn[name][start:stop] = values
    return drawn


class _Sample:
    """Labels and answers, sorted once in every way that the metrics need."""

    def __init__(self, labels: Integers, probabilities: NDArray[np.floating], predicted: Integers | None) -> None:
        self.rows, self.classes = probabilities.shape
        assert self.rows > 0, "a metric of no rows has no value"
        assert labels.shape == (self.rows,), f"{labels.shape} labels for {self.rows} rows of probabilities"
        self._labels = labels
        self._predicted = probabilities.argmax(axis=1) if predicted is None else predicted
        hits = np.flatnonzero(self._labels == self._predicted)
        self._by_label = _Groups(self._labels, self.classes)
        self._by_predicted = _Groups(self._predicted, self.classes)
        self._by_hit = _Groups(self._labels[hits], self.classes, hits)
        self._rankings = [
            _Ranking(probabilities[:, index], np.flatnonzero(labels == index)) for index in range(self.classes)
        ]

    def score(self, weights: Floats) -> dict[str, Floats]:
        """Each metric for each column of weights, `[rows, resamples]` -> `[resamples]`."""
        support, answers, hits = self._count(weights)
        total = support.sum(axis=0)
        occurs = support + answers > 0
        averages = {"macro": occurs / occurs.sum(axis=0), "weighted": support / total}
        scores = {"accuracy": hits.sum(axis=0) / total}
        rates = _rates(support, answers, hits)
        for average, shares in averages.items():
            scores |= {f"{rate}_{average}": (values * shares).sum(axis=0) for rate, values in rates.items()}
        scores["roc_auc"] = self._mean_area(weights)
        return scores

    def per_class(self) -> tuple[ClassScore, ...]:
        weights = np.ones((self.rows, 1))
        support, answers, hits = self._count(weights)
        rates = _rates(support, answers, hits)
        areas = [float(ranking.area(weights)[0]) for ranking in self._rankings]
        return tuple(
            ClassScore(
                **{name: float(values[index, 0]) for name, values in rates.items()},
                support=int(support[index, 0]),
                roc_auc=None if np.isnan(area) else area,
            )
            for index, area in enumerate(areas)
        )

    def confusion(self) -> Integers:
        cells = np.bincount(self._labels * self.classes + self._predicted, minlength=self.classes**2)
        return cells.reshape(self.classes, self.classes)

    def _count(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Weight of each class's rows, of the answers that name it, and of the right ones: `[classes, resamples]`."""
        return self._by_label.weigh(weights), self._by_predicted.weigh(weights), self._by_hit.weigh(weights)

    def _mean_area(self, weights: Floats) -> Floats:
        """Mean over the classes that have an ROC AUC under these weights."""
        total, count = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        for ranking in self._rankings:
            area = ranking.area(weights)
            defined = ~np.isnan(area)
            total += np.where(defined, area, 0)
            count += defined
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _rates(support: Floats, answers: Floats, hits: Floats) -> dict[str, Floats]:
    return {
        "precision": _ratio(hits, answers),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + answers),
    }


def _ratio(above: Floats, below: Floats) -> Floats:
    """The quotient, and 0 where nothing is divided by nothing."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


class _Groups:
    """Rows sorted by the group they belong to, so that the weight of every group is one pass."""

    def __init__(self, groups: Integers, count: int, rows: Integers | None = None) -> None:
        """`groups` names the group of each of `rows`, or of every row where no rows are given."""
        order = np.argsort(groups, kind="stable")
        self._rows = order if rows is None else rows[order]
        self._present, self._starts = np.unique(groups[order], return_index=True)
        self._count = count

    def weigh(self, weights: Floats) -> Floats:
        """Sum of the weights in each group: `[rows, resamples]` -> `[groups, resamples]`."""
        sums = np.zeros((self._count, weights.shape[1]))
        if len(self._rows):
            sums[self._present] = np.add.reduceat(weights[self._rows], self._starts, axis=0)
        return sums


class _Ranking:
    """Rows sorted by the score of one class, for the area under its ROC curve under any weights."""

    def __init__(self, scores: NDArray[np.floating], positives: Integers) -> None:
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        self._order = order.astype(np.int32 if len(order) < 2**31 else np.int64)
        self._positives = positives
        self._below = np.searchsorted(ordered, scores[positives], side="left")
        self._up_to = np.searchsorted(ordered, scores[positives], side="right")

    def area(self, weights: Floats) -> Floats:
        """ROC AUC per resample, `[resamples]`; NaN where one side has no weight.

        A positive's rank is the weight below it plus half the weight that ties with it. Summed over the positives,
        that counts the pairs with a negative, and the pairs of two positives, which are half of P squared.
        """
        running = np.zeros((len(weights) + 1, weights.shape[1]))
        np.cumsum(weights[self._order], axis=0, out=running[1:])
        own = weights[self._positives]
        positive = own.sum(axis=0)
        negative = running[-1] - positive
        ranks = running[self._below] + running[self._up_to]
        pairs = (np.einsum("ij,ij->j", own, ranks) - positive**2) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((positive > 0) & (negative > 0), pairs / (positive * negative), np.nan)
