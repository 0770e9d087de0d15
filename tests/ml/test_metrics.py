"""The metrics against scikit-learn, and the intervals against a bootstrap written as a loop."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from rayml.ml import metrics
from rayml.ml.metrics import evaluate, score
from rayml.spec.evaluate import METRICS


def sample(rows, classes, seed=0, decimals=None):
    """Labels, and probabilities that lean towards them; few decimals make ties."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(classes, size=rows - classes)])
    probabilities = generator.random((rows, classes))
    probabilities[np.arange(rows), labels] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if decimals is not None:
        probabilities = np.round(probabilities, decimals)
    return labels, probabilities


def sklearn_scores(labels, probabilities, predicted, sample_weight=None):
    scores = {"accuracy": sk.accuracy_score(labels, predicted, sample_weight=sample_weight)}
    for average in ("macro", "weighted"):
        rates = sk.precision_recall_fscore_support(
            labels, predicted, average=average, sample_weight=sample_weight, zero_division=0
        )
        scores |= {f"{name}_{average}": rate for name, rate in zip(("precision", "recall", "f1"), rates, strict=False)}
    areas = [
        sk.roc_auc_score(labels == index, probabilities[:, index], sample_weight=sample_weight)
        for index in np.unique(labels)
    ]
    return scores | {"roc_auc": np.mean(areas)}


@pytest.mark.parametrize(
    ("rows", "classes", "decimals"), [(181, 10, None), (181, 10, 1), (57, 2, None), (57, 2, 1), (331, 37, 2)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_equal_those_of_sklearn(rows, classes, decimals, weighted):
    labels, probabilities = sample(rows, classes, seed=rows, decimals=decimals)
    weight = np.random.default_rng(1).gamma(2.0, size=rows) if weighted else None
    expected = sklearn_scores(labels, probabilities, probabilities.argmax(axis=1), weight)
    found = score(labels, probabilities, sample_weight=weight)
    assert set(found) == set(METRICS)
    assert found == pytest.approx(expected, abs=1e-12)


def test_macro_roc_auc_equals_the_one_of_sklearn_itself():
    labels, probabilities = sample(211, 5, seed=3)
    expected = sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert score(labels, probabilities)["roc_auc"] == pytest.approx(expected, abs=1e-12)


def test_a_class_that_is_never_answered_and_one_that_never_occurs():
    labels, probabilities = sample(90, 4, seed=5)
    probabilities[:, 1] = 0
    labels[labels == 3] = 2
    result = evaluate(labels, probabilities, resamples=100)
    assert result.absent == (3,)
    assert result.per_class[1].precision == 0
    assert result.per_class[3].support == 0
    assert result.per_class[3].roc_auc is None
    expected = sklearn_scores(labels, probabilities, probabilities.argmax(axis=1))
    assert {name: estimate.value for name, estimate in result.metrics.items()} == pytest.approx(expected, abs=1e-12)


def test_one_class_only_has_no_roc_auc_and_says_so_by_leaving_it_out():
    labels, probabilities = np.zeros(5, dtype=np.int64), np.full((5, 3), 1 / 3)
    result = evaluate(labels, probabilities, resamples=100)
    assert set(result.metrics) == set(METRICS) - {"roc_auc"}
    assert result.absent == (1, 2)
    assert np.isnan(score(labels, probabilities)["roc_auc"])


def test_the_answers_of_the_model_count_and_not_only_its_probabilities():
    labels, probabilities = sample(50, 3)
    answers = (labels + 1) % 3
    assert score(labels, probabilities, predicted=answers)["accuracy"] == 0


def test_per_class_scores_and_confusion_equal_those_of_sklearn():
    labels, probabilities = sample(181, 10, seed=8)
    predicted = probabilities.argmax(axis=1)
    result = evaluate(labels, probabilities, resamples=100)
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, predicted, zero_division=0)
    assert [row.precision for row in result.per_class] == pytest.approx(precision)
    assert [row.recall for row in result.per_class] == pytest.approx(recall)
    assert [row.f1 for row in result.per_class] == pytest.approx(f1)
    assert [row.support for row in result.per_class] == support.tolist()
    assert result.confusion.tolist() == sk.confusion_matrix(labels, predicted).tolist()


def test_intervals_are_those_of_a_bootstrap_written_as_a_loop():
    labels, probabilities = sample(61, 3, seed=2)
    generator = np.random.default_rng(11)
    drawn = []
    for _ in range(200):
        rows = generator.integers(61, size=61)
        drawn.append(sklearn_scores(labels[rows], probabilities[rows], probabilities[rows].argmax(axis=1)))
    result = evaluate(labels, probabilities, resamples=200, seed=11)
    for name in METRICS:
        expected = np.percentile([scores[name] for scores in drawn], [2.5, 97.5])
        assert (result.metrics[name].low, result.metrics[name].high) == pytest.approx(expected, abs=1e-12), name


def test_intervals_depend_on_the_seed_and_not_on_the_size_of_a_block(monkeypatch):
    labels, probabilities = sample(61, 3, seed=2)
    whole = evaluate(labels, probabilities, resamples=150, seed=4).metrics
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 8 * 61 * 7)
    assert evaluate(labels, probabilities, resamples=150, seed=4).metrics == whole
    assert evaluate(labels, probabilities, resamples=150, seed=5).metrics != whole


def test_a_resample_without_a_class_warns_of_nothing():
    labels, probabilities = np.array([0, 0, 0, 0, 1]), np.array([[0.9, 0.1]] * 4 + [[0.2, 0.8]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(labels, probabilities, resamples=300)
    assert result.metrics["roc_auc"].value == 1
    assert 0 < result.metrics["recall_macro"].low <= 1
