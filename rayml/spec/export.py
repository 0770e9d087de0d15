"""The `export` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayml.spec.base import Auto, Spec


class ParitySpec(Spec):
    """How far the exported model may be from the trained one, on a frozen sample of the test split."""

    tolerance: float = Field(default=1e-4, gt=0, lt=1)
    """Largest difference allowed between two probabilities."""
    samples: int = Field(default=64, ge=1)
    """Rows compared; fewer where the split has fewer."""


class ExportSpec(Spec):
    """One self-contained file: raw record in, label and probabilities out."""

    formats: tuple[Literal["onnx"], ...] = Field(default=("onnx",), min_length=1)
    """The files that are written."""
    opset: Annotated[int, Field(ge=18, le=23)] | Auto = "auto"
    """ONNX operator set. `auto` is 20."""
    parity: ParitySpec = ParitySpec()
    """The exported model against the trained one. A model that is further away ends the run with exit code 3."""
