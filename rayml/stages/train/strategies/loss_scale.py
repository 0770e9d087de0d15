"""Dynamic loss scaling for fp16 (Micikevicius et al., arXiv 1710.03740).

torch's GradScaler looks at the gradients that one process holds; here whether a step overflowed is read from the norm
of all gradients, so that ranks with parts of them decide alike.
"""

from __future__ import annotations

START = 2.0**16
GROW_AFTER = 2000
"""Steps without an overflow after which twice the scale is tried."""


class LossScale:
    """The factor on the loss. 1 where the precision needs none."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self.value = START if enabled else 1.0
        self.good_steps = 0

    def update(self, finite: bool) -> None:
        """Take note of a step: halve the scale after an overflow, double it after many steps without one."""
        if not self.enabled:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.good_steps == GROW_AFTER:
            self.value, self.good_steps = self.value * 2, 0

    def state(self) -> dict[str, float]:
        return {"value": self.value, "good_steps": self.good_steps}

    def load(self, state: dict[str, float]) -> None:
        if self.enabled and state:
            self.value, self.good_steps = state["value"], int(state["good_steps"])
