"""The `train.autotune` section: what is tried on this machine before the first epoch."""

from __future__ import annotations

from pydantic import Field

from rayml.spec.base import Spec


class AutotuneSpec(Spec):
    """Times the step with other settings on the real workers and the first rows, and keeps those that are faster.

    A run that goes on after an interruption keeps what was chosen.
    """

    steps: int = Field(default=20, ge=5, le=1000)
    """Steps that are timed of each setting, and as many of what it is compared with."""
    precision: bool = True
    """Try bf16 too, which changes the numbers more than by the order of a sum."""
