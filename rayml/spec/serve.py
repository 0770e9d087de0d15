"""The `serve` section."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayml.spec.base import Auto, Bytes, Spec, Text
from rayml.spec.export import ParitySpec


class ReplicasSpec(Spec):
    """Copies of the model that answer requests."""

    min: int = Field(default=1, ge=1)
    """Copies that are there even without requests."""
    max: int = Field(default=1, ge=1)
    """Most copies under load."""

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasSpec:
        if self.max < self.min:
            raise ValueError(f"max is {self.max}, below min, which is {self.min}")
        return self


class ServeSpec(Spec):
    """An HTTP endpoint on ONNX Runtime that speaks the Open Inference Protocol v2 and `POST /predict`."""

    replicas: ReplicasSpec = ReplicasSpec()
    host: Text = "127.0.0.1"
    """The address that is listened on. `0.0.0.0` opens the endpoint to the network."""
    port: Annotated[int, Field(ge=1, le=65535)] | Auto = "auto"
    """`auto` asks the system for a free port when the endpoint starts."""
    auth: Literal["bearer", "none"] = "bearer"
    """`bearer` asks for a key, made for each run and kept in the run folder with mode 0600."""
    max_body: Bytes = 16 * 2**20
    """Largest request body; a larger one is answered with 413 while it arrives."""
    max_rows: int = Field(default=1024, ge=1)
    """Most rows of one request."""
    parity: ParitySpec = ParitySpec()
    """The endpoint against the trained checkpoint, through HTTP."""
