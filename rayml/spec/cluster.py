"""The cluster file: what the job may use. It never changes what a step computes, only where and how wide."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayml.spec.base import Auto, Bytes, Spec


class ClusterSpec(Spec):
    """This machine, or the share of it that a run may take."""

    kind: Literal["local"] = "local"
    cpus: Annotated[int, Field(ge=1)] | Auto = "auto"
    """`auto` is what the operating system lets this process use."""
    gpus: Annotated[int, Field(ge=0)] | Auto = "auto"
    """`auto` is what the driver lists."""
    object_store: Bytes | Auto = "auto"
    """Shared memory for Ray's objects. `auto` is a tenth of the machine's memory, at most 2 GiB."""
