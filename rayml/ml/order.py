"""Which row is read when: a pure function of (seed, epoch, position), the same for every number of workers.

The order of an epoch is a keyed permutation of the row numbers, computed position by position: a Feistel network
(Luby and Rackoff, 1988) on the smallest power of two that holds all rows, walked until it lands on a row (Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Nothing is stored, any position of any epoch is reached at
once, and the order does not change with the version of a library's random generator.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

ROUNDS = 8
CHUNK = 1 << 16


def permute(positions: Indices, rows: int, seed: int, epoch: int) -> Indices:
    """Row numbers at these positions of an epoch's order; `[n] int64` in `[0, rows)`, a bijection of `range(rows)`."""
    bits = max(2, (rows - 1).bit_length())
    keys = _round_keys(seed, epoch)
    values = _feistel(positions.astype(np.uint64), bits, keys)
    outside = values >= rows
    while outside.any():
        values[outside] = _feistel(values[outside], bits, keys)
        outside = values >= rows
    return values.astype(np.int64)


@dataclass
class EpochOrder:
    """The order of one epoch, with the part that is being read kept at hand."""

    rows: int
    seed: int
    epoch: int
    _chunk_start: int = field(default=-1, init=False, repr=False)
    _chunk: Indices = field(default_factory=lambda: np.empty(0, np.int64), init=False, repr=False)

    def indices(self, start: int, stop: int) -> Indices:
        """Row numbers at positions `[start, stop)`."""
        parts = []
        while start < stop:
            self._load(start - start % CHUNK)
            end = min(stop, self._chunk_start + CHUNK)
            parts.append(self._chunk[start - self._chunk_start : end - self._chunk_start])
            start = end
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])

    def _load(self, chunk_start: int) -> None:
        if chunk_start != self._chunk_start:
            stop = min(self.rows, chunk_start + CHUNK)
            self._chunk = permute(np.arange(chunk_start, stop, dtype=np.int64), self.rows, self.seed, self.epoch)
            self._chunk_start = chunk_start


def share(start: int, stop: int, rank: int, world_size: int) -> tuple[int, int]:
    """The part of positions `[start, stop)` that one rank reads. Shares differ by at most one row; none is dropped."""
    count = stop - start
    return start + count * rank // world_size, start + count * (rank + 1) // world_size


def fingerprint(sample_ids: Indices) -> int:
    """Sum of mixed ids modulo 2**64: equal for two bags of rows whatever their order, different when one is missing."""
    mixed = _mix(sample_ids.view(np.uint64))
    return int(np.add.reduce(mixed, dtype=np.uint64))


def _round_keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    material = hashlib.blake2b(f"rayml order {seed} {epoch}".encode(), digest_size=8 * ROUNDS).digest()
    return np.frombuffer(material, dtype="<u8").astype(np.uint64)


def _feistel(values: NDArray[np.uint64], bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for index, key in enumerate(keys):
        if index % 2 == 0:
            high = high ^ (_mix(low ^ key) & high_mask)
        else:
            low = low ^ (_mix(high ^ key) & low_mask)
    return (high << low_bits) | low


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
