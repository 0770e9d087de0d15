"""What runs on the trial's node: a function that Ray Tune calls, in a process that the next trial uses too."""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from rayml.errors import RaymlError
from rayml.ml.usercode import describe_failure

POINTER_FILE = "pointer.json"
Report = Callable[..., None]
"""`report(record, pointer=None)`: an epoch's metrics with its number, and JSON that says where the weights are."""


class Evaluate(Protocol):
    """One trial, from its values to its metrics. Travels to the trial's node."""

    def __call__(
        self, number: int, point: dict[str, Any], take: int, pointer: dict[str, Any] | None, report: Report
    ) -> dict[str, Any]:
        """Train and measure.

        Args:
            take: how often the trial took over the weights of others.
            pointer: what a trial reported whose weights this one goes on with; its own after a pause.
        Returns:
            `values`: metric to number; `keys`: step to the key of its artifact.
        """
        ...


def run_trial(config: dict[str, Any], evaluate: Evaluate) -> None:
    """Evaluate one trial, and report its epochs and its end. Its failure is a result, and not one of Ray's."""
    import ray
    from ray import tune

    node = ray.get_runtime_context().get_node_id()[-8:]
    point = {path: value for path, value in config.items() if path not in ("trial", "take", "bundle")}

    def report(record: dict[str, Any], pointer: dict[str, Any] | None = None) -> None:
        fields = {"record": json.dumps(record, default=float), "node": node}
        if pointer is None:
            tune.report(fields)
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / POINTER_FILE).write_text(json.dumps(pointer))
            tune.report(fields, checkpoint=tune.Checkpoint.from_directory(folder))

    try:
        outcome = evaluate(config["trial"], point, config["take"], read_pointer(tune.get_checkpoint()), report)
    except Exception as error:
        traceback.print_exc()
        outcome = {"error": str(error) if isinstance(error, RaymlError) else describe_failure(error, None)}
    tune.report({"outcome": json.dumps(outcome, default=float), "node": node})


def read_pointer(checkpoint: Any) -> dict[str, Any] | None:
    """What a trial reported with its weights."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        pointer: dict[str, Any] = json.loads((Path(folder) / POINTER_FILE).read_text())
    return pointer
