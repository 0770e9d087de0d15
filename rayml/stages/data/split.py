"""Which row goes to which split: exact shares, the same for every machine, and free of the rows' order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rayml.errors import StageError
from rayml.stages.data.rows import Integers, splitmix64

SPLITS = ("train", "val", "test")


def split_rows(
    ids: Integers,
    labels: Integers,
    classes: Sequence[str],
    shares: tuple[float, float, float],
    stratify: Literal["label", "none"],
    seed: int,
) -> NDArray[np.uint8]:
    """Assign every row to a split, `[rows] uint8`, an index into SPLITS.

    Each class by itself (or all rows together, without `stratify`) is put in the order of a hash of (seed, id) and cut
    at the shares, so that what a row gets depends on the ids of the rows and never on their order.

    Args:
        ids: `[rows] int64`, all different.
        labels: `[rows] int64`, index into `classes`.
        classes: names, for the error.
        shares: of train, val and test; they sum to 1.
        stratify: whether each class is cut by itself.
        seed: of the job.

    Raises:
        StageError: a class has fewer rows than splits, or a split would be empty.
    """
    groups = labels if stratify == "label" else np.zeros_like(labels)
    sizes = np.bincount(groups, minlength=len(classes) if stratify == "label" else 1)
    if stratify == "label":
        _refuse_small_classes(sizes, classes)
    # Sorted by group, then hash; the id settles the case that two hashes are equal.
    order = np.lexsort((ids, _keyed_hash(ids, seed), groups))
    result = np.empty(len(ids), np.uint8)
    start = 0
    for size in sizes:
        counts = cut(int(size), shares)
        result[order[start : start + size]] = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), counts)
        start += int(size)
    for number, split in enumerate(SPLITS):
        if not (result == number).any():
            raise StageError(
                f"{len(ids)} rows leave the split `{split}` empty",
                hint=f"add rows, or raise data.split.{split} above {shares[number]:g}",
            )
    return result


def cut(rows: int, shares: Sequence[float]) -> list[int]:
    """Rows of each share, by the largest remainder; at least 1 each where there are as many rows as shares.

    They sum to `rows`, and equal remainders go to the first share.
    """
    exact = [rows * share for share in shares]
    # 0.1 * 30 is 3.0000000000000004 and 0.7 * 10 is 7.000000000000001: rounding keeps whole shares whole.
    counts = [int(round(value, 9)) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda i: (-round(exact[i] - counts[i], 9), i))
    for place in by_remainder[: rows - sum(counts)]:
        counts[place] += 1
    while rows >= len(shares) and 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def _keyed_hash(ids: Integers, seed: int) -> NDArray[np.uint64]:
    key = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    return splitmix64(ids.view(np.uint64) ^ key)


def _refuse_small_classes(sizes: Integers, classes: Sequence[str]) -> None:
    small = [(name, int(size)) for name, size in zip(classes, sizes, strict=True) if size < len(SPLITS)]
    if small:
        named = ", ".join(f"`{name}` has {size}" for name, size in small[:5]) + (", ..." if len(small) > 5 else "")
        raise StageError(
            f"class {named}; to be in every split a class needs at least {len(SPLITS)} rows",
            hint="add rows of it, drop it, or set `data.split.stratify: none`",
        )
