"""The same rows give the same bytes, whatever reads them, and nothing is learned from rows that are not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayml.ml.shards import ShardSet, load_schema
from rayml.stages.data import tables

pytestmark = pytest.mark.ray


def write_files(folder: Path) -> None:
    folder.mkdir()
    generator = np.random.default_rng(11)
    for number, count in enumerate((400, 3, 250, 1)):
        columns = {f"x{place}": generator.normal(size=count) for place in range(5)}
        table = pa.table({**columns, "label": generator.integers(0, 3, count)})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=64)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_one_cpu_and_two_cpus_write_the_same_bytes(run_data, tmp_path: Path, monkeypatch, start_ray) -> None:
    monkeypatch.setattr(tables, "BLOCK_BYTES", 4000)  # many tasks
    write_files(tmp_path / "t")
    source = {"kind": "parquet", "path": "t"}
    written = []
    for cpus in (1, 2):
        with start_ray(cpus):
            written += [contents(run_data(source, shard_rows=100)[1]) for _ in range(cpus)]
    assert len(written[0]) == 6 + 1 + 1 + 2
    assert written[0] == written[1] == written[2]


def test_the_normalization_knows_the_training_split_only(run_data, tmp_path: Path, start_ray) -> None:
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=200), np.arange(200) % 2
    source = {"kind": "parquet", "path": "t.parquet"}

    def fit() -> tuple[object, Path]:
        pq.write_table(pa.table({"x": values, "label": labels}), tmp_path / "t.parquet")
        _, out = run_data(source)
        return load_schema(out).normalization, out

    def change_one(split: str, out: Path) -> None:
        value = ShardSet.open(out, split).gather(np.array([0]))[0][0, 0]
        values[np.argmin(np.abs(values - value))] = 1000.0

    with start_ray(2):
        before, out = fit()
        change_one("test", out)
        change_one("val", out)
        assert fit()[0] == before
        change_one("train", out)
        assert fit()[0] != before
