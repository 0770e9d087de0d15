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

Report = Callable[[dict[str, Any]], None]
"""Hears of an epoch: its metrics and its number."""


class Evaluate(Protocol):
    """One trial, from its values to its metrics. Travels to the trial's node."""

    def __call__(self, number: int, point: dict[str, Any], take: int, report: Report) -> dict[str, Any]:
        """Train and measure. Epochs that were reported before may be reported again.

        Args:
            take: how often the trial took over the weights of others.
        Returns:
            `values`: metric to number; `keys`: step to the key of its artifact.
        """
        ...


def run_trial(config: dict[str, Any], evaluate: Evaluate, takes_over: bool) -> None:
    """Evaluate one trial, and report its epochs and its end. Its failure is a result, and not one of Ray's.

    Args:
        takes_over: whether trials may go on from the weights of others.
    """
    import ray
    from ray import tune

    node = ray.get_runtime_context().get_node_id()[-8:]
    point = {path: value for path, value in config.items() if path not in ("trial", "take", "bundle")}

    def report(record: dict[str, Any]) -> None:
        fields = {"record": json.dumps(record, default=float), "node": node}
        if not takes_over:
            tune.report(fields)
            return
        # Ray Tune lets no trial take over from one that keeps no checkpoint. Where ours are, the sweep knows.
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "epoch").write_text(str(record["epoch"]))
            tune.report(fields, checkpoint=tune.Checkpoint.from_directory(folder))

    try:
        outcome = evaluate(config["trial"], point, config["take"], report)
    except Exception as error:
        traceback.print_exc()
        outcome = {"error": str(error) if isinstance(error, RaymlError) else describe_failure(error, None)}
    tune.report({"outcome": json.dumps(outcome, default=float), "node": node})
