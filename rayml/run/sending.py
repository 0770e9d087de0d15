"""Sending a job's files to the storage of its cluster, before the job itself is handed over."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from rayml.artifacts.bucket import bucket_at, each
from rayml.errors import PlanError
from rayml.plan.listing import SourceFile
from rayml.plan.plan import Plan
from rayml.plan.sent import Shipment, shipments
from rayml.spec.words import count


def send_files(plan: Plan, console: Console) -> None:
    """Send what the storage does not have yet. The same files are sent once, whoever submits them how often.

    Raises:
        PlanError: a file is gone, or was changed meanwhile.
        BackendError: the storage cannot be reached.
    """
    for shipment in shipments(plan):
        send(shipment, console)
        if shipment not in shipments(plan):
            raise PlanError(
                "the files were changed while they were sent", where=shipment.what, hint="submit the job again"
            )


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
    """Send the files of a shipment that are not there with the same size."""
    bucket = bucket_at(shipment.place)
    there = {entry.path: entry.bytes for entry in bucket.entries("")}
    left = [file for file in shipment.files if there.get(file.name) != file.bytes]
    for file in left:
        refuse_odd_name(file.name, shipment.what)
    if not left:
        return
    words = f"sending {count(len(left), 'file')} of {shipment.what} to {shipment.place}"
    console.print(words, highlight=False, markup=False)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sent", total=sum(file.bytes for file in left))

        def upload(file: SourceFile) -> None:
            try:
                bucket.upload(shipment.root / file.name, file.name)
            except OSError as error:
                raise PlanError(f"{file.name} cannot be read: {error.strerror}", where=shipment.what) from None
            progress.advance(task, file.bytes)

        each(left, upload)


def refuse_odd_name(name: str, what: str) -> None:
    """PlanError for a name that no object can have."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded or len(encoded) > 512 or any(ord(mark) < 32 for mark in name):
        raise PlanError(
            f"the name {name!r} cannot travel: an object's name is printable UTF-8 of at most 512 bytes",
            where=what,
            hint="rename the file",
        )
