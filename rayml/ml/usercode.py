"""The user's own functions: `module:function` from the job's `code:` folder, imported only where the job runs."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
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
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module_name:
            place = f"in {code}" if code is not None else "installed, and the job has no `code:` folder"
            raise StageError(f"no module {error.name!r} {place}", where=reference) from error
        raise StageError(f"the module fails on import: {describe_failure(error, code)}", where=reference) from error
    found = getattr(module, attribute, None)
    if found is None:
        raise StageError(f"{module.__file__} has no {attribute!r}", where=reference)
    if not callable(found):
        raise StageError(f"{attribute!r} is a {type(found).__name__}, which cannot be called", where=reference)
    return found  # type: ignore[no-any-return]  # callable() narrows Any to itself


def describe_failure(error: BaseException, code: str | None) -> str:
    """An exception on one line: `ValueError: too wide (net.py line 12)`, with the last line of the user's own in it."""
    said = ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())) if part)
    return said + own_line(error, code)


def own_line(error: BaseException, code: str | None) -> str:
    """` (net.py line 12)`: the innermost line of the `code:` folder that an exception passed; any line without one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code is None or Path(frame.filename).is_relative_to(code)]
    return f" ({Path(own[-1].filename).name} line {own[-1].lineno})" if own else ""
