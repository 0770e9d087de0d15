"""The `export` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from rayml.spec.base import Auto, Spec


class ParitySpec(Spec):
    """How far the exported model may be from the trained one, on a frozen sample of the test split."""

    tolerance: float = Field(default=1e-4, gt=0, lt=1)
    """Largest difference allowed between two probabilities."""
    samples: int = Field(default=64, ge=1)
    """Rows compared; fewer where the split has fewer."""


FORMATS = ("onnx", "torch_export", "safetensors", "executorch", "torchscript")


class ExportSpec(Spec):
    """Self-contained files: raw record in, probabilities out. ONNX answers with the label, too."""

    formats: tuple[Literal["onnx", "torch_export", "safetensors", "executorch", "torchscript"], ...] = Field(
        default=("onnx",), min_length=1
    )
    """The files that are written. ONNX is what is evaluated and served."""
    opset: Annotated[int, Field(ge=18, le=23)] | Auto = "auto"
    """ONNX operator set. `auto` is 20."""
    parity: ParitySpec = ParitySpec()
    """Each file against the trained model. A file that is further away ends the run with exit code 3."""

    @field_validator("formats")
    @classmethod
    def each_once(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        """Each format is one file."""
        twice = next((each for each in formats if formats.count(each) > 1), None)
        if twice is not None:
            raise ValueError(f"`{twice}` is there twice; leave one out")
        return formats
