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
from s3 import client, seaweed

from rayml.artifacts.bucket_hosts import BucketHosts
from rayml.artifacts.hosts import ONE_FOLDER
from rayml.artifacts.manifest import digest
from rayml.artifacts.s3 import S3Store
from rayml.artifacts.store import LocalStore
from rayml.errors import BackendError
from rayml.ml.checkpoint import CheckpointWriter, save_checkpoint, whole_checkpoints

BUCKET = "rayml-hosts"
KEY = digest("hosts")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with seaweed(tmp_path_factory.mktemp("seaweed")) as running, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in running.environment.items():
            patch.setenv(name, value)
        client(running).create_bucket(Bucket=BUCKET)
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


def test_a_file_that_another_host_removed_is_not_sent_again(driver, worker):
    here, other = driver.work("train", KEY), worker.work("train", KEY)
    put(here, "step-1")
    driver.hosts().send(here)
    worker.hosts().fetch(other)
    (other / "step-1").unlink()
    worker.hosts().send(other)
    put(here, "step-2")
    driver.hosts().send(here)
    assert there(driver) == {"step-2"}
    put(here, "step-1", b"anew")
    driver.hosts().send(here)
    assert there(driver) == {"step-1", "step-2"}


def test_a_host_that_lacks_a_file_removes_nothing(driver, worker):
    put(driver.work("train", KEY), "step-1")
    driver.hosts().send(driver.work("train", KEY))
    put(worker.work("train", KEY), "step-2")
    worker.hosts().send(worker.work("train", KEY))
    assert there(driver) == {"step-1", "step-2"}


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


class Away:
    """Hosts whose storage does not answer while `down`."""

    share_folders = False

    def __init__(self) -> None:
        self.down, self.sent = True, []

    def apart(self) -> bool:
        return False

    def send(self, folder: Path, wants=None) -> None:
        if self.down:
            raise BackendError("no answer", where="s3://x", hint="wait")
        self.sent.append(sorted(each.name for each in folder.iterdir()))


def test_training_goes_on_while_the_storage_is_away_and_does_not_end_before_it_has_all(tmp_path, capfd):
    import torch

    hosts = Away()
    writer = CheckpointWriter(tmp_path, 1, hosts)
    writer.write("step-000000001-a", {"model": {"w": torch.ones(2)}}, {"best_checkpoint": None})
    writer.finish()
    assert "was not sent to the storage" in capfd.readouterr().err
    with pytest.raises(BackendError):
        writer.deliver()
    hosts.down = False
    writer.deliver()
    assert hosts.sent == [["step-000000001-a"]]


def test_a_host_of_parts_keeps_the_last_whole_checkpoint_until_the_next_is_whole(tmp_path):
    hosts = Away()
    hosts.down = False
    writer = CheckpointWriter(tmp_path, 1, hosts, begun_from="step-000000003-r")
    for name in ("step-000000001-torn", "step-000000003-r", "step-000000006-n"):
        put(tmp_path, f"{name}/shards/rank-00001.safetensors")
    writer._prune_parts("step-000000006-n", None)
    assert {each.name for each in tmp_path.iterdir()} == {"step-000000003-r", "step-000000006-n"}
    writer._whole.append("step-000000006-n")
    put(tmp_path, "step-000000009-o/shards/rank-00001.safetensors")
    writer._prune_parts("step-000000009-o", "step-000000003-r")
    assert {each.name for each in tmp_path.iterdir()} == {"step-000000003-r", "step-000000006-n", "step-000000009-o"}
    writer._whole.append("step-000000009-o")
    put(tmp_path, "step-000000012-p/shards/rank-00001.safetensors")
    writer._prune_parts("step-000000012-p", None)
    assert {each.name for each in tmp_path.iterdir()} == {"step-000000009-o", "step-000000012-p"}


def test_whole_checkpoints_are_named_newest_first(tmp_path):
    import torch

    for step in (3, 6):
        save_checkpoint(tmp_path / f"step-{step:09d}-a", {"model": {"w": torch.ones(1)}}, {})
    put(tmp_path, "step-000000009-a/model.safetensors")
    assert whole_checkpoints(tmp_path) == ["step-000000006-a", "step-000000003-a"]
