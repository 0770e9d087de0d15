"""The secrets that this process knows, of its environment or because it was told: they are hidden by value."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote

from rayml.redact.names import is_secret_name

SHORTEST = 8
"""Characters: what is shorter is found in ordinary words."""
FRESH_S = 1.0
"""How long the names in the environment count as seen; a value that changes is seen at once."""
_ORDINARY = {"disabled", "required", "password", "undefined", "anonymous", "changeme", "localhost"}
_URL_PASSWORD = re.compile(r"://[^\s/@:?#]{0,200}:(?P<secret>[^\s/@?#]{1,200})@")

_told: set[str] = set()


def remember(secret: str | None) -> None:
    """Hide this value in everything that this process says from now on."""
    if secret is not None and len(secret) >= SHORTEST:
        _told.add(secret)


def known_secrets() -> re.Pattern[str] | None:
    """Matches each secret that is known now, also in the forms that URLs, JSON and base64 give it; None without one."""
    return _pattern(_environment.secrets() | frozenset(_told))


class _Environment:
    """The secrets of `os.environ`. To look through it takes 50 us, so the names are kept for a second."""

    def __init__(self) -> None:
        self._looked, self._size = -FRESH_S, -1
        self._held: dict[str, str | None] = {}
        self._secrets: frozenset[str] = frozenset()

    def secrets(self) -> frozenset[str]:
        now = time.monotonic()
        is_fresh = now - self._looked < FRESH_S and self._size == len(os.environ)
        if is_fresh and all(os.environ.get(name) == value for name, value in self._held.items()):
            return self._secrets
        self._looked, self._size = now, len(os.environ)
        self._held = {name: value for name, value in os.environ.items() if is_secret_name(name) or "://" in value}
        self._secrets = frozenset(each for name, value in self._held.items() for each in _secrets_in(name, value or ""))
        return self._secrets


_environment = _Environment()


def _secrets_in(name: str, value: str) -> Iterator[str]:
    found = [value.strip()] if is_secret_name(name) else []
    found += [match["secret"] for match in _URL_PASSWORD.finditer(value)]
    return (each for each in found if len(each) >= SHORTEST and each.lower() not in _ORDINARY)


@lru_cache(8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str] | None:
    if not secrets:
        return None
    forms = {form for secret in secrets for form in _forms(secret)}
    return re.compile("|".join(re.escape(form) for form in sorted(forms, key=lambda form: (-len(form), form))))


def _forms(secret: str) -> tuple[str, ...]:
    encoded = base64.b64encode(secret.encode("utf-8", "surrogateescape")).decode()
    return (
        secret,
        quote(secret, safe="", errors="replace"),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        encoded.rstrip("="),
    )
