"""Secrets in source files: what is a secret by itself, and not what merely looks like one beside a name.

Code is full of `password = os.environ["DB"]` and `f"https://{user}:{token}@{host}"`, so only keys with the prefix of
their issuer, private keys, and values that this environment knows as secrets are looked for. Keys that were published
as examples pass.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from rayml.redact.shapes import GROUP, ISSUED, WHOLE, Shape
from rayml.redact.text import KNOWN
from rayml.redact.values import known_secrets

PUBLISHED = (
    "example",  # AWS's own end so: AKIAIOSFODNN7EXAMPLE. One random key in a billion does
    "4ec39hqlyjwdarjtt1zdp7dc",  # docs.stripe.com
    "eyjzdwiioiixmjm0nty3odkwiiwibmftzsi6ikpvag4grg9l",  # jwt.io: John Doe, 1234567890
    "eby8vdm02xnocqflquwjpllmetlcdxj1ouzft50usrz6ifsufq2uverc",  # the account of every Azure storage emulator
)
"""Parts, in lower case, of keys that open nothing."""
FILLED = re.compile(r"([A-Za-z0-9*.])\1{9}")
"""`hf_xxxxxxxxxxxx`: a placeholder."""
BODY = re.compile(r"[A-Za-z0-9+/]{40,}")
"""A line of a private key."""
HEAD = 400
"""Characters in which the first line of a private key stands, below its header's own lines."""
SHORTEST = 15
"""Characters: no key of an issuer is shorter."""
_KEPT = (string.ascii_letters + string.digits + "_+/=.~%:-").encode()
_APART = bytes(each if each in _KEPT else ord(" ") for each in range(256))
"""Makes a space of each byte that no key of an issuer holds."""


def secrets_in_source(text: str) -> Iterator[tuple[int, str]]:
    """The line, from 1, and the kind of each secret that is written out in a source file."""
    found = [*_known(text), *_shaped(text)]
    for start, words in sorted(found):
        yield text.count("\n", 0, start) + 1, words


def _known(text: str) -> Iterator[tuple[int, str]]:
    """Values of the environment, but for plain words: where a password is `postgres`, code may still say so."""
    pattern = known_secrets()
    for match in pattern.finditer(text) if pattern is not None else ():
        if not (match[0].isalpha() and match[0].islower()):
            yield match.start(), KNOWN


def _shaped(text: str) -> Iterator[tuple[int, str]]:
    for shape in _possible(text):
        yield from ((match.start(), shape.words) for match in shape.compiled.finditer(text) if _is_one(match))


def _possible(text: str) -> list[Shape]:
    """The shapes that a text may hold.

    A key of an issuer is one long word. The long words of code, each taken once, are a seventh of it.
    """
    words = {word for word in text.encode(errors="replace").translate(_APART).split() if len(word) >= SHORTEST}
    long = b" ".join(words).decode()
    lower_long, lower = long.lower(), text.lower()
    issued = [shape for shape in ISSUED if shape.may_be_in(lower_long) and shape.compiled.search(long)]
    return [*(shape for shape in WHOLE if shape.may_be_in(lower)), *issued]


def _is_one(match: re.Match[str]) -> bool:
    """Whether it is more than an example, a placeholder, a name in code, or the header of a key without the key."""
    if match[0].startswith("-----BEGIN"):
        return BODY.search(match[0], 0, HEAD) is not None
    is_beside = GROUP in match.re.groupindex
    secret = match[GROUP] if is_beside else match[0]
    if is_beside and not any(character.isdigit() for character in secret):
        return False
    return FILLED.search(secret) is None and not any(part in secret.lower() for part in PUBLISHED)
