"""The passes over the data: Ray Data reads the blocks once, then Ray tasks index them and write the shards.

Between the passes the driver holds 20 bytes per row and no feature. A shard is written by one task from the blocks that
its rows lie in, so its bytes depend on the rows alone, and not on the number of CPUs or nodes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import BlockMetadata

from rayml.artifacts.hosts import Hosts
from rayml.errors import RaymlError, StageError
from rayml.ml.shards import shard_name, write_shard
from rayml.stages.data.fit import Moments, measure
from rayml.stages.data.rows import Integers, block_features

SHARD_BYTES = 512 << 20
"""Features of one shard at most: the task that writes it holds them twice."""

Block = Any
"""A reference to a pyarrow Table in Ray's object store."""


@dataclass(frozen=True)
class Index:
    """Every row of the source, in canonical order, without its feature."""

    blocks: tuple[Block, ...]
    ends: Integers
    """`[blocks]`, rows up to the end of each block."""
    file: NDArray[np.int32]
    """`[rows]`."""
    row: Integers
    """`[rows]`, number within the file."""
    codes: Integers
    """`[rows]`, index into `texts`."""
    texts: tuple[str, ...]
    """Labels; one may stand there more than once."""


class _Source(ray.data.Datasource):
    """The tasks of a reading, as Ray Data takes them: each becomes one read task."""

    def __init__(self, tasks: Sequence[Callable[[], Iterable[pa.Table]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tasks = tasks

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: object, **options: object) -> list[ray.data.ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ray.data.ReadTask(task, unknown) for task in self._tasks]


def read_rows(tasks: Sequence[Callable[[], Iterable[pa.Table]]]) -> Index:
    """Read every block into Ray's object store, in order, and index the rows.

    Raises:
        StageError: what a task found wrong with the source, or there are no rows.
    """
    with _quiet(), _causes():
        rows = ray.data.read_datasource(_Source(tasks), override_num_blocks=len(tasks)).materialize()
        blocks = rows.to_arrow_refs()
        parts = ray.get([_index_block.remote(block) for block in blocks])
    filled = [(block, part) for block, part in zip(blocks, parts, strict=True) if len(part[0])]
    if not filled:
        raise StageError("the source has no rows")
    offsets = np.cumsum([0] + [len(part[3]) for _, part in filled])
    index = Index(
        blocks=tuple(block for block, _ in filled),
        ends=np.cumsum([len(part[0]) for _, part in filled]),
        file=np.concatenate([part[0] for _, part in filled]),
        row=np.concatenate([part[1] for _, part in filled]),
        codes=np.concatenate([part[2] + offset for (_, part), offset in zip(filled, offsets[:-1], strict=True)]),
        texts=tuple(text for _, part in filled for text in part[3]),
    )
    steps = (np.diff(index.file) > 0) | ((np.diff(index.file) == 0) & (np.diff(index.row) > 0))
    assert steps.all(), "Ray Data handed the rows on in another order than they were read"
    return index


@ray.remote(num_cpus=1)
def _index_block(block: pa.Table) -> tuple[NDArray[np.int32], Integers, Integers, list[str]]:
    if not len(block):  # without rows Ray Data forgets the columns
        return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64), []
    labels = block.column("label").combine_chunks().dictionary_encode()
    return (
        block.column("file").to_numpy(),
        block.column("row").to_numpy(),
        labels.indices.to_numpy().astype(np.int64),
        labels.dictionary.to_pylist(),
    )


@dataclass(frozen=True)
class Target:
    """Where shards go, and how large they are."""

    folder: Path
    shard_rows: int
    shape: tuple[int, ...]
    """Of one row's feature."""
    itemsize: int
    """Bytes of one number of it."""
    hosts: Hosts
    """Carries a shard from the host where it is written to the driver's."""

    @property
    def rows(self) -> int:
        """Rows of a shard: as many as the job says, unless they are more than SHARD_BYTES."""
        return max(1, min(self.shard_rows, SHARD_BYTES // (math.prod(self.shape) * self.itemsize)))


def write_split(
    index: Index, split: str, places: Integers, ids: Integers, labels: Integers, target: Target
) -> list[Any]:
    """Start one task per shard of a split; each resolves to the Moments of its features.

    Args:
        index: of all rows.
        split: its name.
        places: `[n] int64`, positions of the split's rows in canonical order, rising.
        ids: `[rows] int64`, of all rows.
        labels: `[rows] int64`, of all rows.
        target: where to.
    """
    tasks = []
    for number, start in enumerate(range(0, len(places), target.rows)):
        chosen = places[start : start + target.rows]
        first, last = np.searchsorted(index.ends, [chosen[0], chosen[-1]], side="right")
        base = int(index.ends[first - 1]) if first else 0
        name, blocks = shard_name(split, number), index.blocks[first : last + 1]
        tasks.append(_write.remote(target, name, chosen - base, ids[chosen], labels[chosen], *blocks))
    return tasks


@ray.remote(num_cpus=1)
def _write(target: Target, name: str, places: Integers, ids: Integers, labels: Integers, *blocks: pa.Table) -> Moments:
    """Write the shard of the rows at `places`, counted from the first row of the first block."""
    chunks = [chunk for block in blocks for chunk in block_features(block, target.shape)]
    features = np.empty((len(places), *target.shape), chunks[0].dtype)
    start = taken = 0
    for chunk in chunks:
        stop = taken + int(np.searchsorted(places[taken:], start + len(chunk)))
        np.take(chunk, places[taken:stop] - start, axis=0, out=features[taken:stop], mode="clip")
        start, taken = start + len(chunk), stop
    path = target.folder / name
    assert taken == len(places), f"{path} needs rows that its blocks do not hold"
    try:
        target.hosts.make(target.folder)
        write_shard(path, ids, features, labels)
    except OSError as error:
        raise StageError(f"cannot be written: {error.strerror or error}", where=str(path)) from None
    if target.hosts.apart():
        target.hosts.send(target.folder, lambda each: each == name)
    return measure(features)


def finish(tasks: list[Any]) -> list[Any]:
    """The results of tasks, in order; a RaymlError that one of them raised."""
    with _causes():
        return list(ray.get(tasks))


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data in fixed order, and without its progress bars and log lines on the screen."""
    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = (
        context.enable_progress_bars,
        context.print_on_execution_start,
        context.execution_options.preserve_order,
        logger.level,
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    # Its errors are raised as well; the lines would only say them twice.
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before[:2]
        context.execution_options.preserve_order = before[2]
        logger.setLevel(before[3])


@contextmanager
def _causes() -> Iterator[None]:
    """Raise the RaymlError that a task raised in the place of Ray's error around it."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RaymlError):
            raise error.cause from None
        raise
