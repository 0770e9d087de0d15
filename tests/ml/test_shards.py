from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayml.errors import StageError
from rayml.ml.schema import Normalization, Schema, VectorFeature
from rayml.ml.shards import ShardSet, load_schema, save_schema, shard_name, write_shard

ROWS = 1000


def write_set(folder: Path, shape: tuple[int, ...], dtype: str, shard_rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    features = generator.integers(0, 256, (ROWS, *shape)).astype(dtype)
    labels = generator.integers(0, 10, ROWS)
    for number, start in enumerate(range(0, ROWS, shard_rows)):
        part = slice(start, start + shard_rows)
        write_shard(folder / shard_name("train", number), np.arange(ROWS)[part] * 7, features[part], labels[part])
    return features, labels


@pytest.mark.parametrize("shard_rows", [ROWS, 999, 300, 7])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 8, 1), "uint8"), ((5, 3, 3), "uint8"), ((13,), "float32"), ((40, 40, 3), "uint8")]
)
def test_rows_come_back_as_they_were_written(tmp_path: Path, shape, dtype, shard_rows) -> None:
    features, labels = write_set(tmp_path, shape, dtype, shard_rows)
    shards = ShardSet.open(tmp_path, "train")
    assert (len(shards), shards.shape, shards.dtype) == (ROWS, shape, dtype)
    assert shards.sample_ids.dtype == shards.labels.dtype == np.int64
    np.testing.assert_array_equal(shards.sample_ids, np.arange(ROWS) * 7)
    np.testing.assert_array_equal(shards.labels, labels)
    order = np.random.default_rng(0).permutation(ROWS)
    got, got_labels = shards.gather(order)
    np.testing.assert_array_equal(got, features[order])
    np.testing.assert_array_equal(got_labels, labels[order])
    assert got.flags.writeable
    np.testing.assert_array_equal(np.concatenate(shards.shards), features)


@pytest.fixture(scope="module")
def shard_sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, list[ShardSet]]:
    sets = []
    for shard_rows in (ROWS, 130):
        folder = tmp_path_factory.mktemp("shards")
        features, _ = write_set(folder, (4,), "float32", shard_rows)
        sets.append(ShardSet.open(folder, "train"))
    return features, sets


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices=st.lists(st.integers(0, ROWS - 1), max_size=50), bounds=st.tuples(*[st.integers(0, ROWS)] * 2))
def test_any_rows_equal_numpy_indexing(shard_sets, indices, bounds) -> None:
    features, sets = shard_sets
    start, stop = min(bounds), max(bounds)
    for shards in sets:
        out = np.full((len(indices), 4), -1, np.float32)
        got, labels = shards.gather(np.array(indices, np.int64), out)
        assert got is out
        np.testing.assert_array_equal(out, features[indices])
        np.testing.assert_array_equal(labels, shards.labels[indices])
        rows, row_labels = shards.rows(start, stop)
        np.testing.assert_array_equal(rows, features[start:stop])
        np.testing.assert_array_equal(row_labels, shards.labels[start:stop])


def test_a_slice_within_one_shard_is_a_view_of_the_mapped_file(tmp_path: Path) -> None:
    write_set(tmp_path, (13,), "float32", 400)
    shards = ShardSet.open(tmp_path, "train")
    view, _ = shards.rows(400, 800)
    assert np.shares_memory(view, shards.shards[1])
    assert not view.flags.writeable
    across, _ = shards.rows(399, 401)
    assert across.flags.writeable


@pytest.mark.parametrize("index", [-1, ROWS])
@pytest.mark.parametrize("shard_rows", [ROWS, 300])
def test_a_row_outside_is_refused(tmp_path: Path, index: int, shard_rows: int) -> None:
    write_set(tmp_path, (3,), "float32", shard_rows)
    with pytest.raises(IndexError, match=str(index)):
        ShardSet.open(tmp_path, "train").gather(np.array([0, index]))


def test_equal_rows_give_equal_bytes_whatever_memory_they_lie_in(tmp_path: Path) -> None:
    features = np.arange(2 * 6 * 4, dtype=np.float32).reshape(2, 6, 4)[0]
    write_shard(tmp_path / "a", np.arange(6), features, np.zeros(6, np.int64))
    write_shard(tmp_path / "b", np.arange(12)[::2] // 2, np.asfortranarray(features), np.zeros(6, np.int32))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_shards_survive_the_closing_of_their_file(tmp_path: Path) -> None:
    features, _ = write_set(tmp_path, (64,), "float32", ROWS)
    shards = ShardSet.open(tmp_path, "train")
    (tmp_path / shard_name("train", 0)).unlink()
    np.testing.assert_array_equal(shards.gather(np.arange(ROWS))[0], features)


def test_a_missing_split_and_a_damaged_shard_are_named(tmp_path: Path) -> None:
    write_set(tmp_path, (4,), "float32", ROWS)
    with pytest.raises(StageError, match="no shard of the split 'val'"):
        ShardSet.open(tmp_path, "val")
    path = tmp_path / shard_name("train", 0)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(StageError, match=r"train-00000\.arrow: not a canonical shard"):
        ShardSet.open(tmp_path, "train")


def test_the_schema_comes_back(tmp_path: Path) -> None:
    schema = Schema(
        feature=VectorFeature(columns=("Höhe", "x")),
        label="größe",
        classes=("ä", "b"),
        normalization=Normalization(offset=(0.1, 1 / 3), scale=(1e-20, 2.0), missing=(0.5, 1.5)),
    )
    save_schema(tmp_path, schema)
    assert load_schema(tmp_path) == schema
    (tmp_path / "schema.json").write_text('{"label": 3}')
    with pytest.raises(StageError, match="not a schema"):
        load_schema(tmp_path)
    with pytest.raises(StageError, match="no such file"):
        load_schema(tmp_path / "nowhere")
