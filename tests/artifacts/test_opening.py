"""A store is opened by its address, and no secret is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayml.artifacts.opening import open_store
from rayml.artifacts.s3 import S3Store
from rayml.artifacts.store import LocalStore
from rayml.errors import PlanError


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("/data/rayml", "/data/rayml"),
        ("ordner für daten", "ordner für daten"),
        ("file:///data/ordner%20f%C3%BCr", "/data/ordner für"),
        ("file://localhost/data", "/data"),
        ("a:b/c", "a:b/c"),
    ],
)
def test_a_folder_is_a_local_store(uri, root, tmp_path):
    store = open_store(uri, tmp_path)
    assert isinstance(store, LocalStore)
    assert store.root == Path(root)


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://rayml", "rayml", ""),
        ("s3://rayml/", "rayml", ""),
        ("S3://ray-ml.eu/team a/digits/", "ray-ml.eu", "team a/digits"),
    ],
)
def test_an_s3_address_is_a_bucket_and_a_prefix(uri, bucket, prefix, tmp_path):
    store = open_store(uri, tmp_path)
    assert isinstance(store, S3Store)
    assert (store.bucket.name, store.bucket.prefix, store.cache) == (bucket, prefix, tmp_path)


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("", "names no folder"),
        ("gs://bucket/x", "no store is opened by gs://"),
        ("https://user:hunter2@host/x", "no store is opened by https://"),
        ("s3://key:hunter2@bucket/x", "holds one of"),
        ("s3://bucket/x?secret=hunter2", "holds one of"),
        ("s3://bucket/x#hunter2", "holds one of"),
        ("file://host/x", "three slashes"),
        ("s3:///x", "is no name of a bucket"),
        ("s3:/bucket/x", "is no name of a bucket"),
        ("s3://My_Bucket/x", "is no name of a bucket"),
        ("s3://bucket/a/../b", "has an empty part"),
        ("s3://bucket/a//b", "has an empty part"),
    ],
)
def test_what_fits_no_store_is_refused(uri, what, tmp_path):
    with pytest.raises(PlanError, match=what) as caught:
        open_store(uri, tmp_path)
    assert "hunter2" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert caught.value.hint
