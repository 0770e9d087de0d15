from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayml.errors import StageError
from rayml.stages.data.rows import sample_ids
from rayml.stages.data.split import cut, split_rows

SHARES = (0.8, 0.1, 0.1)

shares = st.tuples(*[st.integers(1, 20)] * 3).map(lambda parts: tuple(part / sum(parts) for part in parts))


def ids_of(rows: int, name: str = "a.csv") -> np.ndarray:
    return sample_ids([name], np.zeros(rows, np.int32), np.arange(rows))


@given(rows=st.integers(0, 5000), shares=shares)
def test_a_cut_is_exact(rows: int, shares: tuple[float, ...]) -> None:
    counts = cut(rows, shares)
    assert sum(counts) == rows
    if min(rows * share for share in shares) >= 1:
        assert all(abs(count - rows * share) < 1 + 1e-6 for count, share in zip(counts, shares, strict=True))
    if rows >= 3:
        assert min(counts) >= 1


@pytest.mark.parametrize(
    ("rows", "shares", "counts"),
    [
        (1000, SHARES, [800, 100, 100]),
        (10, (0.7, 0.2, 0.1), [7, 2, 1]),
        (30, (0.1, 0.1, 0.8), [3, 3, 24]),
        (178, SHARES, [142, 18, 18]),
        (3, SHARES, [1, 1, 1]),
        (5, SHARES, [3, 1, 1]),
    ],
)
def test_cuts_known_by_hand(rows: int, shares: tuple[float, ...], counts: list[int]) -> None:
    assert cut(rows, shares) == counts


@given(
    labels=st.lists(st.integers(0, 4), min_size=40, max_size=200),
    shares=shares,
    seed=st.integers(0, 2**63),
    stratify=st.sampled_from(["label", "none"]),
)
def test_every_row_has_one_split_and_every_class_its_share(labels, shares, seed, stratify) -> None:
    labels = np.concatenate([np.array(labels), np.repeat(np.arange(5), 3)])
    splits = split_rows(ids_of(len(labels)), labels, "abcde", shares, stratify, seed)
    groups = [labels == label for label in range(5)] if stratify == "label" else [np.full(len(labels), True)]
    for group in groups:
        assert np.bincount(splits[group], minlength=3).tolist() == cut(int(group.sum()), shares)


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    ids, labels = ids_of(1000), np.arange(1000) % 4
    splits = split_rows(ids, labels, "abcd", SHARES, "label", 7)
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(split_rows(ids[order], labels[order], "abcd", SHARES, "label", 7), splits[order])
    other = split_rows(ids, labels, "abcd", SHARES, "label", 8)
    assert 100 < (other != splits).sum() < 500  # 1 - (0.8**2 + 0.1**2 + 0.1**2) = 34 % would be expected by chance


@pytest.mark.parametrize(
    ("labels", "stratify", "message"),
    [
        ([0] * 50 + [1] * 2, "label", r"class `dög` has 2; .* at least 3 rows"),
        ([0, 1], "none", "2 rows leave the split `val` empty"),
    ],
)
def test_too_few_rows(labels: list[int], stratify: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        split_rows(ids_of(len(labels)), np.array(labels), ["cat", "dög"], SHARES, stratify, 7)


def test_ids_are_stable_and_those_of_other_files_do_not_change_them() -> None:
    # Written down once: these numbers are in every artifact that was ever made.
    assert ids_of(2, "sklearn/digits").tolist() == [879687854340661840, -4824039853660715916]
    both = sample_ids(["0.csv", "a.csv"], np.array([1, 0, 1], np.int32), np.array([0, 0, 1]))
    np.testing.assert_array_equal(both[[0, 2]], ids_of(2))
    assert len(np.unique(np.concatenate([ids_of(100_000), ids_of(100_000, "größe.csv")]))) == 200_000
