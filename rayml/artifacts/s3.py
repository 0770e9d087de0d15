"""The artifact store in a bucket: laid out as the local one, with a conditional PUT in the place of a link.

The truth lies in the bucket; a local cache with the same layout holds what was downloaded or made here::

    s3://bucket/prefix/train/3f2a9c01d4e7/manifest.json     PUT last, with If-None-Match: *
    s3://bucket/prefix/train/3f2a9c01d4e7/files-9b1c/...    the attempt that the manifest's owner uploaded
    s3://bucket/prefix/train/3f2a9c01d4e7/work/...          checkpoints (rayml.artifacts.bucket_hosts)
    s3://bucket/prefix/train/3f2a9c01d4e7/lease-*.json      who computes this key (rayml.artifacts.lease)

It holds no client in its state, so it travels to Ray workers.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rayml.artifacts.bucket import Bucket, Entry, bucket_at, each
from rayml.artifacts.bucket_hosts import hosts_of
from rayml.artifacts.durable import sync_tree
from rayml.artifacts.hosts import Hosts
from rayml.artifacts.lease import TTL_S, Leases
from rayml.artifacts.manifest import Artifact, FileEntry, Manifest, describe_files, file_sha256
from rayml.artifacts.store import KEY_CHARACTERS, Fault, Record
from rayml.artifacts.work import is_inside
from rayml.errors import BackendError, RaymlError

MANIFEST_FILE = "manifest.json"
ATTEMPT = re.compile(r"files-[0-9a-f]{8}")


@dataclass(frozen=True)
class _Standing:
    """What lies at a key: the manifest's bytes and ETag, and what they say; no record where they cannot be read."""

    home: str
    content: bytes
    etag: str
    record: Record | None


class S3Store:
    """Artifacts in a bucket. Its methods raise BackendError where the server cannot be reached or refuses.

    Args:
        bucket: its name; endpoint, region and credentials come from boto3's own chain.
        prefix: what the names of all objects begin with; may be empty.
        cache: local folder for what was downloaded, and for what is being made.
        lease_ttl_s: seconds without a sign of life after which another may compute a key in the holder's place.
    """

    def __init__(self, bucket: str, prefix: str, cache: Path, lease_ttl_s: float = TTL_S) -> None:
        self.bucket = Bucket(bucket, prefix)
        self.cache = cache
        self.lease_ttl_s = lease_ttl_s

    def leases(self) -> Leases:
        """The leases below this store's prefix, for example the one on a run's name. Keep it: it knows what it saw."""
        return Leases(self.bucket, self.lease_ttl_s)

    def find(self, kind: str, key: str) -> Artifact | None:
        """The artifact of a key, its files downloaded to the cache unless they are there."""
        record = self._whole(kind, key)
        return None if record is None else self._cached(record)

    def look(self, kind: str, key: str) -> Artifact | None:
        record = self._whole(kind, key)
        return None if record is None else Artifact(record.manifest, self.cache / _files(record))

    def address(self, kind: str, key: str) -> str | None:
        """`s3://bucket/prefix` of the files of what `find` would find. Nothing is downloaded."""
        record = self._whole(kind, key)
        return None if record is None else self.bucket.uri(_files(record))

    def damage(self, kind: str, key: str) -> list[Fault]:
        standing = self._standing(_home(kind, key))
        if standing is None:
            return []
        return [self._torn(standing.home)] if standing.record is None else self._faults(standing.record)

    def staging(self, kind: str, key: str) -> Path:
        folder = self.cache / _home(kind, key) / f"files-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        return folder

    def commit(self, folder: Path, manifest: Manifest) -> Artifact:
        home = _home(manifest.kind, manifest.key)
        assert folder.parent == self.cache / home, f"{folder} is no staging folder of {manifest.kind} {manifest.key}"
        # It becomes the cached copy, which later is trusted by the sizes of its files.
        sync_tree(folder)
        complete = manifest.model_copy(update={"files": describe_files(folder)})
        files = f"{home}/{folder.name}"
        # What workers on other hosts have made is there already.
        self.hosts().send(folder)
        won = self._announce(Record(attempt=folder.name, manifest=complete))
        if won.attempt != folder.name:
            self._delete_all(f"{files}/")
            shutil.rmtree(folder)
            return self._cached(won)
        self._drop_work(complete)
        return Artifact(complete, folder)

    def work(self, kind: str, key: str) -> Path:
        folder = self.work_folder(kind, key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def work_folder(self, kind: str, key: str) -> Path:
        """Where a step's work is, if it has any here."""
        return self.cache / _home(kind, key) / "work"

    def hosts(self) -> Hosts:
        return hosts_of(self)

    def bring(self, artifact: Artifact) -> None:
        """Have the files of a committed artifact in this host's cache."""
        self._cached(Record(attempt=artifact.path.name, manifest=artifact.manifest))

    @contextlib.contextmanager
    def exclusive(self, kind: str, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold a key alone by a lease. One that lost it goes on: whoever commits first wins, and nothing is torn."""
        with self.leases().held(_home(kind, key), waiting):
            yield

    def artifacts(self) -> Iterator[Artifact]:
        """Every committed artifact. Nothing is downloaded: its path holds the files once `find` was asked for it."""
        for standing in self._all():
            if standing.record is not None:
                yield Artifact(standing.record.manifest, self.cache / standing.home / standing.record.attempt)

    def unreadable(self) -> list[Fault]:
        return [self._torn(standing.home) for standing in self._all() if standing.record is None]

    def verify(self, artifact: Artifact) -> list[Fault]:
        """Read every file in the bucket again, not the copies in the cache."""
        record = Record(attempt=artifact.path.name, manifest=artifact.manifest)
        faults = self._faults(record)
        told = {fault.file for fault in faults}
        files = _files(record)
        left = [entry for entry in artifact.manifest.files if self.bucket.uri(f"{files}/{entry.path}") not in told]
        found = each(left, lambda entry: self.bucket.sha256(f"{files}/{entry.path}"))
        for entry, sha256 in zip(left, found, strict=True):
            if sha256 != entry.sha256:
                faults.append(self._fault(record, entry, "has other bytes than were written (sha256 differs)"))
        return faults

    def _whole(self, kind: str, key: str) -> Record | None:
        """What lies at a key, unless a listing shows a damage."""
        standing = self._standing(_home(kind, key))
        if standing is None or standing.record is None or standing.record.manifest.key != key:
            return None
        return None if self._faults(standing.record) else standing.record

    def _standing(self, home: str) -> _Standing | None:
        found = self.bucket.read(f"{home}/{MANIFEST_FILE}")
        return None if found is None else _Standing(home, found[0], found[1], _parse(found[0]))

    def _all(self) -> list[_Standing]:
        homes = [f"{kind}/{key}" for kind in self.bucket.folders("") for key in self.bucket.folders(f"{kind}/")]
        return [standing for standing in each(homes, self._standing) if standing is not None]

    def _faults(self, record: Record) -> list[Fault]:
        """What a listing shows of a damage: absent files and those of another size."""
        files = f"{_files(record)}/"
        sizes = {entry.path.removeprefix(files): entry.bytes for entry in self.bucket.entries(files)}
        faults = []
        for entry in record.manifest.files:
            size = sizes.get(entry.path)
            if size is None:
                faults.append(self._fault(record, entry, "is missing"))
            elif size != entry.bytes:
                faults.append(self._fault(record, entry, f"has {size} bytes, was {entry.bytes}"))
        return faults

    def _fault(self, record: Record, entry: FileEntry, what: str) -> Fault:
        name = _home(record.manifest.kind, record.manifest.key)
        return Fault(name, self.bucket.uri(f"{_files(record)}/{entry.path}"), what)

    def _torn(self, home: str) -> Fault:
        return Fault(home, self.bucket.uri(f"{home}/{MANIFEST_FILE}"), "cannot be read")

    def _cached(self, record: Record) -> Artifact:
        folder = self.cache / _files(record)
        if not _is_whole(folder, record.manifest.files):
            self._download(record, folder)
        return Artifact(record.manifest, folder)

    def _download(self, record: Record, folder: Path) -> None:
        """Download to a folder of its own, check it, and rename it: a reader sees all of it or nothing."""
        temporary = folder.with_name(f"download-{secrets.token_hex(4)}")
        temporary.mkdir(parents=True)
        try:
            each(record.manifest.files, lambda entry: self._fetch(record, entry, temporary))
            sync_tree(temporary)
            _put_in_place(temporary, folder, record.manifest.files)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _fetch(self, record: Record, entry: FileEntry, folder: Path) -> None:
        path, target = f"{_files(record)}/{entry.path}", folder / entry.path
        if not self.bucket.download(Entry(path, entry.bytes, ""), target):
            raise BackendError("is missing", where=self.bucket.uri(path), hint="run the same command again")
        if target.stat().st_size != entry.bytes or file_sha256(target) != entry.sha256:
            raise BackendError(
                "other bytes came than were written (sha256 differs)",
                where=self.bucket.uri(path),
                hint="run the same command again; if it says the same, delete "
                f"{self.bucket.uri(_home(record.manifest.kind, record.manifest.key))}/{MANIFEST_FILE} "
                "and it is made anew",
            )

    def _announce(self, record: Record) -> Record:
        """Write the manifest where none is, or a damaged one was. The record that stands then: this or another's."""
        home = _home(record.manifest.kind, record.manifest.key)
        content = record.model_dump_json(indent=1).encode()
        while self.bucket.create(f"{home}/{MANIFEST_FILE}", content) is None:
            standing = self._standing(home)
            if standing is None:
                continue
            if standing.record is not None:
                self._refuse_clash(standing.record.manifest.key, record.manifest.key, home)
                # It may be this very record: boto3 sent it twice, and the first answer was lost.
                if not self._faults(standing.record):
                    return standing.record
            self._put_aside(standing)
        return record

    def _refuse_clash(self, theirs: str, ours: str, home: str) -> None:
        if theirs != ours:
            raise RaymlError(
                f"two keys begin with {ours[:KEY_CHARACTERS]}: {theirs} and {ours}",
                where=self.bucket.uri(home),
                hint="move what lies there away and run again",
            )

    def _put_aside(self, standing: _Standing) -> None:
        """Keep a damaged artifact's manifest under another name. A fresh one of another writer is never removed."""
        self.bucket.put(f"{standing.home}/damaged-{secrets.token_hex(4)}.json", standing.content)
        self.bucket.delete_if(f"{standing.home}/{MANIFEST_FILE}", standing.etag)

    def _drop_work(self, manifest: Manifest) -> None:
        self._delete_all(f"{_home(manifest.kind, manifest.key)}/work/")
        shutil.rmtree(self.work_folder(manifest.kind, manifest.key), ignore_errors=True)

    def _delete_all(self, beginning: str) -> None:
        each(self.bucket.entries(beginning), lambda entry: self.bucket.delete(entry.path))


def recorded_sums(address: str) -> dict[str, str]:
    """The sha256 of each file of the artifact that has this address (`S3Store.address`); empty for any other place."""
    home, _, attempt = address.rstrip("/").rpartition("/")
    found = bucket_at(home).read(MANIFEST_FILE) if ATTEMPT.fullmatch(attempt) else None
    record = None if found is None else _parse(found[0])
    if record is None or record.attempt != attempt:
        return {}
    return {entry.path: entry.sha256 for entry in record.manifest.files}


def _home(kind: str, key: str) -> str:
    return f"{kind}/{key[:KEY_CHARACTERS]}"


def _files(record: Record) -> str:
    return f"{_home(record.manifest.kind, record.manifest.key)}/{record.attempt}"


def _parse(content: bytes) -> Record | None:
    """What a manifest says; None where it is torn, or names a place outside its own folder."""
    try:
        record = Record.model_validate_json(content)
    except ValidationError:
        return None
    inside = ATTEMPT.fullmatch(record.attempt) and all(is_inside(entry.path) for entry in record.manifest.files)
    return record if inside else None


def _is_whole(folder: Path, files: Iterable[FileEntry]) -> bool:
    """Whether a cached copy has every file in its size."""
    try:
        return folder.is_dir() and all((folder / entry.path).stat().st_size == entry.bytes for entry in files)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _put_in_place(new: Path, folder: Path, files: Iterable[FileEntry]) -> None:
    """Rename a whole copy to its place, unless another process put one there first. A damaged one makes way."""
    try:
        new.rename(folder)
    except OSError:
        if _is_whole(folder, files):
            return
        with contextlib.suppress(FileNotFoundError):
            old = folder.rename(new.with_name(f"{new.name}-damaged"))
            shutil.rmtree(old, ignore_errors=True)
        _put_in_place(new, folder, files)
