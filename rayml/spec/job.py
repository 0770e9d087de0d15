"""The job file: what is done. A section that is present is a step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rayml.spec.base import Fits, Spec, Text
from rayml.spec.compress import CompressSpec
from rayml.spec.data import DataSpec
from rayml.spec.evaluate import EvaluateSpec
from rayml.spec.export import ExportSpec
from rayml.spec.model import Model, Task
from rayml.spec.serve import ServeSpec
from rayml.spec.train import TrainSpec
from rayml.spec.tune import TuneSpec

STAGES = ("data", "tune", "train", "compress", "export", "evaluate", "serve")
"""The sections that are steps, in the order in which they run."""

NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"


class JobSpec(Spec):
    """One job, from raw data to a verified endpoint."""

    name: Annotated[str, Field(pattern=NAME), Fits("a name of at most 40 of a-z, 0-9 and `-`, with no `-` at its ends")]
    """At most 40 of a-z, 0-9 and `-`: it becomes part of run ids, model names and Kubernetes objects."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides the split, the order of the data, the first weights and the dropout."""
    code: Text | None = None
    """A folder, relative to the job file, with the user's own Python modules."""
    data: DataSpec
    task: Task
    """What is predicted."""
    model: Model | None = None
    """The network that is trained."""
    tune: TuneSpec | None = None
    train: TrainSpec | None = None
    compress: CompressSpec | None = None
    export: ExportSpec | None = None
    evaluate: EvaluateSpec | None = None
    serve: ServeSpec | None = None
