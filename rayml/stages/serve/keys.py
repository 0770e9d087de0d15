"""The bearer key of an endpoint. The server holds only a salted hash of it."""

from __future__ import annotations

import hashlib
import hmac
import secrets


def new_key() -> str:
    """256 random bits, safe in a header and a URL."""
    return secrets.token_urlsafe(32)


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
