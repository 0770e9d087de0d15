"""What a secret looks like, as lint's checks use it. The table of shapes is in rayml.redact.shapes."""

from __future__ import annotations

from rayml.redact.shapes import HIDDEN, shape_of
from rayml.redact.text import redacted

__all__ = ["HIDDEN", "redacted", "shape_of"]
