"""The `train.profile` section: a look at some steps while they run."""

from __future__ import annotations

from pydantic import Field

from rayml.spec.base import Spec


class ProfileSpec(Spec):
    """Where the time of a step goes, which operators take most, and how much memory each worker needed."""

    steps: int = Field(default=10, ge=1, le=1000)
    """Steps that are looked at: so many by the clock alone, and as many once more with torch.profiler, which slows them
    down."""
    wait: int = Field(default=5, ge=1)
    """Steps before that: the first ones are slower, since memory is taken and kernels are chosen."""
