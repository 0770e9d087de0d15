"""Every source on small real files, end to end through Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayml.ml.schema import ImageFeature, VectorFeature
from rayml.ml.shards import ShardSet, load_schema
from rayml.stages.data import rows, tables

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

IMAGES = {"task": "image_classification"}


def read_all(out: Path) -> dict[int, tuple[np.ndarray, str, str]]:
    """Sample id to feature, class and split."""
    classes = load_schema(out).classes
    found = {}
    for split in ("train", "val", "test"):
        shards = ShardSet.open(out, split)
        features, labels = shards.gather(np.arange(len(shards)))
        for row, sample in enumerate(shards.sample_ids.tolist()):
            assert sample not in found, "a row is in two splits"
            found[sample] = (features[row], classes[labels[row]], split)
    return found


def in_order(out: Path, names: list[str], counts: list[int]) -> list[tuple[np.ndarray, str, str]]:
    """The same, in the order of files and rows."""
    file = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    row = np.concatenate([np.arange(count) for count in counts])
    found = read_all(out)
    assert len(found) == len(file)
    return [found[sample] for sample in rows.sample_ids(names, file, row).tolist()]


def test_digits(run_data) -> None:
    from sklearn.datasets import load_digits

    outcome, out = run_data({"kind": "sklearn", "name": "digits"}, **IMAGES)
    digits = load_digits()
    found = in_order(out, ["sklearn/digits"], [1797])
    np.testing.assert_array_equal(
        np.stack([feature for feature, _, _ in found])[..., 0], np.rint(digits.images * 255 / 16).astype(np.uint8)
    )
    assert [label for _, label, _ in found] == [str(target) for target in digits.target]
    assert outcome.metrics == {
        "rows": 1797,
        "rows_train": 1438,
        "rows_val": 180,
        "rows_test": 179,
        "classes": 10,
        "bytes": sum(path.stat().st_size for path in out.glob("*.arrow")),
    }
    assert outcome.facts["class_counts"]["val"] == [18] * 10
    assert outcome.facts == json.loads((out / "stats.json").read_text())
    assert load_schema(out).feature == ImageFeature(height=8, width=8, channels=1)
    train = np.stack([feature for feature, _, split in found if split == "train"])
    normalization = load_schema(out).normalization
    assert normalization.offset == pytest.approx([train.mean()], rel=1e-12)
    assert normalization.scale == pytest.approx([train.std()], rel=1e-9)


@pytest.mark.parametrize(
    ("name", "count", "columns"), [("iris", 150, 4), ("wine", 178, 13), ("breast_cancer", 569, 30)]
)
def test_sets_of_tables(run_data, name: str, count: int, columns: int) -> None:
    from sklearn import datasets

    outcome, out = run_data({"kind": "sklearn", "name": name})
    loaded = getattr(datasets, f"load_{name}")()
    found = in_order(out, [f"sklearn/{name}"], [count])
    np.testing.assert_array_equal(np.stack([row[0] for row in found]), loaded.data.astype(np.float32))
    assert [row[1] for row in found] == [str(loaded.target_names[target]) for target in loaded.target]
    assert load_schema(out).feature.columns == tuple(loaded.feature_names)
    assert outcome.facts["shape"] == [columns]


def write_csv(path: Path, count: int, seed: int, **more) -> pa.Table:
    generator = np.random.default_rng(seed)
    table = pa.table(
        {
            "Höhe": generator.normal(size=count).astype(np.float32),
            "name": [f"n, \n{row}" for row in range(count)],
            "age": generator.integers(0, 99, count),
            "smoker": generator.integers(0, 2, count).astype(bool),
            "Größe": [("klein", "groß")[row % 2] for row in range(count)],
            **more,
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pcsv.write_csv(table, path) if path.suffix == ".csv" else pq.write_table(table, path, row_group_size=30)
    return table


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_of_tables_in_a_folder(run_data, tmp_path: Path, kind: str) -> None:
    names = [f"a.{kind}", f"Übung/b.{kind}"]
    written = [write_csv(tmp_path / "daten" / name, count, count) for name, count in zip(names, (90, 40), strict=True)]
    (tmp_path / "daten" / "LIESMICH.txt").write_text("nichts")
    outcome, out = run_data({"kind": kind, "path": "daten"}, label="Größe")
    assert load_schema(out).feature == VectorFeature(columns=("Höhe", "age", "smoker"))
    found = in_order(out, names, [90, 40])
    expected = pa.concat_tables(written)
    for place, name in enumerate(("Höhe", "age", "smoker")):
        values = expected[name].to_numpy().astype(np.float32)
        np.testing.assert_allclose([row[0][place] for row in found], values, rtol=1e-6)
    assert [row[1] for row in found] == expected["Größe"].to_pylist()
    assert outcome.facts["source"]["ignored"] == ["name", "LIESMICH.txt"]


@pytest.mark.parametrize(("path", "names"), [("t/a.csv", ["a.csv"]), ("t/*.csv", ["a.csv", "b.csv"])])
def test_one_file_a_glob_and_chosen_columns(run_data, tmp_path: Path, path: str, names: list[str]) -> None:
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / "t" / name, 40, 1)
    _, out = run_data({"kind": "csv", "path": path}, label="Größe", columns=["age"], normalize="minmax")
    assert len(in_order(out, names, [40] * len(names))) == 40 * len(names)
    assert load_schema(out).feature == VectorFeature(columns=("age",))


def test_large_files_are_read_in_pieces_with_the_same_result(run_data, tmp_path: Path, monkeypatch) -> None:
    write_csv(tmp_path / "t.parquet", 200, 3)
    _, whole = run_data({"kind": "parquet", "path": "t.parquet"}, label="Größe", shard_rows=50)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 300)
    _, pieces = run_data({"kind": "parquet", "path": "t.parquet"}, label="Größe", shard_rows=50)
    shards = sorted(path.name for path in whole.glob("*.arrow"))
    assert shards == ["test-00000.arrow", *[f"train-0000{number}.arrow" for number in range(4)], "val-00000.arrow"]
    for name in shards:
        assert (whole / name).read_bytes() == (pieces / name).read_bytes()


def test_another_file_changes_no_other_id(run_data, tmp_path: Path) -> None:
    write_csv(tmp_path / "t" / "b.csv", 60, 1)
    _, before = run_data({"kind": "csv", "path": "t"}, label="Größe")
    write_csv(tmp_path / "t" / "a.csv", 30, 2)
    _, after = run_data({"kind": "csv", "path": "t"}, label="Größe")
    old, new = read_all(before), read_all(after)
    assert len(new) == 90
    assert all(np.array_equal(new[sample][0], feature) for sample, (feature, _, _) in old.items())


@pytest.mark.parametrize(("missing", "fill"), [("mean", np.mean), ("median", np.median)])
def test_missing_numbers_are_filled_from_the_training_split(run_data, tmp_path: Path, missing: str, fill) -> None:
    values = [None if row % 7 == 0 else float(row * row) for row in range(100)]
    pq.write_table(
        pa.table({"x": values, "y": [float(row) for row in range(100)], "label": [0, 1] * 50}), tmp_path / "t"
    )
    _, out = run_data({"kind": "parquet", "path": "t"}, missing=missing, shard_rows=13)
    train = np.stack([feature for feature, _, split in read_all(out).values() if split == "train"]).astype(np.float64)
    assert np.isnan(train[:, 0]).any()
    expected = [fill(train[~np.isnan(train[:, 0]), 0]), fill(train[:, 1])]
    assert load_schema(out).normalization.missing == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (pa.array([1.0, 2.0] * 20), ("1", "2")),
        (pa.array([True, False] * 20), ("false", "true")),
        (pa.array(["grün", "blau"] * 20).dictionary_encode(), ("blau", "grün")),
        (pa.array([10, 9] * 20, pa.uint8()), ("9", "10")),
        (pa.array(["a", "b"] * 20, pa.large_string()), ("a", "b")),
    ],
)
def test_types_of_labels(run_data, tmp_path: Path, labels: pa.Array, classes: tuple[str, ...]) -> None:
    pq.write_table(pa.table({"x": list(range(40)), "label": labels}), tmp_path / "t.parquet")
    outcome, _ = run_data({"kind": "parquet", "path": "t.parquet"})
    assert outcome.facts["classes"] == list(classes)
    assert outcome.facts["class_counts"] == {"train": [16, 16], "val": [2, 2], "test": [2, 2]}


def write_images(folder: Path, sizes: tuple[tuple[int, int], ...] = ((6, 9),)) -> dict[str, np.ndarray]:
    """Ten images in each of two classes, PNG with every third a BMP."""
    generator = np.random.default_rng(2)
    written = {}
    for number in range(20):
        height, width = sizes[number % len(sizes)]
        pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
        name = f"{('Hund', 'Kätzchen')[number % 2]}/bild {number:02d}.{'bmp' if number % 3 == 0 else 'PNG'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
        written[name] = pixels
    return dict(sorted(written.items()))


def test_a_folder_of_images(run_data, tmp_path: Path) -> None:
    written = write_images(tmp_path / "bilder")
    (tmp_path / "bilder" / ".DS_Store").write_bytes(b"x")
    outcome, out = run_data({"kind": "image_folder", "path": "bilder"}, **IMAGES)
    found = in_order(out, list(written), [1] * 20)
    for (feature, label, _), (name, pixels) in zip(found, written.items(), strict=True):
        np.testing.assert_array_equal(feature, pixels)
        assert label == name.split("/")[0]
    assert outcome.facts["statistics"]["columns"] == ["red", "green", "blue"]
    assert outcome.facts["source"]["ignored_count"] == 0


def test_images_of_many_sizes_are_brought_to_one(run_data, tmp_path: Path) -> None:
    write_images(tmp_path / "bilder", ((6, 9), (30, 20)))
    outcome, _ = run_data({"kind": "image_folder", "path": "bilder"}, image={"size": [5, 4], "channels": 1}, **IMAGES)
    assert outcome.facts["shape"] == [5, 4, 1]


@pytest.mark.parametrize("form", ["binary", "struct"])
def test_images_in_a_parquet_column(run_data, tmp_path: Path, form: str) -> None:
    written = write_images(tmp_path / "bilder")
    files = [(tmp_path / "bilder" / name).read_bytes() for name in written]
    column = files if form == "binary" else [{"bytes": data, "path": "p"} for data in files]
    table = pa.table({"bild": column, "width": [9] * 20, "label": [name.split("/")[0] for name in written]})
    pq.write_table(table, tmp_path / "t.parquet")
    _, out = run_data({"kind": "parquet", "path": "t.parquet"}, **IMAGES)
    for (feature, _, _), pixels in zip(in_order(out, ["t.parquet"], [20]), written.values(), strict=True):
        np.testing.assert_array_equal(feature, pixels)
    assert load_schema(out).feature == ImageFeature(name="bild", height=6, width=9, channels=3)


CODE = """
import numpy as np
import pyarrow as pa

def tables(count, name="x"):
    for start in range(0, count, 30):
        values = np.arange(start, min(start + 30, count))
        yield pa.table({name: values, "label": values % 2})

def arrays(count):
    yield {"image": np.zeros((0, 4, 5), np.uint8), "label": np.zeros(0, int)}
    yield {"image": np.arange(count * 20).reshape(count, 4, 5).astype(np.uint8), "label": np.arange(count) % 2}
"""


def test_a_function_of_the_user(run_data, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "eigene_daten.py").write_text(CODE)
    source = {"kind": "callable", "function": "eigene_daten:tables", "args": {"count": 100, "name": "Maß"}}
    _, out = run_data(source, code=code)
    found = in_order(out, ["eigene_daten:tables"], [100])
    assert [feature.tolist() for feature, _, _ in found] == [[float(row)] for row in range(100)]
    assert load_schema(out).feature == VectorFeature(columns=("Maß",))
    source = {"kind": "callable", "function": "eigene_daten:arrays", "args": {"count": 40}}
    _, out = run_data(source, code=code, **IMAGES)
    found = in_order(out, ["eigene_daten:arrays"], [40])
    np.testing.assert_array_equal(found[39][0].ravel(), np.arange(780, 800).astype(np.uint8))
    _, out = run_data(source, code=code, image={"size": [8, 10], "channels": 3}, **IMAGES)
    assert load_schema(out).feature.shape == (8, 10, 3)


def test_no_line_on_the_screen(run_data, capfd) -> None:
    run_data({"kind": "sklearn", "name": "iris"})
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
