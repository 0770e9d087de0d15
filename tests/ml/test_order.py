"""The order of an epoch: every row once, the same for every world size, reachable from the middle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayml.ml import order


@given(rows=st.integers(1, 5000), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_every_row_once_in_every_epoch(rows, seed, epoch):
    indices = order.EpochOrder(rows, seed, epoch).indices(0, rows)
    assert np.array_equal(np.sort(indices), np.arange(rows))


@given(rows=st.integers(2, 3000), start=st.integers(0, 2999), length=st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_a_range_does_not_depend_on_what_was_read_before(rows, start, length):
    start = min(start, rows)
    stop = min(start + length, rows)
    whole = order.EpochOrder(rows, 3, 1).indices(0, rows)
    assert np.array_equal(order.EpochOrder(rows, 3, 1).indices(start, stop), whole[start:stop])


def test_ranges_over_the_edge_of_a_chunk_are_joined():
    rows = order.CHUNK + 100
    epoch = order.EpochOrder(rows, 1, 0)
    joined = epoch.indices(order.CHUNK - 5, order.CHUNK + 5)
    assert np.array_equal(joined, order.permute(np.arange(order.CHUNK - 5, order.CHUNK + 5), rows, 1, 0))


@given(rows=st.integers(1, 400), batch=st.integers(1, 70), world=st.integers(1, 9), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_the_global_batch_is_the_same_for_every_world_size(rows, batch, world, seed):
    epoch = order.EpochOrder(rows, seed, 2)
    for start in range(0, rows, batch):
        stop = min(start + batch, rows)
        shares = [epoch.indices(*order.share(start, stop, rank, world)) for rank in range(world)]
        assert np.array_equal(np.concatenate(shares), epoch.indices(start, stop))
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ():
    orders = {tuple(order.EpochOrder(50, seed, epoch).indices(0, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_the_order_is_pinned():
    """Changing it would make every resumed run see other rows: this must only change with a note in the changelog."""
    assert order.EpochOrder(10, 7, 0).indices(0, 10).tolist() == PINNED


PINNED = [2, 9, 7, 1, 3, 5, 8, 0, 6, 4]


def test_neighbours_are_not_kept_together():
    """A permutation drawn at random keeps about one neighbouring pair in n; ours may not keep more than a few."""
    indices = order.EpochOrder(10_000, 1, 1).indices(0, 10_000)
    assert np.count_nonzero(np.diff(indices) == 1) < 8
    correlation = np.corrcoef(indices, np.arange(10_000))[0, 1]
    assert abs(correlation) < 0.05


def test_the_fingerprint_tells_a_lost_or_doubled_row():
    ids = np.random.default_rng(1).integers(-(2**62), 2**62, 1000)
    whole = order.fingerprint(ids)
    assert order.fingerprint(np.random.default_rng(2).permutation(ids)) == whole
    assert order.fingerprint(ids[1:]) != whole
    assert order.fingerprint(np.concatenate([ids[1:], ids[1:2]])) != whole
    parts = (order.fingerprint(ids[:300]) + order.fingerprint(ids[300:])) % 2**64
    assert parts == whole
    assert order.fingerprint(ids[:0]) == 0


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 17, 2**16, 2**16 + 1])
def test_edges_of_the_domain(rows):
    assert len(set(order.permute(np.arange(rows), rows, 0, 0).tolist())) == rows
