"""What every section of a job or cluster file shares: frozen values, unknown keys refused, documented fields."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from rayml.spec.words import show

Auto = Literal["auto"]
"""Resolved to a number by the plan, and shown there."""

CODE_REFERENCE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


@dataclass(frozen=True)
class Fits:
    """Beside a type: what an error sentence says that fits there, in place of the type's own description."""

    words: str


def refuse_standard_library(reference: str) -> str:
    """A reference as it is. ValueError for `os:system` and its like: a job names its own functions, or a plugin's."""
    module = reference.partition(":")[0].partition(".")[0]
    if module in sys.stdlib_module_names:
        raise ValueError(f"{module} is a module of Python itself; name a function of the `code:` folder or a package")
    return reference


CodeReference = Annotated[
    str, Field(pattern=CODE_REFERENCE), AfterValidator(refuse_standard_library), Fits("`module:function`")
]
"""`module:attribute` in the job's `code:` folder. Imported only where the job runs, never by validate or plan."""

Text = Annotated[str, Field(min_length=1), Fits("text of at least one character")]

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""The name of a bucket."""


def check_location(path: str) -> str:
    """A path, or `s3://BUCKET/PATH` without anything to log in with. ValueError for another address."""
    if "\0" in path:
        raise ValueError("a path holds no null character")
    scheme, mark, rest = path.partition("://")
    if not mark:
        return path
    if scheme != "s3":
        raise ValueError(f"nothing is read from {scheme}://; write a path, or s3://BUCKET/PATH")
    bucket, _, name = rest.partition("/")
    if "@" in bucket or any(mark in rest for mark in "#\\"):
        raise ValueError("an s3:// address holds no credentials and no settings; write s3://BUCKET/PATH")
    if not BUCKET.fullmatch(bucket):
        raise ValueError(f"{show(bucket)} is no name of a bucket: 3 to 63 small letters, digits, dots and hyphens")
    if not name.strip("/"):
        raise ValueError("the address names a whole bucket; write s3://BUCKET/PATH")
    if any(part in ("", ".", "..") for part in name.strip("/").split("/")):
        raise ValueError("the address has an empty part, . or .. in its path")
    return path


Location = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(check_location),
    Fits("a path relative to the job file, or `s3://BUCKET/PATH`"),
]
"""Files: on this machine, relative to the job file, or in a bucket, whose server the environment names."""

_SIZE = re.compile(r"^\s*(\d{1,18}(?:\.\d{1,18})?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?\s*$")
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
        raise ValueError(f"{show(value)} is not a size; write a number with B, KB, MB, GB, KiB, MiB or GiB")
    return int(float(match[1]) * _UNITS[match[2]])


Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    Field(gt=0),
    Fits("a size such as `512MiB`"),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "pattern": _SIZE.pattern}]},
        mode="validation",
    ),
]


_DURATION = re.compile(r"^\s*(\d{1,12}(?:\.\d{1,12})?)\s*(s|m|h|d)\s*$")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Seconds from `90s`, `10m` or `1.5h`; anything else is handed on for pydantic to refuse."""
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not a time; write a number with s, m, h or d, such as `10m`")
    match = _DURATION.match(value)
    if match is None:
        raise ValueError(f"{show(value)} is not a time; write a number with s, m, h or d, such as `10m`")
    return float(match[1]) * _SECONDS[match[2]]


def write_duration(seconds: float) -> str:
    """What `parse_duration` reads."""
    return f"{seconds:.12g}s"


Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(write_duration, when_used="json"),
    Field(gt=0),
    Fits("a time such as `10m`"),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern}, mode="validation"),
]


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
