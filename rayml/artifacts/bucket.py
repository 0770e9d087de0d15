"""The part of a bucket below one prefix: conditional writes, parallel transfers, and errors that a person can act on.

Endpoint, region and credentials come from boto3's own chain (AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE, the instance's
role), never from an argument that a job file could hold. boto3 is imported at the first request.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rayml.errors import BackendError, RaymlError

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
ATTEMPTS = 10
"""Of each request, unless AWS_MAX_ATTEMPTS says otherwise. botocore 1.44 pauses for up to 50 ms after
the first and doubles it after each: 10 attempts bridge 13 s on average, its own 3 bridge 0.1 s."""
LARGE_BYTES = 64 * 2**20
"""A larger file travels in parts of this size, several at a time."""
CHUNK_BYTES = 2**20
TRANSFERS = 8
"""Files that travel at a time."""
BODY_TRIES = 3
"""Of a request whose answer breaks off; a bucket with a timeout of its own is asked once."""
CONFLICT_TRIES = 20
CONFLICT_PAUSE_S = 0.1

OF_AWS = re.compile(r"s3(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?")
"""The host that boto3 takes where nobody names one."""

REFUSED = {"PreconditionFailed", "412"}
ABSENT = {"NoSuchKey", "NotFound", "404"}
CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}
"""AWS answers this while another conditional write of the same name goes on: neither won yet."""
UNKNOWN_CONDITION = {"NotImplemented", "501"}

CREDENTIALS_HINT = (
    "check the credentials that boto3 finds (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of "
    "this machine); they need s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject here"
)
ANSWERS = {
    "NoSuchBucket": ("there is no such bucket", "create it, or name another one: aws s3 mb s3://{bucket}"),
    "InvalidBucketName": ("this is not a name that a bucket can have", "name another one: s3://BUCKET/PREFIX"),
    "AccessDenied": ("access was denied", CREDENTIALS_HINT),
    "403": ("access was denied", CREDENTIALS_HINT),
    "InvalidAccessKeyId": ("the access key is not known", CREDENTIALS_HINT),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", CREDENTIALS_HINT),
    "ExpiredToken": ("the credentials have expired", "log in again, for example by: aws sso login"),
    "RequestTimeTooSkewed": ("the clock of this machine is wrong", "set it, for example by: timedatectl set-ntp true"),
    "SlowDown": ("the server asks for fewer requests", "run the same command again in a minute"),
    "503": ("the server is overloaded", "run the same command again in a minute"),
    "ServiceUnavailable": ("the server is overloaded", "run the same command again in a minute"),
    "PermanentRedirect": ("the bucket lies in another region", "set AWS_REGION to the bucket's region"),
    "301": ("the bucket lies in another region", "set AWS_REGION to the bucket's region"),
    "AuthorizationHeaderMalformed": ("the bucket lies in another region", "set AWS_REGION to the bucket's region"),
}
"""S3's error codes: what a person is told, and what to do about it. A server's own text is not repeated."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """One object as a listing shows it."""

    path: str
    """Relative to the bucket's prefix."""
    bytes: int
    etag: str


class Bucket:
    """The objects of a bucket below a prefix. Paths are relative to it. It pickles, without its connection.

    Every method raises BackendError where the server cannot be reached or refuses.

    Args:
        timeout_s: seconds until a request is given up after one attempt; the usual patience where it is None.
    """

    def __init__(self, name: str, prefix: str = "", timeout_s: float | None = None) -> None:
        self.name = name
        self.prefix = prefix.strip("/")
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._made: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.name, self.prefix, self.timeout_s)

    def uri(self, path: str) -> str:
        """How people name an object: `s3://bucket/prefix/path`."""
        return f"s3://{self.name}/{self._key(path)}".rstrip("/")

    def beside(self, name: str) -> Bucket:
        """The objects below a folder that stands beside this prefix's last one."""
        above = self.prefix.rpartition("/")[0]
        return Bucket(self.name, f"{above}/{name}" if above else name, self.timeout_s)

    def read(self, path: str) -> tuple[bytes, str] | None:
        """An object's bytes and ETag, or None where there is no such object."""
        with self._told(path) as client:
            from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

            for left in reversed(range(BODY_TRIES if self.timeout_s is None else 1)):
                try:
                    answer = client.get_object(Bucket=self.name, Key=self._key(path))
                    return answer["Body"].read(), answer["ETag"]
                except client.exceptions.ClientError as error:
                    if _code(error) in ABSENT:
                        return None
                    raise
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    # boto3 repeats a request that failed, and not one whose answer broke off.
                    if not left:
                        raise
        raise AssertionError("the last try returns or raises")

    def create(self, path: str, content: bytes) -> str | None:
        """Write an object that is not there yet. Its ETag, or None where the name is taken."""
        return self._put_if(path, content, {"IfNoneMatch": "*"})

    def replace(self, path: str, content: bytes, etag: str) -> str | None:
        """Write over an object that still has this ETag. The new ETag, or None where it has another or is gone."""
        return self._put_if(path, content, {"IfMatch": etag})

    def put(self, path: str, content: bytes) -> None:
        """Write an object, whatever was there."""
        with self._told(path) as client:
            client.put_object(Bucket=self.name, Key=self._key(path), Body=content)

    def delete(self, path: str) -> None:
        """Remove an object, which need not be there."""
        with self._told(path) as client:
            client.delete_object(Bucket=self.name, Key=self._key(path))

    def delete_if(self, path: str, etag: str) -> None:
        """Remove an object that still has this ETag. What another wrote meanwhile stays.

        Not every server keeps the condition of a DELETE, so the ETag is looked at before as well.
        """
        standing = self.read(path)
        if standing is None or standing[1] != etag:
            return
        with self._told(path) as client:
            try:
                client.delete_object(Bucket=self.name, Key=self._key(path), IfMatch=etag)
            except client.exceptions.ClientError as error:
                if _code(error) in UNKNOWN_CONDITION:
                    client.delete_object(Bucket=self.name, Key=self._key(path))
                elif _code(error) not in REFUSED | ABSENT | CONFLICT:
                    raise

    def entries(self, beginning: str) -> list[Entry]:
        """Every object whose path begins so, in the order of their names."""
        with self._told(beginning) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self._key(beginning))
            found = [item for page in pages for item in page.get("Contents", ())]
        skipped = len(self._key(""))
        return [Entry(item["Key"][skipped:], item["Size"], item["ETag"]) for item in found]

    def folders(self, path: str) -> list[str]:
        """Names of the folders right below a folder ("" for the root, else with a slash at its end)."""
        with self._told(path) as client:
            paginator = client.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=self.name, Prefix=self._key(path), Delimiter="/")
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", ())]
        return [key.rstrip("/").rpartition("/")[2] for key in found]

    def find(self, path: str) -> Entry | None:
        """An object as a listing shows it, or None where there is no such object."""
        with self._told(path) as client:
            answer = client.list_objects_v2(Bucket=self.name, Prefix=self._key(path), MaxKeys=1)
        # Of all names that begin so, the name itself comes first.
        for item in answer.get("Contents", ()):
            if item["Key"] == self._key(path):
                return Entry(path, item["Size"], item["ETag"])
        return None

    def names(self, most: int) -> list[str]:
        """Some names right below the prefix, sorted; those of folders end with a slash."""
        with self._told("") as client:
            answer = client.list_objects_v2(Bucket=self.name, Prefix=self._key(""), Delimiter="/", MaxKeys=most)
        keys = [item["Prefix"] for item in answer.get("CommonPrefixes", ())]
        keys += [item["Key"] for item in answer.get("Contents", ())]
        return sorted(key.removeprefix(self._key("")) for key in keys)

    def region(self) -> str | None:
        """Where the bucket lies, as its server says; the region of the settings where it does not."""
        with self._told("") as client:
            # HeadBucket would ask for a right to list the whole bucket.
            answer = client.list_objects_v2(Bucket=self.name, Prefix=self._key(""), MaxKeys=1)
            said = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
            return str(said or client.meta.region_name or "") or None

    def server(self) -> str | None:
        """The URL of a server that is not AWS's, as the environment or a profile names it; None for AWS."""
        url = str(self._client().meta.endpoint_url)
        return None if OF_AWS.fullmatch(urlsplit(url).hostname or "") else url

    def date(self) -> str:
        """What time it is for the server: the Date header of its answer, empty where it sends none."""
        with self._told("") as client:
            answer = client.list_objects_v2(Bucket=self.name, Prefix=self._key(""), MaxKeys=1)
        return str(answer["ResponseMetadata"]["HTTPHeaders"].get("date", ""))

    def upload(self, source: Path, path: str, told: Callable[[int], None] | None = None) -> None:
        """Write a local file's bytes. OSError where it cannot be read.

        Args:
            told: hears how many more bytes were sent, less than 0 where they are sent again; what it raises ends it.
        """
        config = _transfer(source.stat().st_size)
        with source.open("rb") as stream, self._told(path) as client:
            client.upload_fileobj(stream, self.name, self._key(path), Config=config, Callback=told)

    def download(self, entry: Entry, target: Path) -> bool:
        """Read an object into a new local file, whose folder is made. False where there is no such object any more.

        OSError where the file cannot be written.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as stream, self._told(entry.path) as client:
            try:
                client.download_fileobj(self.name, self._key(entry.path), stream, Config=_transfer(entry.bytes))
            except client.exceptions.ClientError as error:
                if _code(error) in ABSENT:
                    return False
                raise
        return True

    def sha256(self, path: str) -> str:
        """Hex sha256 of an object's bytes, which pass through memory in small pieces."""
        found = hashlib.sha256()
        with self._told(path) as client:
            body = client.get_object(Bucket=self.name, Key=self._key(path))["Body"]
            for chunk in body.iter_chunks(CHUNK_BYTES):
                found.update(chunk)
        return found.hexdigest()

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{path}" if self.prefix else path

    def _put_if(self, path: str, content: bytes, condition: dict[str, str]) -> str | None:
        with self._told(path) as client:
            for _ in range(CONFLICT_TRIES):
                try:
                    answer = client.put_object(Bucket=self.name, Key=self._key(path), Body=content, **condition)
                    return str(answer["ETag"])
                except client.exceptions.ClientError as error:
                    if _code(error) in REFUSED | ABSENT:
                        return None
                    if _code(error) not in CONFLICT:
                        raise
                time.sleep(CONFLICT_PAUSE_S)
        raise BackendError(
            f"other writers were in the way {CONFLICT_TRIES} times",
            where=self.uri(path),
            hint="run the same command again",
        )

    @contextlib.contextmanager
    def _told(self, path: str) -> Iterator[Any]:
        """The client; what boto3 raises becomes a BackendError that holds no credential."""
        client = self._client()
        from botocore.exceptions import BotoCoreError, ClientError
        from s3transfer.exceptions import RetriesExceededError

        try:
            yield client
        except ClientError as error:
            raise self._answered(path, _code(error)) from None
        except (BotoCoreError, RetriesExceededError) as error:
            raise self._unanswered(path, type(error).__name__) from None

    def _answered(self, path: str, code: str) -> BackendError:
        what, hint = ANSWERS.get(code, (f"the server answered {code}", CREDENTIALS_HINT))
        return BackendError(what, where=f"{self.uri(path)} at {self._endpoint()}", hint=hint.format(bucket=self.name))

    def _unanswered(self, path: str, kind: str) -> BackendError:
        where = f"{self.uri(path)} at {self._endpoint()}"
        if "Credential" in kind or "SSO" in kind or "Token" in kind:
            return BackendError(f"no credentials that can be used ({kind})", where=where, hint=CREDENTIALS_HINT)
        return BackendError(
            f"the server cannot be reached, or the connection broke ({kind})",
            where=where,
            hint="check AWS_ENDPOINT_URL, AWS_REGION and the network, then run the same command again",
        )

    def _endpoint(self) -> str:
        """Scheme, host and port: the rest of an endpoint's URL may hold a password."""
        parts = urlsplit(self._client().meta.endpoint_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = _make_client(self.timeout_s)
            return self._made


def in_bucket(place: str) -> bool:
    """Whether a place is an address `s3://bucket/path`, and no path of this machine."""
    return place.startswith("s3://")


def bucket_at(uri: str) -> Bucket:
    """The bucket and prefix of an address `s3://bucket[/prefix]`, which was checked before."""
    name, _, prefix = uri.removeprefix("s3://").partition("/")
    return Bucket(name, prefix)


def each(
    items: Iterable[Item], function: Callable[[Item], Result], on_end: Callable[[], None] = lambda: None
) -> list[Result]:
    """Call a function on each item, several at a time. Raises what the first of them raised; the rest is left.

    Args:
        on_end: called before those that still go on are waited for, also after Ctrl-C.
    """
    pool = ThreadPoolExecutor(max_workers=TRANSFERS, thread_name_prefix="bucket")
    try:
        return list(pool.map(function, items))
    finally:
        on_end()
        pool.shutdown(cancel_futures=True)


def _make_client(timeout_s: float | None) -> Any:
    try:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise RaymlError(
            "a store on s3:// needs boto3, which is not installed", hint="pip install 'rayml[s3]'"
        ) from None
    # Ray's workers log everything at INFO: where the credentials were found, at each client.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS)) if timeout_s is None else 1
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=timeout_s or CONNECT_TIMEOUT_S,
            read_timeout=timeout_s or READ_TIMEOUT_S,
            max_pool_connections=64,
        )
        session = botocore.session.get_session()
        session.register_component("data_loader", _loader())
        return boto3.session.Session(botocore_session=session).client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        # The text may repeat an endpoint that holds a password: the kind of the error says enough.
        raise BackendError(
            f"boto3 refuses its settings ({type(error).__name__})",
            where="s3",
            hint="check AWS_ENDPOINT_URL (http://host:port), AWS_REGION, AWS_PROFILE and AWS_MAX_ATTEMPTS",
        ) from None


@functools.cache
def _loader() -> Any:
    """What reads the description of S3's requests: once in a process, so that a further client takes 10 ms, not 60."""
    from botocore.loaders import create_loader

    return create_loader()


def _transfer(size: int) -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=LARGE_BYTES,
        multipart_chunksize=LARGE_BYTES,
        max_concurrency=4,
        use_threads=size >= LARGE_BYTES,
    )


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "an error without a code"))
