"""The local store keeps the contract, and a commit killed at any call leaves nothing half-written."""

from __future__ import annotations

import json

import pytest
from contract.store import StoreContract, commit_and_die, manifest, write

from rayml.artifacts.durable import create_exclusive, write_atomic
from rayml.artifacts.manifest import Manifest, digest
from rayml.artifacts.store import LocalStore
from rayml.errors import RaymlError


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "artifacts")


class TestLocalStore(StoreContract):
    pass


def test_a_commit_killed_at_any_call_is_whole_or_not_there(tmp_path):
    key = digest("killed")
    lived = False
    for at in range(1, 40):
        root = tmp_path / str(at)
        lived = commit_and_die(root, at)
        store = LocalStore(root)
        artifact = store.find("train", key)
        if artifact is not None:
            assert store.verify(artifact) == []
        again = store.commit(write(store, key), manifest(key))
        assert store.verify(again) == []
        if lived:
            break
    assert lived, "the last point was never reached: the loop did not cover the whole commit"
    assert at > 8


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"attempt": "x"}', b"\xff\xfe"])
def test_a_torn_manifest_is_not_an_artifact_and_makes_way_for_one(store, content):
    key = digest("torn")
    folder = write(store, key)
    path = folder.parent / "manifest.json"
    path.write_bytes(content)
    assert store.find("train", key) is None
    assert [fault.file for fault in store.damage("train", key)] == [str(path)]
    assert [fault.what for fault in store.unreadable()] == ["cannot be read"]
    assert list(store.artifacts()) == []
    assert store.commit(folder, manifest(key)) == store.find("train", key)
    assert store.unreadable() == []
    assert [aside.read_bytes() for aside in path.parent.glob("damaged-*.json")] == [content]


def test_two_keys_with_one_beginning_do_not_replace_each_other(store):
    key = digest("one")
    first = store.commit(write(store, key), manifest(key))
    other = key[:16] + "0" * 48
    with pytest.raises(RaymlError, match="two keys begin with"):
        store.commit(write(store, other), manifest(other))
    assert store.find("train", key) == first


def test_a_manifest_of_a_newer_rayml_is_read(store):
    key = digest("newer")
    artifact = store.commit(write(store, key), manifest(key))
    path = artifact.path.parent / "manifest.json"
    document = json.loads(path.read_text())
    document["manifest"]["something_new"] = 1
    path.write_text(json.dumps(document))
    assert isinstance(store.find("train", key).manifest, Manifest)


def test_the_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": 1, "b": [1.0, "ü"]}) == digest({"b": [1.0, "ü"], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})


def test_an_exclusive_file_is_created_once(tmp_path):
    assert create_exclusive(tmp_path / "a", b"1")
    assert not create_exclusive(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_atomic_write_keeps_the_mode(tmp_path):
    write_atomic(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
