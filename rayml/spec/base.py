"""What every section of a job or cluster file shares: frozen values, unknown keys refused, documented fields."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Auto = Literal["auto"]
"""Resolved to a number by the plan, and shown there."""

CODE_REFERENCE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"

CodeReference = Annotated[str, Field(pattern=CODE_REFERENCE)]
"""`module:attribute`, found in the job's `code:` folder. Imported only where the job runs, never by validate or plan."""

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?\s*$")
_UNITS = {
    None: 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


def parse_bytes(value: object) -> object:
    """Bytes from `100KB` or `16MiB`; anything else is handed on for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value)
    if match is None:
        raise ValueError("not a size; write a number of bytes or a number with B, KB, MB, GB, KiB, MiB or GiB")
    return int(float(match[1]) * _UNITS[match[2]])


Bytes = Annotated[int, BeforeValidator(parse_bytes, json_schema_input_type=int | str), Field(gt=0)]


class Spec(BaseModel):
    """A section that a person writes. Frozen; a key that it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=False,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
