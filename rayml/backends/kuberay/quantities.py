"""Amounts as Kubernetes writes them."""

from __future__ import annotations

UNITS = {"Gi": 2**30, "Mi": 2**20, "Ki": 2**10}


def quantity(size: int) -> str:
    """Bytes in the largest unit that says them exactly: `8Gi`, `512Mi`, `1000`."""
    return next((f"{size // unit}{name}" for name, unit in UNITS.items() if size % unit == 0), str(size))


def seconds(duration: float) -> int:
    """A time in whole seconds, at least one."""
    return max(1, round(duration))
