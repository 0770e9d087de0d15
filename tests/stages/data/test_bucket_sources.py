"""Sources in a bucket, read through Ray from a real S3 server: the shards of the same files on a disk."""

from __future__ import annotations

import secrets
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import TypeAdapter
from s3 import bucket_here, client

from rayml.artifacts import bucket
from rayml.errors import BackendError, StageError
from rayml.plan.listing import SourceFile, summary
from rayml.plan.sources import fingerprint
from rayml.spec.data import CsvSource, Source
from rayml.stages.data import files, pictures, tables
from rayml.stages.data.rows import Origin

pytestmark = pytest.mark.ray

BUCKET = "sources"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with bucket_here(tmp_path_factory.mktemp("seaweed"), BUCKET) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def cluster(server, ray_cluster):
    """Started after the server: its workers have the environment in which it is found."""


@pytest.fixture
def prefix():
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


def send(server, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            key = f"{prefix.removeprefix(f's3://{BUCKET}/')}/{path.relative_to(folder).as_posix()}"
            client(server).put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())


def run_there(run_data, source: dict, **config):
    """The step, planned for what is in the bucket now."""
    planned = fingerprint(TypeAdapter(Source).validate_python(source), Path("/nowhere"))
    return run_data(source, fingerprint=planned, **config)


def say_whole(server, prefix: str) -> None:
    """What `rayml submit` writes when all files are there."""
    found = [SourceFile(entry.path, entry.bytes, entry.etag) for entry in bucket.bucket_at(prefix).entries("")]
    key = f"{prefix.removeprefix(f's3://{BUCKET}/')}.json"
    client(server).put_object(Bucket=BUCKET, Key=key, Body=summary(found))


def table(rows: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {"a": random.normal(size=rows), "b": random.integers(0, 9, rows), "label": random.integers(0, 3, rows)}
    )


def write_csv(folder: Path) -> dict[str, object]:
    for number in range(3):
        pcsv.write_csv(table(50 + number, number), folder / f"{number}.csv")
    return {"kind": "csv"}


def write_parquet(folder: Path) -> dict[str, object]:
    for number in range(2):
        pq.write_table(table(400, number), folder / f"{number}.parquet", row_group_size=100)
    return {"kind": "parquet"}


def write_images(folder: Path) -> dict[str, object]:
    random = np.random.default_rng(3)
    for number in range(40):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (6, 5, 3), np.uint8)).save(path)
    return {"kind": "image_folder"}


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.arrow")}


@pytest.mark.parametrize(
    ("write", "task"),
    [
        (write_csv, "tabular_classification"),
        (write_parquet, "tabular_classification"),
        (write_images, "image_classification"),
    ],
)
def test_the_shards_are_those_of_a_folder(server, prefix, run_data, tmp_path, monkeypatch, write, task):
    monkeypatch.setattr(tables, "BLOCK_BYTES", 3000)  # so that a Parquet file is read by its row groups
    monkeypatch.setattr(pictures, "MAX_FILES", 16)
    folder = tmp_path / "daten"
    folder.mkdir()
    source = write(folder)
    send(server, folder, prefix)
    _, here = run_data({**source, "path": "daten"}, task=task)
    outcome, there = run_there(run_data, {**source, "path": prefix}, task=task)
    assert shards(here) and shards(there) == shards(here)
    assert outcome.facts["source"]["path"] == prefix
    folder.rename(tmp_path / "gone")
    say_whole(server, prefix)
    _, sent = run_data({**source, "path": "daten"}, sent=prefix, task=task)
    assert shards(sent) == shards(here)


def test_what_is_wrong_in_an_object_has_its_address_and_row(server, prefix, run_data, tmp_path):
    folder = tmp_path / "daten"
    folder.mkdir()
    (folder / "x.csv").write_text("a,label\n1,0\n2,1\nthree,1\n")
    (folder / "y.parquet").write_bytes(b"PAR1 is not enough")
    send(server, folder, prefix)
    with pytest.raises(StageError) as raised:
        run_there(run_data, {"kind": "csv", "path": f"{prefix}/x.csv"})
    assert raised.value.where == f"{prefix}/x.csv row 2 column `a`"
    with pytest.raises(StageError, match="cannot be read") as raised:
        run_there(run_data, {"kind": "parquet", "path": f"{prefix}/y.parquet"})
    assert raised.value.where == f"{prefix}/y.parquet"
    # Files that were sent are named as the job file names them.
    say_whole(server, prefix)
    with pytest.raises(StageError) as raised:
        run_data({"kind": "csv", "path": "daten/x.csv"}, sent=f"{prefix}")
    assert "daten" in raised.value.where


def test_a_bucket_that_is_not_there(run_data):
    with pytest.raises(BackendError, match="there is no such bucket"):
        run_data({"kind": "csv", "path": "s3://no-such-bucket/x.csv"})


def test_an_object_that_is_gone_when_it_is_read(server, prefix, run_data, tmp_path, monkeypatch):
    from rayml.stages.data import stage

    folder = tmp_path / "daten"
    folder.mkdir()
    write_csv(folder)
    send(server, folder, prefix)
    understand = stage.understand

    def and_remove_one(*arguments):
        reading = understand(*arguments)
        client(server).delete_object(Bucket=BUCKET, Key=f"{prefix.removeprefix(f's3://{BUCKET}/')}/1.csv")
        return reading

    monkeypatch.setattr(stage, "understand", and_remove_one)
    with pytest.raises(StageError, match="there is no such object any more") as raised:
        run_there(run_data, {"kind": "csv", "path": prefix})
    assert raised.value.where == f"{prefix}/1.csv"


def test_objects_that_changed_since_the_plan_are_not_read_in_its_name(server, prefix, run_data, tmp_path):
    folder = tmp_path / "daten"
    folder.mkdir()
    write_csv(folder)
    send(server, folder, prefix)
    planned = fingerprint(CsvSource(kind="csv", path=prefix), tmp_path)
    (folder / "1.csv").write_text("a,b,label\n1,2,3\n")
    send(server, folder, prefix)
    with pytest.raises(StageError, match="the objects changed since the plan was made") as raised:
        run_data({"kind": "csv", "path": prefix}, fingerprint=planned)
    assert raised.value.where == f"data.source.path {prefix}"


@pytest.mark.parametrize(
    ("name", "open_it", "read"),
    [("x.csv", "open_rows", tables._csv_columns), ("x.parquet", "open_anywhere", tables._open_parquet)],
)
def test_a_server_that_is_gone_while_tables_are_read_is_no_damaged_file(name, open_it, read, monkeypatch):
    def away(place):
        raise OSError("When reading 'x': AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7")

    monkeypatch.setattr(tables, open_it, away)
    with pytest.raises(BackendError, match="cannot be read: network connection") as raised:
        read(tables.TableFile(f"s3://{BUCKET}/{name}", Origin(0, f"rows/{name}"), 1, 1))
    assert raised.value.where == f"rows/{name}"


def test_many_objects_are_read_through_one_connection(server, prefix, monkeypatch):
    for number in range(20):
        key = f"{prefix.removeprefix(f's3://{BUCKET}/')}/{number}"
        client(server).put_object(Bucket=BUCKET, Key=key, Body=b"%d" % number)
    made, make = [], bucket._make_client
    monkeypatch.setattr(bucket, "_make_client", lambda timeout_s: made.append(1) or make(timeout_s))
    files._bucket.cache_clear()
    places = [f"{prefix}/{number}" for number in range(20)]
    assert files.read_files(places, places) == [b"%d" % number for number in range(20)]
    assert len(made) == 1


def test_large_files_are_not_held_together():
    sizes = [SourceFile(str(number), size, 0) for number, size in enumerate([1, 1, 9, 30, 2, 2, 2, 2])]
    found = [[file.bytes for file in group] for group in files.grouped(sizes, most_bytes=10, most_files=3)]
    assert found == [[1, 1], [9], [30], [2, 2, 2], [2]]
