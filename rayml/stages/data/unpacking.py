"""How much a table may unpack to: a file of some kilobytes can hold terabytes of one value."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.parquet as pq

from rayml.errors import StageError

LARGE = 1 << 30
"""Bytes that any file may unpack to."""
RATIO = 500
"""Beyond LARGE, how many times its own size. Tables of measured values reach 20, those that are nearly empty 200; gzip
ends at 1,030, and Parquet, zstd and bzip2 do not end."""


@dataclass
class Unpacked:
    """Counts what comes out of a file."""

    packed: int
    """Bytes of the file."""
    shown: str
    bytes: int = 0

    def add(self, more: int) -> None:
        """StageError where it is too much by now."""
        self.bytes += more
        if self.bytes > max(LARGE, RATIO * self.packed):
            raise StageError(
                f"unpacks to {self.bytes / 2**30:,.1f} GiB and more from {self.packed:,} bytes; "
                f"beyond {LARGE >> 30} GiB a file may unpack to {RATIO} times its size",
                where=self.shown,
                hint="where you trust the file, unpack it, or write it again without compression",
            )


def refuse_claim(found: pq.FileMetaData, row_bytes: int, packed: int, shown: str) -> None:
    """StageError where a Parquet file says itself that it unpacks to too much; nothing is read for that.

    Args:
        row_bytes: of one row's feature.
        packed: bytes of the file.
    """
    unpacked = Unpacked(packed, shown)
    for number in range(found.num_row_groups):
        group = found.row_group(number)
        unpacked.add(max(group.total_byte_size, group.num_rows * row_bytes))
