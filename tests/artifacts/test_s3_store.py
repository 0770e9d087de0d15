"""The store in a bucket keeps the contract against a real server, whatever happens to the network and its writers."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from contract.store import HARMED, StoreContract, manifest, write
from fault_proxy import fault_proxy
from s3 import SECRET_KEY, client, free_ports
from s3 import STORE_BUCKET as BUCKET

from rayml.artifacts.bring import bring_weights
from rayml.artifacts.bucket import Bucket
from rayml.artifacts.manifest import digest
from rayml.artifacts.s3 import S3Store
from rayml.artifacts.work import is_inside
from rayml.errors import BackendError, RaymlError


@pytest.fixture
def raw(server):
    return client(server)


def keys(raw, prefix: str) -> list[str]:
    return [item["Key"] for item in raw.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]


class TestS3Store(StoreContract):
    def harm(self, store, artifact, how):
        files = f"{artifact.manifest.kind}/{artifact.manifest.key[:16]}/{artifact.path.name}"
        name = f"{files}/model.safetensors"
        if how == "folder":
            for entry in store.bucket.entries(f"{files}/"):
                store.bucket.delete(entry.path)
        elif how == "delete":
            store.bucket.delete(name)
        else:
            store.bucket.put(name, HARMED[how])
        return store.bucket.uri(name)


def test_what_one_machine_commits_another_finds(store, other):
    key = digest("shared")
    committed = store.commit(write(store, key), manifest(key))
    travelled = pickle.loads(pickle.dumps(other))
    found = travelled.find("train", key)
    assert found.manifest == committed.manifest
    assert found.path != committed.path
    assert (found.path / "model.safetensors").read_bytes() == b"weights"
    assert (found.path / "deep" / "ordner für daten" / "x.bin").read_bytes() == b""


def test_a_large_file_travels_in_parts(store, other, monkeypatch):
    monkeypatch.setattr("rayml.artifacts.bucket.LARGE_BYTES", 5 * 2**20)
    key, content = digest("large"), os.urandom(12 * 2**20)
    store.commit(write(store, key, content), manifest(key))
    found = other.find("train", key)
    assert (found.path / "model.safetensors").read_bytes() == content
    assert other.verify(found) == []


def test_writers_on_two_machines_leave_one_whole_artifact(store, other):
    key = digest("raced")
    both = [store, other] * 6
    folders = [write(each, key, f"writer {number}".encode() * 1000) for number, each in enumerate(both)]
    barrier, results = threading.Barrier(len(both)), []

    def commit(each, folder):
        barrier.wait()
        results.append(each.commit(folder, manifest(key)))

    threads = [threading.Thread(target=commit, args=pair) for pair in zip(both, folders, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(both)
    assert len({result.manifest.files for result in results}) == 1
    found = store.find("train", key)
    assert {result.path for result in results} == {found.path, other.find("train", key).path}
    assert store.verify(found) == []
    attempts = {entry.path.split("/")[2] for entry in store.bucket.entries("train/")}
    assert len(attempts) == 2, "the manifest and one attempt; the losers' files are removed"


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from contract.store import manifest, write
from rayml.artifacts.bucket import Bucket
from rayml.artifacts.manifest import digest
from rayml.artifacts.s3 import S3Store
upload, create = Bucket.upload, Bucket.create
def killed(*args):
    if {after!r} == "upload":
        upload(*args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(Bucket, "create" if {after!r} == "files" else "upload", killed)
store = S3Store({bucket!r}, {prefix!r}, Path({cache!r}))
key = digest("killed")
store.commit(write(store, key), manifest(key))
"""


@pytest.mark.parametrize("after", ["start", "upload", "files"])
def test_a_writer_that_is_killed_leaves_nothing_that_is_found(store, prefix, tmp_path, after):
    values = {"path": [str(Path(__file__).parents[1])], "bucket": BUCKET, "prefix": prefix, "after": after}
    program = KILLED.format(**values, cache=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    key = digest("killed")
    assert store.find("train", key) is None
    assert list(store.artifacts()) == []
    assert store.damage("train", key) == []
    assert store.verify(store.commit(write(store, key), manifest(key))) == []


@pytest.mark.parametrize("damage", ["truncate", "delete", "folder"])
def test_a_damaged_copy_is_downloaded_again(store, other, damage):
    key = digest("cached")
    store.commit(write(store, key), manifest(key))
    copy = other.find("train", key)
    StoreContract().harm(other, copy, damage)
    assert other.find("train", key) == copy
    assert (copy.path / "model.safetensors").read_bytes() == b"weights"
    assert {path.name for path in copy.path.parent.iterdir()} == {copy.path.name}, "no temporary folder is left"


def test_a_whole_copy_is_not_downloaded_again(store, other, monkeypatch):
    key = digest("cached")
    store.commit(write(store, key), manifest(key))
    found = other.find("train", key)
    monkeypatch.setattr("rayml.artifacts.bucket.Bucket.download", None)
    assert other.find("train", key) == found


def test_bytes_that_changed_in_the_bucket_are_not_handed_out(store, other):
    key = digest("rotten")
    artifact = store.commit(write(store, key), manifest(key))
    file = TestS3Store().harm(store, artifact, "flip")
    assert [fault.file for fault in other.verify(other.look("train", key))] == [file], "and need not be, to be verified"
    assert not other.look("train", key).path.exists()
    with pytest.raises(BackendError, match="other bytes came") as caught:
        other.find("train", key)
    assert caught.value.where == file


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"attempt": "x"}', b"outside the folder"], ids=str
)
def test_a_torn_manifest_makes_way(store, raw, prefix, content):
    key = digest("torn")
    if content == b"outside the folder":
        artifact = store.commit(write(store, key), manifest(key))
        standing = store.bucket.read(f"train/{key[:16]}/manifest.json")[0]
        content = standing.replace(artifact.path.name.encode(), b"../../../etc")
    store.bucket.put(f"train/{key[:16]}/manifest.json", content)
    assert store.find("train", key) is None
    place = f"s3://{BUCKET}/{prefix}/train/{key[:16]}/manifest.json"
    assert [fault.file for fault in store.damage("train", key)] == [place]
    assert [fault.file for fault in store.unreadable()] == [place]
    assert store.commit(write(store, key), manifest(key)) == store.find("train", key)
    aside = [name for name in keys(raw, prefix) if "damaged-" in name]
    assert [raw.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in aside] == [content]


def test_weights_of_an_artifact_are_held_against_its_manifest(store, tmp_path):
    key = digest("start")
    artifact = store.commit(write(store, key), manifest(key))
    place = store.address("train", key)
    brought = bring_weights(place, tmp_path / "first")
    assert (brought / "model.safetensors").read_bytes() == (artifact.path / "model.safetensors").read_bytes()
    name = f"{place.removeprefix(store.bucket.uri('') + '/')}/model.safetensors"
    store.bucket.put(name, b"#" * len((artifact.path / "model.safetensors").read_bytes()))
    with pytest.raises(BackendError, match=r"model\.safetensors has other bytes than were written"):
        bring_weights(place, tmp_path / "second")
    assert not list((tmp_path / "second").iterdir())


def test_putting_aside_never_removes_a_fresh_manifest(store):
    key = digest("fresh")
    path = f"train/{key[:16]}/manifest.json"
    store.bucket.put(path, b"torn")
    judged = store._standing(f"train/{key[:16]}")
    store.bucket.delete(path)
    fresh = store.commit(write(store, key), manifest(key))
    store._put_aside(judged)
    assert store.find("train", key) == fresh


def test_two_keys_with_one_beginning_do_not_replace_each_other(store):
    key = digest("one")
    first = store.commit(write(store, key), manifest(key))
    clash = key[:16] + "0" * 48
    with pytest.raises(RaymlError, match="two keys begin with"):
        store.commit(write(store, clash), manifest(clash))
    assert store.find("train", key) == first


def test_a_commit_whose_answer_was_lost_is_recognised(store, monkeypatch):
    key = digest("sent twice")
    create = store.bucket.create
    monkeypatch.setattr(store.bucket, "create", lambda path, content: create(path, content) and None)
    assert store.commit(write(store, key), manifest(key)) == store.find("train", key)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a\\..\\b"])
def test_a_name_that_leads_out_of_its_folder_is_refused(name):
    assert not is_inside(name)
    assert is_inside("step-1/shards/ordner für daten/0.safetensors")


def checkpoint(folder: Path, name: str, content: bytes) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "model.safetensors").write_bytes(content)
    (folder / name / "manifest.json").write_bytes(b"{}")


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_checkpoints_travel_to_another_machine_and_back(store, other, monkeypatch):
    key = digest("work")
    here, there = store.work("train", key), other.work("train", key)
    checkpoint(here, "step-1", b"one")
    (here / "journal.jsonl").write_text("1\n")
    sent, upload = [], store.bucket.upload
    monkeypatch.setattr(store.bucket, "upload", lambda *args: (sent.append(args[1]), upload(*args)))
    store.hosts().send(store.work("train", key))
    assert sent[-1].endswith("step-1/manifest.json")
    other.hosts().fetch(other.work("train", key))
    assert tree(there) == tree(here)

    checkpoint(there, "step-2", b"two")
    (there / "journal.jsonl").write_text("2\n")
    other.hosts().remove(there / "step-1")
    other.hosts().send(other.work("train", key))
    sent.clear()
    store.hosts().fetch(store.work("train", key))
    assert (here / "step-2" / "model.safetensors").read_bytes() == b"two"
    assert (here / "journal.jsonl").read_text() == "2\n"
    assert not any("step-1/" in entry.path for entry in store.bucket.entries("train/")), "pruned there, gone here"


def test_only_what_changed_is_sent_and_what_was_written_since_stays(store, other, monkeypatch):
    key = digest("work")
    here = store.work("train", key)
    checkpoint(here, "step-1", b"one")
    (here / "journal.jsonl").write_text("1\n")
    store.hosts().send(store.work("train", key))
    (here / "journal.jsonl").write_text("2\n")
    store.hosts().fetch(store.work("train", key))
    assert (here / "journal.jsonl").read_text() == "2\n", "the bucket has nothing newer"
    sent, upload = [], store.bucket.upload
    monkeypatch.setattr(store.bucket, "upload", lambda *args: (sent.append(args[0].name), upload(*args)))
    store.hosts().send(store.work("train", key))
    assert sent == ["journal.jsonl"]
    other.hosts().send(other.work("train", key))
    assert len(store.bucket.entries("train/")) == 3, "a machine that has nothing deletes nothing"


def test_a_checkpoint_that_is_pruned_while_it_is_pushed_is_left_out(store, monkeypatch):
    key = digest("work")
    here = store.work("train", key)
    checkpoint(here, "step-1", b"one")
    checkpoint(here, "step-2", b"two")
    upload = store.bucket.upload

    def pruned(source, path):
        if "step-1" in path:
            shutil.rmtree(source.parent, ignore_errors=True)
        upload(source, path)

    monkeypatch.setattr(store.bucket, "upload", pruned)
    store.hosts().send(store.work("train", key))
    names = {entry.path.partition("/work/")[2] for entry in store.bucket.entries("train/")}
    assert names == {"step-2/model.safetensors", "step-2/manifest.json"}


def test_pushed_work_ends_with_the_commit(store):
    key = digest("work")
    checkpoint(store.work("train", key), "step-1", b"one")
    store.hosts().send(store.work("train", key))
    store.commit(write(store, key), manifest(key))
    assert not any("/work/" in entry.path for entry in store.bucket.entries(""))


def broken(store, prefix, monkeypatch, how: str) -> S3Store:
    if how == "closed port":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:hunter2@127.0.0.1:{free_ports(1)[0]}")
    elif how == "no endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "user:hunter2@nowhere")
    elif how == "no number":
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "hunter2")
    elif how == "wrong secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    elif how == "unknown key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hunter2")
    elif how == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    if how != "no number":
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return S3Store("no-such-bucket" if how == "no bucket" else BUCKET, prefix, store.cache)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("closed port", "cannot be reached"),
        ("no endpoint", "refuses its settings"),
        ("no number", "refuses its settings"),
        ("wrong secret", "does not fit the access key"),
        ("unknown key", "is not known"),
        ("no credentials", "no credentials"),
        ("no bucket", "there is no such bucket"),
    ],
)
def test_what_fails_outside_is_said_without_a_secret(store, prefix, monkeypatch, how, what):
    key = digest("broken")
    failing = broken(store, prefix, monkeypatch, how)
    calls = [
        lambda: failing.find("train", key),
        lambda: list(failing.artifacts()),
        lambda: failing.hosts().fetch(failing.work("train", key)),
    ]
    if how != "no bucket":  # SeaweedFS makes a bucket at the first PUT
        calls.append(lambda: failing.commit(write(failing, key), manifest(key)))
    for call in calls:
        with pytest.raises(BackendError, match=what) as caught:
            call()
        assert caught.value.exit_code == 5
        assert caught.value.where and caught.value.hint
        assert caught.value.__suppress_context__
        assert "hunter2" not in str(caught.value) and SECRET_KEY not in str(caught.value)


def test_a_library_that_is_absent_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(RaymlError, match=r"pip install 'rayml\[s3\]'"):
        store.find("train", digest("one"))


@contextmanager
def answering(*answers: tuple[int, str]) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one for ever; its address, and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, code = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.command)
            text = f"<Error><Code>{code}</Code><Message>hunter2</Message></Error>".encode()
            self.send_response(status)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(0 if status == 204 else len(text)))
            self.end_headers()
            self.wfile.write(b"" if status == 204 else text)

        do_PUT = do_DELETE = do_GET

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}", asked
        served.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "what"),
    [
        (503, "SlowDown", "asks for fewer requests"),
        (403, "AccessDenied", "access was denied"),
        (400, "ExpiredToken", "have expired"),
        (403, "RequestTimeTooSkewed", "the clock of this machine is wrong"),
        (500, "InternalError", "the server answered InternalError"),
    ],
)
def test_what_a_server_answers_is_said_in_words(store, monkeypatch, status, code, what):
    with answering((status, code)) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(BackendError, match=what) as caught:
            store.find("train", digest("one"))
    assert caught.value.hint
    assert url in caught.value.where
    assert "hunter2" not in str(caught.value)


def test_a_conflict_of_conditional_writes_is_tried_again(store, monkeypatch):
    """AWS answers 409 while another write of the name goes on; SeaweedFS never does."""
    monkeypatch.setattr("rayml.artifacts.bucket.CONFLICT_PAUSE_S", 0)
    with answering(*[(409, "ConditionalRequestConflict")] * 2, (412, "PreconditionFailed")) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert store.bucket.create("x", b"1") is None
        assert asked == ["PUT"] * 3


def test_a_server_without_conditional_deletes_is_served_too(store, monkeypatch):
    with answering((200, ""), (501, "NotImplemented"), (204, "")) as (url, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        store.bucket.delete_if("x", '"1"')
        assert asked == ["GET", "DELETE", "DELETE"]


def test_a_download_that_breaks_off_leaves_nothing(store, server, prefix, tmp_path, monkeypatch):
    key = digest("broken off")
    store.commit(write(store, key, b"x" * 2**20), manifest(key))
    with fault_proxy(int(server.url.rpartition(":")[2])) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        far = S3Store(BUCKET, prefix, tmp_path / "far")
        proxy.longest_answer_bytes = 300_000
        with pytest.raises(BackendError, match="the connection broke"):
            far.find("train", key)
        assert tree(tmp_path / "far") == {}
        proxy.longest_answer_bytes = sys.maxsize
        assert far.verify(far.find("train", key)) == []


def test_an_answer_that_breaks_off_is_asked_for_again(server, prefix, monkeypatch):
    Bucket(BUCKET, prefix).put("large", b"x" * 2**20)
    with fault_proxy(int(server.url.rpartition(":")[2])) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        far = Bucket(BUCKET, prefix)
        client = far._client()
        get, asked = client.get_object, []

        def broken_at_first(**arguments):
            asked.append(arguments)
            proxy.longest_answer_bytes = 300_000 if len(asked) <= breaks else sys.maxsize
            return get(**arguments)

        monkeypatch.setattr(client, "get_object", broken_at_first)
        breaks = 2
        content, _ = far.read("large")
        assert (len(content), len(asked)) == (2**20, 3)
        breaks = 9
        with pytest.raises(BackendError, match="the connection broke"):
            far.read("large")


def test_a_request_that_is_cut_is_sent_again(store, server, prefix, tmp_path, monkeypatch):
    key = digest("cut")
    store.commit(write(store, key, b"x" * 2**20), manifest(key))
    with fault_proxy(int(server.url.rpartition(":")[2])) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        far = S3Store(BUCKET, prefix, tmp_path / "far")
        assert far.damage("train", key) == []
        proxy.cut()
        threading.Timer(0.3, proxy.mend).start()
        assert (far.find("train", key).path / "model.safetensors").read_bytes() == b"x" * 2**20
