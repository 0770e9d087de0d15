from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayml.errors import StageError
from rayml.ml.schema import ImageFeature, VectorFeature
from rayml.stages.data.fit import Moments, fit_normalization, measure
from rayml.stages.data.labels import encode_labels

VECTOR = VectorFeature(columns=("a", "b"))


@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 599), max_size=4), channels=st.sampled_from([1, 3]))
def test_moments_of_images_in_parts(seed: int, cuts: list[int], channels: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (600, 3, 2, channels)).astype(np.uint8)
    parts = [part for part in np.split(pixels, sorted(set(cuts))) if len(part)]
    moments = reduce(Moments.merge, map(measure, parts))
    values = pixels.reshape(-1, channels).astype(np.float64)
    assert moments.count.tolist() == [3600.0] * channels
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, values.std(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(moments.low, values.min(axis=0))
    np.testing.assert_array_equal(moments.high, values.max(axis=0))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_of_columns_in_parts_with_gaps(offset: float) -> None:
    values = np.random.default_rng(5).normal(offset, 1, (1000, 2)).astype(np.float32)
    values[::3, 1] = np.nan
    values[:400, 0] = np.nan  # one whole part has no value in a column
    moments = reduce(Moments.merge, map(measure, np.split(values, [400, 401, 900])))
    exact = values.astype(np.float64)
    assert moments.count.tolist() == [600.0, 666.0]
    np.testing.assert_allclose(moments.mean, np.nanmean(exact, axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, np.nanstd(exact, axis=0), rtol=1e-9)
    np.testing.assert_array_equal(moments.high, np.nanmax(exact, axis=0))


@pytest.mark.parametrize(
    ("normalize", "offset", "scale"),
    [
        ("standard", (2.0, 0.1), (np.std([1.0, 2.0, 3.0]), 1.0)),
        ("minmax", (1.0, 0.1), (2.0, 1.0)),
        ("none", (0.0, 0.0), (1.0, 1.0)),
    ],
)
def test_normalizations_and_the_constant_column(normalize: str, offset, scale) -> None:
    # 0.1 in float32 is not 0.1: a constant column must still have a deviation of exactly nothing.
    moments = measure(np.array([[1, 0.1], [2, 0.1], [3, 0.1]], np.float32))
    fitted = fit_normalization(VECTOR, moments, normalize, "error", None)
    np.testing.assert_allclose(fitted.offset, offset, rtol=1e-6)
    np.testing.assert_allclose(fitted.scale, scale, rtol=1e-12)
    assert fitted.missing is None


def test_what_is_missing_becomes() -> None:
    moments = measure(np.array([[1, 5], [2, np.nan], [9, 7]], np.float32))
    assert fit_normalization(VECTOR, moments, "none", "mean", None).missing == (4.0, 6.0)
    assert fit_normalization(VECTOR, moments, "none", "median", np.array([2.0, 6.0])).missing == (2.0, 6.0)
    image = ImageFeature(height=1, width=1, channels=1)
    assert fit_normalization(image, measure(np.zeros((2, 1, 1, 1), np.uint8)), "none", "mean", None).missing is None


def test_a_column_without_a_value_is_named() -> None:
    moments = measure(np.array([[1, np.nan], [2, np.nan]], np.float32))
    with pytest.raises(StageError, match=r"\['b'\] have no value in the training split"):
        fit_normalization(VECTOR, moments, "standard", "mean", None)


@pytest.mark.parametrize(
    ("texts", "untyped", "classes", "labels"),
    [
        (["10", "9", "-1"], False, ("-1", "9", "10"), [2, 1, 0]),
        (["rot", "blau", "grün"], False, ("blau", "grün", "rot"), [2, 0, 1]),
        (["b", "a", "b"], False, ("a", "b"), [1, 0, 1]),  # two blocks have their own list of texts
        (["1.0", "2", "1"], True, ("1", "2"), [0, 1, 0]),
        (["1e1", "2.0"], True, ("2", "10"), [1, 0]),
        (["1.0", "2.0"], False, ("1.0", "2.0"), [0, 1]),
        (["007", "7"], True, ("007", "7"), [0, 1]),
        (["1.5", "x"], True, ("1.5", "x"), [0, 1]),
    ],
)
def test_classes(texts, untyped, classes, labels) -> None:
    found = encode_labels(np.arange(len(texts)), texts, text_labels=untyped, name="y", place=str)
    assert (found[0], found[1].tolist()) == (classes, labels)


@pytest.mark.parametrize("wrong", ["1.5", "nan", "-inf"])
def test_numbers_that_are_no_classes(wrong: str) -> None:
    with pytest.raises(StageError, match=rf"\[1 3\]: label `y` is {wrong}, not a whole number; 2 rows"):
        encode_labels(np.array([0, 1, 0, 1]), ["1", wrong], text_labels=True, name="y", place=str)
