"""Which names say that the value beside them is a secret: of variables, fields, flags and parameters of a URL."""

from __future__ import annotations

import re
from functools import lru_cache

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS = {"TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS", "APIKEY", "PWD"}
_JOINED = re.compile(r"SECRET|PASSWORD|PASSWD|PASSPHRASE|APIKEY", re.IGNORECASE)
_KEY_OWNERS = {"API", "ACCESS", "PRIVATE", "ACCOUNT", "ENCRYPTION", "SIGNING", "LICENSE", "AUTH"}
_PLACES = {
    *("PATH", "FILE", "DIR", "FOLDER", "NAME", "REF", "MODE", "URL", "URI", "ID", "TYPE"),
    *("TTL", "SECONDS", "COUNT", "LIMIT", "LENGTH", "SIZE", "COLUMN", "DIM", "WIDTH", "INDEX", "KIND"),
}
"""A name that ends so says where a secret is, how long it lasts or how many there are."""
_FOLDERS = {"PWD", "OLDPWD"}
_LANGUAGE = {"PAD", "EOS", "BOS", "UNK", "SEP", "CLS", "MASK", "SPECIAL", "ADDED"}
"""`pad_token` is a word of a language model."""
_WHOLE = {"rayml_key", "client-key-data", "_auth", "_authtoken", "x-amz-signature", "x-goog-signature", "sshpass"}
"""Names that no rule above finds: rayml's own key, kubeconfig, npm, signed URLs."""


@lru_cache(4096)
def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret: HF_TOKEN does; HF_TOKEN_PATH and MAX_NEW_TOKENS do not."""
    if name.lower() in _WHOLE:
        return True
    words = [word.upper() for word in _WORD.findall(name)]
    if not words or words[-1] in _PLACES or name in _FOLDERS:
        return False
    if words[-1] == "TOKEN" and not _LANGUAGE.isdisjoint(words):
        return False
    is_key = words[-1] in ("KEY", "KEYS") and any(word in _KEY_OWNERS for word in words)
    return is_key or not _SECRET_WORDS.isdisjoint(words) or _JOINED.search(name) is not None
