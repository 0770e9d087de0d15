"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file.", show_default=False)]
Overrides = Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="Set a key of the job file.")]
ClusterFile = Annotated[Path | None, typer.Option("--cluster", help="The cluster file; this machine if left out.")]
HomeFolder = Annotated[
    Path, typer.Option("--home", envvar="RAYML_HOME", help="Where runs and artifacts are kept.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or a job's name.")]

Address = Annotated[
    str | None, typer.Option("--address", envvar="RAYML_ADDRESS", help="Of a Ray head's dashboard: http://HOST:8265.")
]
StorageUri = Annotated[
    str | None,
    typer.Option("--storage", envvar="RAYML_STORAGE", help="A folder that all nodes see, or s3://BUCKET/PREFIX."),
]

WhereItRuns = Annotated[
    Path | None, typer.Option("--cluster", help="The cluster file that the run was submitted with.")
]

DEFAULT_HOME = Path(".rayml")
NO_OVERRIDES: list[str] = []
NO_GATES: list[str] = []
