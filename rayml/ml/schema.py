"""What a row is: the contract between the data, the model, the exported file and the endpoint."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_FILE = "schema.json"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ImageFeature(_Value):
    """One image per row, `[height, width, channels] uint8`, 0 black to 255 white."""

    kind: Literal["image"] = "image"
    name: str = "image"
    height: int
    width: int
    channels: Literal[1, 3]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (self.height, self.width, self.channels)

    @property
    def dtype(self) -> str:
        return "uint8"


class VectorFeature(_Value):
    """One vector of numbers per row, `[columns] float32`."""

    kind: Literal["vector"] = "vector"
    name: str = "features"
    columns: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (len(self.columns),)

    @property
    def dtype(self) -> str:
        return "float32"


class Normalization(_Value):
    """`(x - offset) / scale`, after `missing` took the place of NaN. Fitted on the training split only.

    One number per channel of an image (in units of 0..255) or per column of a vector.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    """Never 0: a constant channel or column has scale 1."""
    missing: tuple[float, ...] | None = None
    """Takes the place of NaN, per column; None where NaN was refused."""


class Schema(_Value):
    """A typed row and its label."""

    feature: ImageFeature | VectorFeature
    label: str
    classes: tuple[str, ...]
    """Names of the classes; a label is an index into them."""
    normalization: Normalization
