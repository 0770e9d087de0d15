"""What one host has reaches another through a real S3 server, and nothing that a host lacks is taken for removed."""

from __future__ import annotations

import os
import pickle
import secrets
import stat
import threading
from pathlib import Path

import pytest
from contract.store import manifest, write
from s3 import bucket_here

from rayml.artifacts.bucket_hosts import BucketHosts
from rayml.artifacts.hosts import ONE_FOLDER, OneFolder
from rayml.artifacts.manifest import digest
from rayml.artifacts.s3 import S3Store
from rayml.artifacts.store import LocalStore
from rayml.errors import BackendError
from rayml.ml.checkpoint import CheckpointWriter, save_checkpoint, whole_checkpoints
from rayml.stages.train.saving import newest_of_all

BUCKET = "rayml-hosts"
KEY = digest("hosts")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with bucket_here(tmp_path_factory.mktemp("seaweed"), BUCKET) as running:
        yield running


@pytest.fixture
def prefix(server):
    return f"tests/{secrets.token_hex(4)}/artifacts"


@pytest.fixture
def driver(prefix, tmp_path):
    return S3Store(BUCKET, prefix, tmp_path / "driver" / "artifacts")


@pytest.fixture
def worker(prefix, tmp_path):
    """The same place in the bucket, with another host's folders."""
    return S3Store(BUCKET, prefix, tmp_path / "worker" / "artifacts")


def put(folder: Path, name: str, content: bytes = b"1") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def there(store: S3Store) -> set[str]:
    return {entry.path.partition("/work/")[2] for entry in store.bucket.entries("") if "/work/" in entry.path}


def test_a_folder_that_all_hosts_see_carries_nothing(tmp_path):
    hosts = LocalStore(tmp_path).hosts()
    assert hosts == ONE_FOLDER
    assert hosts.share_folders
    assert not hosts.apart()
    hosts.send(tmp_path)
    hosts.fetch(tmp_path / "never-made")
    assert not (tmp_path / "never-made").exists()


def test_a_worker_knows_whether_it_sees_the_drivers_folders(driver, worker):
    sent = pickle.dumps(driver.hosts())
    assert not pickle.loads(sent).apart(), "another process of the same host"
    hosts = driver.hosts()
    assert BucketHosts(worker, hosts.origin).apart(), "a host where nothing was done yet"
    worker.hosts()
    assert BucketHosts(worker, hosts.origin).apart(), "a host that was a driver's once"


def test_what_a_host_makes_can_be_entered_by_its_user_alone(driver):
    driver.hosts().make(driver.cache / "train" / "x")
    assert stat.S_IMODE(driver.cache.parent.stat().st_mode) == 0o700


def test_only_what_is_asked_for_travels(driver, worker):
    work = driver.work("train", KEY)
    for name in ("journal.jsonl", "checkpoints/step-1/model", "checkpoints/step-1/manifest.json"):
        put(work, name)
    driver.hosts().send(work / "checkpoints")
    assert there(driver) == {"checkpoints/step-1/model", "checkpoints/step-1/manifest.json"}
    other = worker.work("train", KEY)
    worker.hosts().fetch(other / "checkpoints", lambda name: name.endswith("model"))
    assert names(other) == {"checkpoints/step-1/model"}


def test_what_another_host_removed_is_not_sent_again_unless_it_changed(driver, worker):
    here, other = driver.work("train", KEY), worker.work("train", KEY)
    put(here, "step-1/manifest.json")
    driver.hosts().send(here)
    worker.hosts().fetch(other)
    worker.hosts().remove(other / "step-1")
    assert not (other / "step-1").exists()
    put(here, "step-2/manifest.json")
    driver.hosts().send(here)
    assert there(driver) == {"step-2/manifest.json"}
    put(here, "step-1/manifest.json", b"anew")
    driver.hosts().send(here)
    assert there(driver) == {"step-1/manifest.json", "step-2/manifest.json"}


def test_a_file_that_is_absent_here_was_not_removed(driver, worker):
    """Others clean temporary folders too, and a bucket may hold the only copy then."""
    put(driver.work("train", KEY), "step-1")
    driver.hosts().send(driver.work("train", KEY))
    (driver.work("train", KEY) / "step-1").unlink()
    put(driver.work("train", KEY), "step-2")
    driver.hosts().send(driver.work("train", KEY))
    put(worker.work("train", KEY), "step-3")
    worker.hosts().send(worker.work("train", KEY))
    assert there(driver) == {"step-1", "step-2", "step-3"}


def test_a_host_that_changed_nothing_leaves_anothers_newer_file(driver, worker):
    here, other = driver.work("tune", KEY), worker.work("tune", KEY)
    put(here, "ledger.jsonl", b"one\n")
    driver.hosts().send(here)
    worker.hosts().fetch(other)
    put(other, "ledger.jsonl", b"one\ntwo\n")
    worker.hosts().send(other)
    driver.hosts().send(here)
    driver.hosts().send(here, again=True)
    driver.hosts().fetch(here)
    assert (here / "ledger.jsonl").read_bytes() == b"one\ntwo\n"


def test_what_the_storage_lost_is_sent_once_more_where_that_is_asked(driver):
    work = driver.work("train", KEY)
    put(work, "step-1")
    driver.hosts().send(work)
    for entry in driver.bucket.entries(""):
        driver.bucket.delete(entry.path)
    driver.hosts().send(work)
    assert there(driver) == set()
    driver.hosts().send(work, again=True)
    assert there(driver) == {"step-1"}


def test_a_file_that_is_removed_while_it_is_fetched_is_passed_over(driver, worker, monkeypatch):
    work, other = driver.work("train", KEY), worker.work("train", KEY)
    put(work, "step-1")
    put(work, "step-2")
    driver.hosts().send(work)
    download = worker.bucket.download

    def late(entry, target):
        driver.bucket.delete(entry.path.replace("step-2", "step-1"))
        return download(entry, target)

    monkeypatch.setattr(worker.bucket, "download", late)
    worker.hosts().fetch(other)
    assert names(other) <= {"step-1", "step-2"} and "step-2" in names(other)


@pytest.mark.parametrize("how", ["others can write", "a link"])
def test_a_folder_that_somebody_else_could_fill_is_refused(driver, tmp_path, how):
    root = driver.cache.parent
    if how == "a link":
        (tmp_path / "theirs").mkdir()
        root.symlink_to(tmp_path / "theirs")
    else:
        root.mkdir()
        root.chmod(0o777)
    with pytest.raises(BackendError, match="another user, or others can write"):
        driver.hosts()


def test_ranks_of_one_host_send_at_the_same_time(driver, worker):
    work = worker.work("train", KEY)

    def rank(number: int) -> None:
        for step in range(4):
            put(work, f"step-{step}/rank-{number}", os.urandom(2000))
            worker.hosts().send(work, lambda name: name.endswith(f"rank-{number}"))

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    driver.hosts().fetch(driver.work("train", KEY))
    assert names(driver.work("train", KEY)) == {f"step-{step}/rank-{rank}" for step in range(4) for rank in range(4)}
    for name in names(work):
        assert (driver.work("train", KEY) / name).read_bytes() == (work / name).read_bytes()


def test_shards_that_a_worker_wrote_are_part_of_the_drivers_artifact(driver, worker, monkeypatch):
    folder = write(driver, KEY)
    kind = folder.parent.parent.name
    theirs = worker.cache / folder.relative_to(driver.cache)
    put(theirs, "shard-1.arrow", b"rows")
    BucketHosts(worker, driver.hosts().origin).send(theirs)
    driver.hosts().fetch(folder)
    sent, upload = [], driver.bucket.upload
    monkeypatch.setattr(driver.bucket, "upload", lambda *args: (sent.append(args[0].name), upload(*args)))
    made = driver.commit(folder, manifest(KEY))
    assert "shard-1.arrow" in {entry.path for entry in made.manifest.files}
    assert "shard-1.arrow" not in sent, "it is there already"
    assert not driver.verify(made)
    found = worker.find(kind, KEY)
    assert found is not None
    assert (found.path / "shard-1.arrow").read_bytes() == b"rows"


def test_an_artifact_is_brought_to_its_path_on_the_other_host(driver, worker):
    made = driver.commit(write(driver, KEY), manifest(KEY))
    here = BucketHosts(worker, driver.hosts().origin)
    there = type(made)(made.manifest, worker.cache / made.path.relative_to(driver.cache))
    here.bring(there)
    assert names(there.path) == names(made.path)


def test_a_folder_outside_of_the_storage_is_left_alone(driver, tmp_path):
    put(tmp_path / "elsewhere", "x")
    driver.hosts().send(tmp_path / "elsewhere")
    driver.hosts().fetch(tmp_path / "elsewhere")
    assert not driver.bucket.entries("")


class Away(OneFolder):
    """Hosts whose storage does not answer while `down`."""

    share_folders = False

    def __init__(self) -> None:
        object.__setattr__(self, "down", True)
        object.__setattr__(self, "told", [])

    def send(self, folder: Path, wants=None, again: bool = False) -> None:
        if self.down:
            raise BackendError("no answer", where="s3://x", hint="wait")
        self.told.append(("send", sorted(each.name for each in folder.iterdir()), again))

    def remove(self, folder: Path) -> None:
        self.told.append(("remove", folder.name))
        super().remove(folder)


def test_training_goes_on_while_the_storage_is_away_and_does_not_end_before_it_has_all(tmp_path, capfd):
    import torch

    hosts = Away()
    writer = CheckpointWriter(tmp_path, 1, hosts)
    for name in ("step-000000001-a", "step-000000002-b"):
        writer.write(name, {"model": {"w": torch.ones(2)}}, {"best_checkpoint": None})
    writer.finish()
    assert "was not sent to the storage" in capfd.readouterr().err
    assert whole_checkpoints(tmp_path) == ["step-000000002-b"]
    assert not hosts.told, "the storage keeps what is older until it has what is newer"
    with pytest.raises(BackendError):
        writer.deliver()
    object.__setattr__(hosts, "down", False)
    writer.deliver()
    assert hosts.told == [("send", ["step-000000002-b"], True)]


def test_a_host_of_parts_keeps_the_last_whole_checkpoint_until_the_next_is_whole(tmp_path):
    for name in ("step-000000001-torn", "step-000000003-r"):
        put(tmp_path, f"{name}/shards/rank-00001.safetensors")
    put(tmp_path, "step-000000003-r/manifest.json")
    hosts = Away()
    writer = CheckpointWriter(tmp_path, 1, hosts)

    def write(name: str, best: str | None = None) -> set[str]:
        put(tmp_path, f"{name}/shards/rank-00001.safetensors")
        writer._prune_parts(name, best)
        return {each.name for each in tmp_path.iterdir()}

    assert write("step-000000006-n") == {"step-000000003-r", "step-000000006-n"}
    best = "step-000000003-r"
    assert write("step-000000009-o", best) == {best, "step-000000006-n", "step-000000009-o"}
    assert write("step-000000012-p") == {"step-000000009-o", "step-000000012-p"}
    assert ("remove", "step-000000001-torn") in hosts.told


def test_a_checkpoint_that_no_host_can_use_does_not_count_as_one_that_is_kept(tmp_path):
    import torch

    for step in (9, 20, 21):
        save_checkpoint(tmp_path / f"step-{step:09d}-a", {"model": {"w": torch.ones(1)}}, {"best_checkpoint": None})
    for step in (20, 21):
        (tmp_path / f"step-{step:09d}-a" / "model.safetensors").unlink()
    found, notes = newest_of_all(tmp_path, torch.device("cpu"))
    assert found is not None and found.path.name == "step-000000009-a"
    assert len(notes) == 2
    assert whole_checkpoints(tmp_path) == ["step-000000009-a"]


def test_a_checkpoint_without_its_best_one_is_passed_over(tmp_path):
    import torch

    for step, best in ((5, "step-000000005-a"), (9, "step-000000007-gone")):
        state = {"best_checkpoint": best}
        save_checkpoint(tmp_path / f"step-{step:09d}-a", {"model": {"w": torch.ones(1)}}, state)
    found, (note,) = newest_of_all(tmp_path, torch.device("cpu"))
    assert found is not None and found.path.name == "step-000000005-a"
    assert "the best one, step-000000007-gone, is gone" in note


def test_whole_checkpoints_are_named_newest_first(tmp_path):
    import torch

    for step in (3, 6):
        save_checkpoint(tmp_path / f"step-{step:09d}-a", {"model": {"w": torch.ones(1)}}, {})
    put(tmp_path, "step-000000009-a/model.safetensors")
    assert whole_checkpoints(tmp_path) == ["step-000000006-a", "step-000000003-a"]
