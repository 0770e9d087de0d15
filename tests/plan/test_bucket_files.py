"""A source in a bucket lists the files that a folder with the same names lists, on a real S3 server."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from s3 import bucket_here, client

from rayml.artifacts.bucket import Bucket
from rayml.errors import BackendError, PlanError
from rayml.plan.bucket_files import matches
from rayml.plan.facts import find_weights
from rayml.plan.sources import fingerprint, list_files
from rayml.spec.data import Source
from rayml.spec.job import JobSpec

BUCKET = "sources"
NAMES = ("b.csv", "a/x.CSV", "a/y.csv", "a/deep/z.csv", "a-b.csv", "README.md", "_tmp/x.csv", "a/.hidden/x.csv")


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    with bucket_here(tmp_path_factory.mktemp("seaweed"), BUCKET) as running:
        yield running


@pytest.fixture
def prefix():
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


def source(kind: str, path: str):
    return TypeAdapter(Source).validate_python({"kind": kind, "path": path})


def put(server, prefix: str, *names: str, content: bytes = b"1234") -> None:
    for name in names:
        key = f"{prefix.removeprefix(f's3://{BUCKET}/')}/{name}"
        client(server).put_object(Bucket=BUCKET, Key=key, Body=content)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")


@pytest.mark.parametrize(
    "path", ["", "/", "/b.csv", "/a/deep/z.csv", "/*.csv", "/a/*.csv", "/**/*.csv", "/*/x.*", "/a?b.csv"]
)
def test_the_files_of_a_folder_with_the_same_names(server, prefix, tmp_path, path):
    put(server, f"{prefix}/daten", *NAMES)
    touch(tmp_path / "daten", *NAMES)
    there, here = (
        list_files(source("csv", f"{prefix}/daten{path}"), tmp_path),
        list_files(source("csv", f"daten{path}"), tmp_path),
    )
    assert [file.name for file in there.files] == [file.name for file in here.files]
    assert there.ignored == here.ignored
    assert {file.bytes for file in there.files} == {4}
    name = there.files[0].name
    assert there.show(name) == there.locate(name)
    assert there.show(name).startswith(f"{prefix}/daten")
    assert here.show(name) == there.show(name).removeprefix(f"{prefix}/")


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("csv", "absent.csv", "absent.csv does not exist\n.* holds .*daten/, leer.txt"),
        ("csv", "dat", "dat does not exist\n"),
        ("csv", "daten/*.txt", r"no object matches .*daten/\*\.txt\n.*daten holds hund/"),
        ("csv", "daten/**", "`\\*\\*` stands for folders"),
        ("csv", "daten/**.csv", "`\\*\\*` stands for folders"),
        ("parquet", "daten", r"holds no object that ends in \.parquet; 2 others are there\n.*hund/1\.png"),
        ("image_folder", "daten/hund", r"daten/hund/1\.png lies beside the class folders"),
        ("image_folder", "nichts", r"nichts holds no object that ends in"),
    ],
)
def test_a_wrong_address_says_what_is_there(server, prefix, tmp_path, kind, path, message):
    put(server, prefix, "daten/hund/1.png", "daten/katze/2.jpg", "leer.txt", "daten.csv")
    with pytest.raises(PlanError, match=message) as raised:
        list_files(source(kind, f"{prefix}/{path}"), tmp_path)
    assert raised.value.where == f"data.source.path {prefix}/{path}"


@pytest.mark.parametrize("path", ["daten/**", "daten/**.csv"])
def test_two_stars_mean_the_same_on_a_disk(tmp_path, path):
    touch(tmp_path / "daten", *NAMES)
    with pytest.raises(PlanError, match="`\\*\\*` stands for folders"):
        list_files(source("csv", path), tmp_path)


def test_a_glob_lists_only_what_begins_as_it_does(server, prefix, tmp_path, monkeypatch):
    put(server, prefix, "2025-1.csv", "2026-1.csv", "2026-2.csv")
    asked, entries = [], Bucket.entries

    def listed(self, beginning):
        asked.append(beginning)
        return entries(self, beginning)

    monkeypatch.setattr(Bucket, "entries", listed)
    files = list_files(source("csv", f"{prefix}/2026-*.csv"), tmp_path).files
    assert ([file.name for file in files], asked) == (["2026-1.csv", "2026-2.csv"], ["2026-"])


def test_a_changed_object_changes_the_fingerprint(server, prefix, tmp_path):
    put(server, prefix, "x.csv", "y.csv")
    first = fingerprint(source("csv", prefix), tmp_path)
    assert first == fingerprint(source("csv", prefix), tmp_path / "elsewhere")
    put(server, prefix, "x.csv", content=b"4321")
    assert fingerprint(source("csv", prefix), tmp_path) != first


def test_a_server_that_refuses_is_told(prefix, tmp_path, monkeypatch):
    with pytest.raises(BackendError, match="there is no such bucket"):
        list_files(source("csv", "s3://no-such-bucket/x.csv"), tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(BackendError, match="the secret key does not fit"):
        list_files(source("csv", f"{prefix}/x.csv"), tmp_path)


def test_weights_in_a_bucket_are_told_by_their_etags(server, prefix, tmp_path):
    def found(path: str):
        start = {"kind": "folder", "path": path}
        document = {
            "name": "x",
            "data": {"source": {"kind": "sklearn", "name": "digits"}},
            "task": {"kind": "image_classification"},
            "model": {"kind": "small_cnn"},
            "train": {"start": start},
        }
        return find_weights(JobSpec.model_validate(document), tmp_path, None)

    put(server, f"{prefix}/weights", "model.safetensors")
    put(server, f"{prefix}/weights", "model.json", content=b'{"model": {"kind": "small_cnn"}}')
    folder = found(f"{prefix}/weights/")
    assert (folder.path, folder.model) == (f"{prefix}/weights", {"kind": "small_cnn"})
    alone = found(f"{prefix}/weights/model.safetensors")
    assert (alone.path, alone.model) == (f"{prefix}/weights/model.safetensors", None)
    put(server, f"{prefix}/weights", "model.safetensors", content=b"other")
    assert found(f"{prefix}/weights").digest != folder.digest
    with pytest.raises(PlanError, match=f"there is no {prefix}/nothing"):
        found(f"{prefix}/nothing")


@pytest.mark.parametrize(
    ("name", "pattern", "fits"),
    [
        ("a/b.csv", "**/*.csv", True),
        ("b.csv", "**/*.csv", True),
        ("a/b/c.csv", "a/*.csv", False),
        ("a/b/c.csv", "a/**", True),
        ("a", "a/**/b", False),
        ("a/x/y/b", "a/**/b", True),
    ],
)
def test_globs(name, pattern, fits):
    assert matches(tuple(name.split("/")), tuple(pattern.split("/"))) == fits
