"""The bearer key of an endpoint. The server holds only a salted hash of it."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets

from rayml.errors import StageError
from rayml.redact.values import remember

KEY_VARIABLE = "RAYML_ENDPOINT_KEY"
"""Where an endpoint on Kubernetes finds its key: a variable that its pods have from a Secret."""
_STRONG = re.compile(r"[\x21-\x7e]{32,}")


def new_key() -> str:
    """256 random bits, safe in a header and a URL. This process does not print them by accident."""
    key = secrets.token_urlsafe(32)
    remember(key)
    return key


def key_of_environment() -> str:
    """The key that the pod's secret gives. StageError where there is none, or one that can be guessed."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if _STRONG.fullmatch(key):
        remember(key)
        return key
    what = "has fewer than 32 characters, or spaces and others in it" if key else "is not set"
    raise StageError(
        f"the endpoint's key {what}, and without one nothing is served",
        where=KEY_VARIABLE,
        hint="openssl rand -hex 32 | kubectl create secret generic rayml-endpoint-key --from-file=key=/dev/stdin; "
        "or write `auth: none` below `serve` of the job for an endpoint that asks for no key",
    )


def hash_key(key: str) -> str:
    """`sha256:salt:digest` in hex. One round is enough, because a key is 256 random bits and no password."""
    salt = secrets.token_bytes(16)
    return f"sha256:{salt.hex()}:{hashlib.sha256(salt + key.encode()).hexdigest()}"


class KeyCheck:
    """Compares a presented key with a hash in constant time."""

    def __init__(self, key_hash: str) -> None:
        kind, salt, digest = key_hash.split(":")
        assert kind == "sha256", f"{kind} is no key hash that rayml writes"
        self._salt, self._digest = bytes.fromhex(salt), bytes.fromhex(digest)

    def __call__(self, authorization: bytes | None) -> bool:
        """Whether an Authorization header is `Bearer` with the right key."""
        if authorization is None:
            return False
        scheme, _, key = authorization.partition(b" ")
        presented = hashlib.sha256(self._salt + key.strip(b" ")).digest()
        return hmac.compare_digest(presented, self._digest) and scheme.lower() == b"bearer"
