"""The user's own functions: `module:function` from the job's `code:` folder, imported only where the job runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from rayml.errors import StageError


def load_callable(reference: str, code: str | None) -> Callable[..., Any]:
    """Import what a job file names.

    Args:
        reference: `module:attribute`.
        code: absolute folder of the user's modules, put first on sys.path of this process; None where there is none.

    Raises:
        StageError: no such module or attribute, the module fails while it is imported, or it cannot be called.
    """
    if code is not None and code not in sys.path:
        sys.path.insert(0, code)
    module_name, _, attribute = reference.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        place = f"in {code}" if code is not None else "installed, and the job has no `code:` folder"
        raise StageError(f"no module {error.name!r} {place}", where=reference) from error
    except Exception as error:
        raise StageError(f"the module fails on import: {type(error).__name__}: {error}", where=reference) from error
    found = getattr(module, attribute, None)
    if found is None:
        raise StageError(f"{module.__file__} has no {attribute!r}", where=reference)
    if not callable(found):
        raise StageError(f"{attribute!r} is a {type(found).__name__}, which cannot be called", where=reference)
    return found  # type: ignore[no-any-return]  # callable() narrows Any to itself
