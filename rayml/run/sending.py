"""Sending a job's files to the storage of its cluster, before the job itself is handed over."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from rayml.artifacts.bucket import Bucket, bucket_at, each
from rayml.artifacts.work import is_inside
from rayml.errors import PlanError
from rayml.plan.listing import SourceFile, summary
from rayml.plan.plan import Plan
from rayml.plan.sent import Shipment, shipments
from rayml.spec.words import count


class Stopped(Exception):
    """Ends an upload that nobody waits for: another one failed, or Ctrl-C was pressed."""


def send_files(plan: Plan, console: Console) -> None:
    """Send what the storage does not have yet. The same files are sent once, whoever submits them how often.

    Raises:
        PlanError: a file is gone, or was changed since the plan was made.
        BackendError: the storage cannot be reached.
    """
    for shipment in shipments(plan):
        send(shipment, console)


def outline(plan: Plan) -> list[dict[str, Any]]:
    """What would be sent, as JSON."""
    return [
        {"what": each.what, "to": each.place, "files": len(each.files), "bytes": each.bytes} for each in shipments(plan)
    ]


def in_words(plan: Plan) -> list[str]:
    """What would be sent, a line for each."""
    return [
        f"{each.what}: {count(len(each.files), 'file')}, {each.bytes:,} bytes, would be sent to {each.place}"
        for each in shipments(plan)
    ]


def send(shipment: Shipment, console: Console) -> None:
    """Send the files of a shipment that are not there with the same size, then how many they are."""
    bucket = bucket_at(shipment.place)
    there = {entry.path: entry.bytes for entry in bucket.entries("")}
    left = [file for file in shipment.files if there.get(file.name) != file.bytes]
    for file in left:
        refuse_odd_name(file.name, shipment.what)
    if left:
        upload_files(left, shipment, bucket, console)
    if shipment.counted:
        above, _, name = shipment.place.rpartition("/")
        bucket_at(above).put(f"{name}.json", summary(shipment.files))


def upload_files(left: list[SourceFile], shipment: Shipment, bucket: Bucket, console: Console) -> None:
    """Upload some of a shipment's files. An object stays only if its file was as the plan knows it all the while."""
    words = f"sending {count(len(left), 'file')} of {shipment.what} to {shipment.place}"
    console.print(words, highlight=False, markup=False)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sent", total=sum(file.bytes for file in left))
        over = threading.Event()

        def told(more: int) -> None:
            if over.is_set():
                raise Stopped
            progress.advance(task, more)

        def upload(file: SourceFile) -> None:
            path = shipment.root / file.name
            try:
                bucket.upload(path, file.name, told)
            except OSError as error:
                raise PlanError(f"{file.name} cannot be read: {error.strerror}", where=shipment.what) from None
            if not is_unchanged(path, file):
                bucket.delete(file.name)
                raise PlanError(
                    f"{file.name} was changed while it was sent", where=shipment.what, hint="submit the job again"
                )

        each(left, upload, on_end=over.set)


def is_unchanged(path: Path, file: SourceFile) -> bool:
    """Whether a file is still the one that was listed."""
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (file.bytes, file.version)


def refuse_odd_name(name: str, what: str) -> None:
    """PlanError for a name that no object can have."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not is_inside(name) or not encoded or len(encoded) > 512 or any(ord(mark) < 32 for mark in name):
        raise PlanError(
            f"the name {name!r} cannot travel: an object's name is printable UTF-8, no backslash, at most 512 bytes",
            where=what,
            hint="rename the file",
        )
