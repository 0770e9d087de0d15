"""A lease: one holder at a time, kept by conditional writes to a bucket, and no two clocks are ever compared.

A lease is a row of numbered objects; the one with the highest number says who holds it::

    runs/digits-1/lease-00000004.json    {"owner": "5f0c...", "host": "node-3", "pid": 71, "ttl_s": 30.0, ...}

To hold it means to have created the next number with "only if absent", which exactly one of many contenders can. Only
its creator writes to a number again: to renew it, and to release it. So nothing rests on two writers that replace one
object with If-Match, which SeaweedFS 4.48 lets both win. A contender may create the next number once it has seen the
same ETag for `ttl_s` seconds of its own clock; a holder counts from before its last renewal, so it gives up earlier.
(The argument: Gray and Cheriton, Leases, SOSP 1989; the numbers are Kleppmann's fencing tokens.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from rayml.artifacts.bucket import Bucket, Entry
from rayml.errors import BackendError

TTL_S = 30.0
"""Seconds without a sign of life after which a lease may be taken over."""
LONGEST_POLL_S = 1.0


class LeaseLost(BackendError):
    """A lease that was held is held no longer: another may have taken it over."""


class Holder(BaseModel):
    """What a lease's object says. Keys that a newer rayml added are tolerated."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    owner: str
    """A token that no other acquisition has."""
    host: str
    pid: int
    renewed: str
    """UTC, ISO 8601, by the holder's clock: for people, never compared."""
    renewals: int
    """Makes each renewal's bytes, and so its ETag, another."""
    ttl_s: float
    released: bool = False


@dataclass(frozen=True)
class _Sight:
    """What a contender saw of a lease, and since when by its own monotonic clock."""

    entry: Entry
    holder: Holder | None
    """None where the object cannot be read: it is judged by this contender's own ttl."""
    since: float


class Lease:
    """A lease that is held. A thread renews it until `release`, or until it is lost.

    Attributes:
        number: higher than that of every earlier holder of the same name (a fencing token).
        lost: set once the lease can no longer be relied on, before another may take it over.
    """

    def __init__(self, bucket: Bucket, path: str, etag: str, holder: Holder, started: float) -> None:
        self.number = _number(path)
        self.lost = threading.Event()
        self._bucket, self._path, self._etag, self._holder = bucket, path, etag, holder
        self._renewed = started
        self._on_lost: Callable[[], None] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {path}", daemon=True)

    def start(self, on_lost: Callable[[], None] | None) -> Lease:
        """Begin to renew. `on_lost` is called at most once, from the thread that renews."""
        self._on_lost = on_lost
        self._thread.start()
        return self

    def check(self) -> None:
        """LeaseLost where the lease is lost, also where this process slept too long to have noticed."""
        if self.lost.is_set() or time.monotonic() - self._renewed > self._holder.ttl_s:
            raise self._loss()

    def release(self) -> None:
        """Let the next one have it at once. Where the server cannot be reached it runs out by itself."""
        self._ended.set()
        self._thread.join()
        if not self.lost.is_set():
            with contextlib.suppress(BackendError):
                self._write(released=True)

    def _keep(self) -> None:
        ttl_s = self._holder.ttl_s
        pause = ttl_s / 3
        while not self._ended.wait(pause):
            try:
                self._renew()
                pause = ttl_s / 3
            except LeaseLost:
                return self._lose()
            except BackendError:
                # The last try begins by 0.7 + 1/12 of the ttl and lasts 2/12: the holder knows before a contender acts.
                if time.monotonic() - self._renewed > ttl_s * 0.7:
                    return self._lose()
                pause = ttl_s / 12

    def _renew(self) -> None:
        started = time.monotonic()
        self._write(released=False)
        if _newest(self._bucket, _name(self._path)).path != self._path:
            raise self._loss()
        self._renewed = started

    def _write(self, released: bool) -> None:
        changes = {"renewed": _now(), "renewals": self._holder.renewals + 1, "released": released}
        self._holder = self._holder.model_copy(update=changes)
        content = self._holder.model_dump_json().encode()
        etag = self._bucket.replace(self._path, content, self._etag)
        if etag is None:
            # An earlier write may have arrived while its answer was lost.
            etag = self._bucket.replace(self._path, content, self._own_etag())
        if etag is None:
            raise self._loss()
        self._etag = etag

    def _own_etag(self) -> str:
        standing = self._bucket.read(self._path)
        if standing is None or getattr(_parse(standing[0]), "owner", None) != self._holder.owner:
            raise self._loss()
        return standing[1]

    def _lose(self) -> None:
        self.lost.set()
        if self._on_lost is not None:
            self._on_lost()

    def _loss(self) -> LeaseLost:
        return LeaseLost(
            f"this process no longer holds the lease: it could not renew it for {self._holder.ttl_s:g} s, "
            "or another took it over",
            where=self._bucket.uri(self._path),
            hint="run the same command again; it goes on from the last checkpoint",
        )


class Leases:
    """The leases of a bucket.

    Args:
        ttl_s: seconds without a renewal after which another may take a lease of ours over.
    """

    def __init__(self, bucket: Bucket, ttl_s: float = TTL_S) -> None:
        self.ttl_s = ttl_s
        self._bucket = bucket
        # To connect may take this long, and to read the answer too.
        self._quick = Bucket(bucket.name, bucket.prefix, timeout_s=ttl_s / 12)
        self._seen: dict[str, _Sight] = {}

    def acquire(self, name: str, watch_s: float = 0.0, on_lost: Callable[[], None] | None = None) -> Lease | None:
        """The lease of a name, or None where another holds it.

        Args:
            watch_s: seconds to look whether the holder still lives; ends early at its first sign of life. Twice `ttl_s`
                is enough for a definite answer. With 0 it comes at once, and what was seen counts at the next call.
            on_lost: called from another thread once the lease is lost.
        """
        deadline = time.monotonic() + watch_s
        first: _Sight | None = None
        while True:
            asked = time.monotonic()
            seen = self._look(name)
            if seen is None or self._free(seen, asked):
                lease = self._take(name, seen, on_lost)
                if lease is not None:
                    return lease
            first = first or seen
            alive = first is not None and seen is not None and seen.entry != first.entry
            if alive or time.monotonic() >= deadline:
                return None
            time.sleep(self._poll_s)

    @contextlib.contextmanager
    def held(
        self, name: str, waiting: Callable[[], None], on_lost: Callable[[], None] | None = None
    ) -> Iterator[Lease]:
        """Hold a lease for the length of a block. Calls `waiting` once if it has to wait."""
        lease = self.acquire(name, on_lost=on_lost)
        if lease is None:
            waiting()
        while lease is None:
            time.sleep(self._poll_s)
            lease = self.acquire(name, on_lost=on_lost)
        try:
            yield lease
        finally:
            lease.release()

    def holder(self, name: str) -> Holder | None:
        """Who holds a name, as far as this process can tell; None where nobody does."""
        seen = self._look(name)
        return None if seen is None or seen.holder is None or seen.holder.released else seen.holder

    @property
    def _poll_s(self) -> float:
        return min(LONGEST_POLL_S, self.ttl_s / 10)

    def _look(self, name: str) -> _Sight | None:
        """See the newest number again. The clock of an ETag starts after the answer that showed it first."""
        found = _entries(self._bucket, name)
        if not found:
            self._seen.pop(name, None)
            return None
        seen = self._seen.get(name)
        if seen is None or seen.entry != found[-1]:
            content = self._bucket.read(found[-1].path)
            seen = _Sight(found[-1], None if content is None else _parse(content[0]), time.monotonic())
            self._seen[name] = seen
        return seen

    def _free(self, seen: _Sight, asked: float) -> bool:
        if seen.holder is not None and seen.holder.released:
            return True
        ttl_s = self.ttl_s if seen.holder is None else seen.holder.ttl_s
        return asked - seen.since >= ttl_s

    def _take(self, name: str, seen: _Sight | None, on_lost: Callable[[], None] | None) -> Lease | None:
        """Create the number after the one that was seen; None where another did."""
        number = 1 if seen is None else _number(seen.entry.path) + 1
        path = f"{name}/lease-{number:08d}.json"
        started = time.monotonic()
        holder = Holder(
            owner=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=os.getpid(),
            renewed=_now(),
            renewals=0,
            ttl_s=self.ttl_s,
        )
        etag = self._create(path, holder)
        if etag is None or not self._settle(name, path, etag):
            return None
        return Lease(self._quick, path, etag, holder, started).start(on_lost)

    def _create(self, path: str, holder: Holder) -> str | None:
        etag = self._bucket.create(path, holder.model_dump_json().encode())
        if etag is None:
            # boto3 may have sent it twice: the first arrived, and its answer did not.
            standing = self._bucket.read(path)
            if standing is not None and getattr(_parse(standing[0]), "owner", None) == holder.owner:
                return standing[1]
        return etag

    def _settle(self, name: str, path: str, etag: str) -> bool:
        """Remove the older numbers, for the highest always stays; False where ours came too late to be it."""
        entries = _entries(self._bucket, name)
        if not entries or entries[-1].path != path:
            self._bucket.delete_if(path, etag)
            return False
        for entry in entries[:-1]:
            self._bucket.delete(entry.path)
        return True


def _entries(bucket: Bucket, name: str) -> list[Entry]:
    return bucket.entries(f"{name}/lease-")


def _newest(bucket: Bucket, name: str) -> Entry:
    entries = _entries(bucket, name)
    return entries[-1] if entries else Entry("", 0, "")


def _name(path: str) -> str:
    return path.rpartition("/")[0]


def _number(path: str) -> int:
    return int(path.rpartition("-")[2].removesuffix(".json"))


def _parse(content: bytes) -> Holder | None:
    try:
        return Holder.model_validate_json(content)
    except ValidationError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
