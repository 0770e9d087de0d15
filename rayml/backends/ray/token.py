"""The token that a Ray head asks for: where Ray itself looks, in the same order. It is shown to nobody but the head."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rayml.errors import BackendError
from rayml.redact.values import remember


def find_token(environ: Mapping[str, str] | None = None, home: Path | None = None) -> str | None:
    """As `look_for_token`; what was found is hidden from here on in everything that is said."""
    token = look_for_token(environ, home)
    remember(token)
    return token


def look_for_token(environ: Mapping[str, str] | None = None, home: Path | None = None) -> str | None:
    """RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token; None where there is none of them.

    Raises:
        BackendError: RAY_AUTH_TOKEN_PATH names a file that cannot be read, or one of them is no text.
    """
    known = os.environ if environ is None else environ
    if token := known.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = known.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else (home or Path.home()) / ".ray" / "auth_token"
    try:
        return path.read_text().strip() or None
    except UnicodeDecodeError:
        hint = f"put the cluster's token into it, or rm {path}"
        raise BackendError("it holds bytes that are no text, and no token", where=str(path), hint=hint) from None
    except OSError as error:
        if named:
            raise BackendError(
                f"the token cannot be read: {error.strerror}", where=named, hint="RAY_AUTH_TOKEN_PATH names this file"
            ) from None
        return None
