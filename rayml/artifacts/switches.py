"""Ray's switches that let a file of data run code. They must be off wherever such files are opened."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

from rayml.errors import StageError

UNSAFE = {
    "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA": "a Parquet file of somebody else may then run code "
    "(CVE-2026-41486)",
    "RAY_DATA_AUTOLOAD_PICKLE_OBJECT_SCALAR": "a column of pickled objects in somebody else's file may then run code",
    "RAY_DATA_ARROW_EXTENSION_SERIALIZATION_CLOUDPICKLE": "what is written then can only be read by running code",
    "RAY_DATA_WEBDATASET_ALLOW_UNSAFE_DESERIALIZATION": "a .pkl or .pt file in a WebDataset may then run code "
    "(CVE-2026-57516)",
}
"""Ray's environment variables that let data run code (GHSA-mw35-8rx3-xf9r and others)."""
OFF = ("", "0", "false", "no", "off")


def unsafe_switches(environ: Mapping[str, str]) -> list[str]:
    """The names of those that are on."""
    return [name for name in UNSAFE if environ.get(name, "").strip().lower() not in OFF]


def refuse_unsafe_switches() -> None:
    """StageError where this process has one that is on."""
    found = unsafe_switches(os.environ)
    if found:
        raise StageError(
            "; ".join(f"{name} is on: {UNSAFE[name]}" for name in found),
            where=f"the environment on {platform.node()}",
            hint=f"unset {' '.join(found)}, and start Ray again where a cluster has it",
        )
