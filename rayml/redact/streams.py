"""Standard output and error of a process, without secrets: what is printed, logged and traced back passes here.

What native libraries write to the file descriptors themselves does not.
"""

from __future__ import annotations

import io
import re
import sys
import threading
from typing import Any, TextIO, cast

from rayml.redact.text import redacted

LONGEST_LINE = 2**16
"""Characters: of a longer line, what is there is written."""
LONGEST_KEY = 2**14
"""Characters after the beginning of a private key in which its end is waited for."""
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]+-----")


class Guarded(io.TextIOBase):
    """A text stream that writes whole lines to another one, each without secrets."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.stream = stream
        self._rest = ""
        self._key_left = 0
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            self._rest += text
            end = max(self._rest.rfind("\n"), self._rest.rfind("\r")) + 1
            if len(self._rest) - end > LONGEST_LINE:
                end = len(self._rest)
            if end:
                whole, self._rest = self._rest[:end], self._rest[end:]
                self.stream.write(self._without_keys(whole))
        return len(text)

    def flush(self) -> None:
        with self._lock:
            if self._rest:
                rest, self._rest = self._rest, ""
                self.stream.write(self._without_keys(rest))
            self.stream.flush()

    def _without_keys(self, text: str) -> str:
        """The same text without secrets; a private key may have begun in an earlier one and go on in the next."""
        if self._key_left:
            over = _KEY_ENDS.search(text)
            if over is None:
                self._key_left = max(0, self._key_left - len(text))
                return ""
            self._key_left = 0
            text = text[over.end() :]
        begins = [match.end() for match in _KEY_BEGINS.finditer(text)]
        if begins and _KEY_ENDS.search(text, begins[-1]) is None:
            self._key_left = LONGEST_KEY
            return f"{redacted(text)}\n"
        return redacted(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # io.TextIOBase declares an attribute
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.stream.errors

    @property
    def buffer(self) -> Any:
        """The bytes below, which are not looked at."""
        return self.stream.buffer


def guarded(stream: TextIO) -> TextIO:
    """The stream, guarded once."""
    if isinstance(stream, Guarded):
        return stream
    return cast(TextIO, Guarded(stream))


def guard_output() -> None:
    """Let nothing secret pass that this process prints, logs or dies of.

    To be called before a logger takes hold of sys.stderr.
    """
    sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr)
