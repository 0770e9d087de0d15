"""What every Store has to do. A store's own test subclasses this and gives a fixture `store`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rayml.artifacts.manifest import Manifest, digest


def manifest(key: str, kind: str = "train", **changes) -> Manifest:
    values = {
        "kind": kind,
        "key": key,
        "files": (),
        "config": {"epochs": 3},
        "inputs": {},
        "code": "c" * 64,
        "metrics": {"val/accuracy": 0.97},
        "facts": {"classes": ["ä", "b"]},
        "environment": {"python": "3.11"},
        "run": "digits-1",
        "job": "digits",
        "created": "2026-11-21T00:00:00.000+00:00",
        "seconds": 1.5,
    }
    return Manifest(**{**values, **changes})


HARMED = {"flip": b"Weights", "truncate": b"we", "grow": b"weights and more"}
"""What model.safetensors holds after each damage; it held b"weights"."""


def write(store, key: str, content: bytes = b"weights", kind: str = "train") -> Path:
    folder = store.staging(kind, key)
    (folder / "deep" / "ordner für daten").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "deep" / "ordner für daten" / "x.bin").write_bytes(b"")
    return folder


class StoreContract:
    def harm(self, store, artifact, how: str) -> str:
        """Damage model.safetensors where the store keeps it; gives the name that faults call it by."""
        path = artifact.path / "model.safetensors"
        path.chmod(0o644)
        if how == "folder":
            shutil.rmtree(artifact.path)
        elif how == "delete":
            path.unlink()
        else:
            path.write_bytes(HARMED[how])
        return str(path)

    def test_what_was_committed_is_found(self, store):
        key = digest("one")
        folder = write(store, key)
        committed = store.commit(folder, manifest(key))
        found = store.find("train", key)
        assert found == committed == store.look("train", key)
        assert (found.path / "model.safetensors").read_bytes() == b"weights"
        assert {entry.path for entry in found.manifest.files} == {"model.safetensors", "deep/ordner für daten/x.bin"}
        assert found.manifest.facts == {"classes": ["ä", "b"]}
        assert store.verify(found) == []

    def test_a_value_that_is_no_finite_number_is_kept(self, store):
        key = digest("infinite")
        values = {"a": float("inf"), "b": float("nan")}
        store.commit(write(store, key), manifest(key, metrics=values, facts={"worst": values}))
        found = store.find("train", key).manifest
        for kept in (found.metrics, found.facts["worst"]):
            assert kept["a"] == float("inf")
            assert kept["b"] != kept["b"]

    def test_nothing_is_found_before_the_commit(self, store):
        key = digest("half")
        write(store, key)
        assert store.find("train", key) is None and store.look("train", key) is None
        assert list(store.artifacts()) == []

    def test_another_kind_or_key_is_not_found(self, store):
        key = digest("one")
        store.commit(write(store, key), manifest(key))
        assert store.find("export", key) is None
        assert store.find("train", digest("two")) is None

    def test_the_first_commit_wins_and_is_not_touched(self, store):
        key = digest("same")
        first, second = write(store, key, b"first"), write(store, key, b"second")
        won = store.commit(first, manifest(key))
        lost = store.commit(second, manifest(key))
        assert won == lost == store.find("train", key)
        assert (lost.path / "model.safetensors").read_bytes() == b"first"
        assert store.verify(lost) == []

    def test_many_writers_of_one_key_leave_one_whole_artifact(self, store):
        key = digest("raced")
        folders = [write(store, key, f"writer {number}".encode() * 1000) for number in range(12)]
        barrier = threading.Barrier(len(folders))
        results = []

        def commit(folder):
            barrier.wait()
            results.append(store.commit(folder, manifest(key)))

        threads = [threading.Thread(target=commit, args=(folder,)) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 12
        assert all(result == results[0] for result in results)
        assert store.verify(store.find("train", key)) == []
        assert len(list(store.artifacts())) == 1

    @pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "grow"])
    def test_verify_names_the_file_that_changed(self, store, damage):
        key = digest("verified")
        artifact = store.commit(write(store, key), manifest(key))
        self.harm(store, artifact, damage)
        faults = store.verify(artifact)
        assert len(faults) == 1
        assert faults[0].file.endswith("model.safetensors")

    @pytest.mark.parametrize("damage", ["delete", "truncate", "grow", "folder"])
    def test_what_lost_a_file_is_not_found_and_is_made_anew(self, store, damage):
        key = digest("damaged")
        artifact = store.commit(write(store, key), manifest(key))
        file = self.harm(store, artifact, damage)
        assert store.find("train", key) is None and store.look("train", key) is None
        assert file in {fault.file for fault in store.damage("train", key)}
        assert [fault.file for fault in store.verify(artifact)] == [
            fault.file for fault in store.damage("train", key)
        ], "verify names the same files, once"
        again = store.commit(write(store, key), manifest(key, run="digits-2"))
        assert store.find("train", key) == again
        assert again.manifest.run == "digits-2"
        assert store.verify(again) == []
        assert store.damage("train", key) == []
        assert list(store.artifacts()) == [again]

    def test_many_writers_replace_a_damaged_artifact_with_a_whole_one(self, store):
        key = digest("raced for the damaged one")
        self.harm(store, store.commit(write(store, key), manifest(key)), "delete")
        folders = [write(store, key, f"writer {number}".encode()) for number in range(8)]
        threads = [threading.Thread(target=store.commit, args=(folder, manifest(key))) for folder in folders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.verify(store.find("train", key)) == []

    def test_what_was_never_committed_is_not_damaged(self, store):
        key = digest("half")
        write(store, key)
        assert store.damage("train", key) == []
        assert store.unreadable() == []

    def test_work_outlives_an_attempt_and_ends_with_the_commit(self, store):
        key = digest("work")
        (store.work("train", key) / "checkpoint").write_bytes(b"1")
        assert (store.work("train", key) / "checkpoint").exists()
        store.commit(write(store, key), manifest(key))
        assert not (store.work("train", key) / "checkpoint").exists()

    def test_one_at_a_time(self, store):
        key = digest("lock")
        waited, order = threading.Event(), []

        def second():
            with store.exclusive("train", key, waited.set):
                order.append("second")

        thread = threading.Thread(target=second)
        with store.exclusive("train", key, lambda: None):
            thread.start()
            assert waited.wait(10), "the second run is told that it waits"
            order.append("first")
        thread.join(10)
        assert order == ["first", "second"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
import rayml.artifacts.store as module
import rayml.artifacts.durable as durable
from contract.store import manifest, write
from rayml.artifacts.manifest import digest
store = module.LocalStore(Path({root!r}))
calls = 0
def counted(function):
    def inner(*args, **kwargs):
        global calls
        calls += 1
        if calls == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return inner
for name in ("fsync", "link", "unlink", "open", "rename", "replace"):
    setattr(os, name, counted(getattr(os, name)))
key = digest("killed")
store.commit(write(store, key), manifest(key))
print("whole")
"""


def commit_and_die(root: Path, at: int) -> bool:
    """Commit in a process that is killed at its `at`-th call to the file system; True where it lived to the end."""
    program = KILLED.format(path=[str(Path(__file__).parents[1])], root=str(root), at=at)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == os.EX_OK
