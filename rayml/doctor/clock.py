"""This machine's clock against that of a cluster or a storage, by the Date header of an answer (RFC 9110, 6.6.1)."""

from __future__ import annotations

import http.client
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from rayml.doctor.finding import Finding, ok, warning, wrong

TIMEOUT_S = 5.0
FAR_S, TOO_FAR_S = 5.0, 60.0
"""A header has whole seconds, and the answer travels. S3 refuses at 900 s; tokens of a minute fail before that."""
SET_IT = "sudo timedatectl set-ntp true, or sudo chronyc makestep"


def head_date(address: str) -> str:
    """The Date header of a head's page that needs no token; empty where none comes."""
    parts = urlsplit(address)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/api/healthz")
        return connection.getresponse().getheader("Date") or ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def skew(name: str, whose: str, date: str, now: float | None = None) -> Finding:
    """A Date header against this machine's time.

    Args:
        now: Unix time at which it came.
    """
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return warning(name, f"{whose} does not say what time it is", f"date -u, here and there, if {whose} is yours")
    seconds = (time.time() if now is None else now) - theirs
    if abs(seconds) <= FAR_S:
        return ok(name, f"within {FAR_S:.0f} s of {whose}")
    words = f"this machine is {abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'} {whose}"
    return wrong(name, words, SET_IT) if abs(seconds) > TOO_FAR_S else warning(name, words, SET_IT)
