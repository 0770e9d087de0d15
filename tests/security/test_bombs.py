"""S20: what is small and unpacks to much is refused or read no further. Pictures: test_hostile_files.py."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rayml.errors import StageError
from rayml.ml.images import decode_upright
from rayml.ml.weight_files import read_torchvision
from rayml.plan.sources import list_files
from rayml.spec.data import CsvSource, ParquetSource
from rayml.stages.data import unpacking
from rayml.stages.data.config import DataConfig
from rayml.stages.data.tables import read_csv_source, read_parquet_source
from rayml.stages.data.unpacking import LARGE, RATIO, Unpacked
from rayml.stages.serve.parity import load_frozen
from rayml.stages.serve.wire import Refusal, decompress

MAX_BODY = 10_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_is_unpacked_no_further_than_it_may_be_long(encoding):
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(Refusal) as caught:
        decompress(encoding.encode(), bomb, MAX_BODY)
    assert caught.value.status == 413
    assert tracemalloc.get_traced_memory()[1] < 20 * MAX_BODY
    tracemalloc.stop()


def test_frozen_rows_that_are_compressed_are_refused(tmp_path):
    rows = np.zeros((1_000_000, 2), np.float32)
    np.savez_compressed(tmp_path / "parity.npz", sample_ids=rows, inputs=rows, probabilities=rows, labels=rows)
    with pytest.raises(StageError, match=r"unpacks to 32,000,\d+; what is stored here is not compressed"):
        load_frozen(tmp_path, 2)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"PK\x05\x06" + bytes(18)])
def test_frozen_rows_that_are_no_archive_are_refused(tmp_path, content):
    (tmp_path / "parity.npz").write_bytes(content)
    with pytest.raises(StageError):
        load_frozen(tmp_path, 2)


def test_weights_that_are_compressed_are_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(4_000_000)}, buffer)
    (tmp_path / "plain.pth").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(buffer) as made, zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in made.infolist():
            packed.writestr(entry.filename, made.read(entry))
    assert len(read_torchvision(tmp_path / "plain.pth")["w"]) == 4_000_000
    with pytest.raises(StageError, match="unpacks to 16,0"):
        read_torchvision(tmp_path / "w.pth")


def test_entries_that_share_their_bytes_are_counted_each(tmp_path):
    """A zip whose directory names one entry many times (Fifield, A better zip bomb, WOOT 2019)."""
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", bytes(10_000))
        archive.filelist *= 3
    with pytest.raises(StageError, match="unpacks to 30,000"):
        read_torchvision(tmp_path / "w.pth")


def read(folder, name, task="tabular_classification"):
    is_csv = ".csv" in name
    source = CsvSource(kind="csv", path=name) if is_csv else ParquetSource(kind="parquet", path=name)
    config = DataConfig.model_validate(
        {
            **{"source": source, "label": "label", "image": {}, "columns": "auto", "normalize": "none"},
            **{"missing": "error", "split": {}, "shard_rows": 9, "seed": 1, "task": task, "fingerprint": "x"},
        }
    )
    reading = (read_csv_source if is_csv else read_parquet_source)(list_files(source, folder), config)
    return sum(len(block) for task in reading.tasks for block in task())


@pytest.fixture
def small_limit(monkeypatch):
    """As if a file might unpack to a MiB, and then to 500 times its size."""
    monkeypatch.setattr(unpacking, "LARGE", 1 << 20)


def test_a_csv_file_that_unpacks_to_too_much_is_refused_on_the_way(tmp_path, small_limit):
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"a,label\n" + b"1,x\n" * 1_000_000))
    with pytest.raises(StageError, match=r"unpacks to .* GiB and more from \d,\d+ bytes") as caught:
        read(tmp_path, "rows.csv.gz")
    assert caught.value.where.endswith("rows.csv.gz")


def test_a_csv_file_without_a_line_ends_at_its_first_block(tmp_path):
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"a,label\n" + bytes(50_000_000)))
    with pytest.raises(StageError, match="cannot be read"):
        read(tmp_path, "rows.csv.gz")


def test_parquet_rows_of_one_value_are_refused_before_they_are_read(tmp_path, small_limit):
    rows = pa.table({"a": np.ones(1_000_000), "label": ["x"] * 1_000_000})
    pq.write_table(rows, tmp_path / "rows.parquet")
    with pytest.raises(StageError, match="unpacks to"):
        read(tmp_path, "rows.parquet")


@pytest.mark.parametrize("compression", ["gzip", "zstd", "brotli"])
def test_a_parquet_value_that_unpacks_to_too_much_is_refused_before_it_is_read(tmp_path, small_limit, compression):
    pages = pa.table({"image": [bytes(30_000_000)] * 2, "label": ["x", "y"]})
    pq.write_table(pages, tmp_path / "rows.parquet", compression=compression, use_dictionary=False)
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()
    peak = pool.max_memory()
    with pytest.raises(StageError, match="unpacks to"):
        read(tmp_path, "rows.parquet", "image_classification")
    assert pool.max_memory() <= max(peak, before + 10_000_000)


def test_what_is_small_may_unpack_as_it_likes(tmp_path):
    """A table that is nearly empty is no bomb."""
    pq.write_table(pa.table({"a": np.ones(1_000_000), "label": ["x"] * 1_000_000}), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"a,label\n" + b"1,x\n" * 1_000_000))
    assert read(tmp_path, "rows.parquet") == read(tmp_path, "rows.csv.gz") == 1_000_000


def test_a_large_file_may_unpack_in_proportion():
    Unpacked(LARGE // 10, "x").add(LARGE * 49)
    with pytest.raises(StageError, match=f"{RATIO} times its size"):
        Unpacked(LARGE // 10, "x").add(LARGE * 51)


def test_of_an_animation_one_frame_is_decoded():
    frames = [Image.new("L", (64, 64), shade) for shade in range(0, 250, 2)]
    for kind in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
        assert decode_upright(buffer.getvalue()).shape[:2] == (64, 64)
        assert decode_upright(buffer.getvalue()).max() == 0
