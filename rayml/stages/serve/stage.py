"""The serve step: deploy the exported model, prove over HTTP that it answers as the checkpoint did, stop it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from rayml.artifacts.durable import write_atomic
from rayml.errors import StageError
from rayml.ml.schema import Schema
from rayml.plan.plan import Step
from rayml.stages.api import Context, Inputs, Outcome
from rayml.stages.serve.app import EXTENSIONS
from rayml.stages.serve.client import Client
from rayml.stages.serve.deployment import Settings, start_endpoint, stop_endpoint
from rayml.stages.serve.endpoint import Endpoint
from rayml.stages.serve.model import load_model
from rayml.stages.serve.parity import Frozen, ask_infer, ask_predict, compare, load_frozen, measure_latency

CHECK_FILE = "endpoint-check.json"


def run(step: Step, inputs: Inputs, context: Context) -> Outcome:
    """Check a live endpoint of `inputs["export"]` and leave `endpoint-check.json`.

    The metrics `parity_max_abs_diff` and `parity_label_mismatches` are what the runner's gate reads; latencies are in
    milliseconds, of single rows on one connection.

    Raises:
        StageError: the endpoint does not start, or answers other than it promises.
    """
    export = inputs["export"].path
    settings = settings_of(step)
    schema = load_model(export, threads=1).schema
    frozen = load_frozen(export, step.config["parity"]["samples"])
    context.emit("note", text="starting the endpoint")
    endpoint = start_endpoint(export, settings, context.run_folder)
    try:
        context.emit("note", text=f"checking {endpoint.url}")
        outcome = check(endpoint, settings, schema, frozen)
    finally:
        stop_endpoint(context.run_folder)
    document = {"metrics": outcome.metrics, **outcome.facts}
    write_atomic(context.out / CHECK_FILE, json.dumps(document, indent=1, ensure_ascii=False).encode())
    return outcome


def settings_of(step: Step) -> Settings:
    """The settings of a serve step."""
    policy, config = step.policy, step.config
    return Settings(
        host=policy["host"],
        port=None if policy["port"] == "auto" else policy["port"],
        replicas_min=policy["replicas"]["min"],
        replicas_max=policy["replicas"]["max"],
        cpus=step.resources.cpus_per_worker,
        max_body=config["max_body"],
        max_rows=config["max_rows"],
        auth=config["auth"] == "bearer",
    )


def check(endpoint: Endpoint, settings: Settings, schema: Schema, frozen: Frozen) -> Outcome:
    """Parity through both ways of asking, the key, and the latency of single rows."""
    tensor, classes = schema.feature.name, schema.classes
    with Client(endpoint.url, endpoint.key) as client:
        checks = [_check_health(endpoint), _check_model(client, endpoint)]
        if endpoint.key is not None:
            checks.append(_check_key(endpoint))
        found = {
            "infer, binary": ask_infer(client, endpoint.model, tensor, frozen.inputs, settings.max_rows),
            "predict, JSON": ask_predict(client, classes, frozen.inputs, settings.max_rows),
        }
        milliseconds = measure_latency(client, endpoint.model, tensor, frozen.inputs)
    compared = {name: compare(frozen, classes, answers) for name, answers in found.items()}
    for name, (difference, mismatches, _) in compared.items():
        detail = f"largest difference {difference:.2e}, {mismatches} other labels"
        checks.append({"name": f"parity of {name}", "detail": f"{len(frozen.sample_ids)} rows: {detail}"})
    before, here = accuracy(frozen.probabilities, frozen), accuracy(found["infer, binary"].probabilities, frozen)
    detail = f"{here:.4f} of {len(frozen.sample_ids)} rows at the endpoint, {before:.4f} before"
    checks.append({"name": "accuracy, measured again", "detail": detail})
    _, _, worst = max(compared.values(), key=lambda result: result[0])
    first = found["predict, JSON"]
    return Outcome(
        metrics={
            "parity_max_abs_diff": max(difference for difference, _, _ in compared.values()),
            "parity_label_mismatches": float(max(mismatches for _, mismatches, _ in compared.values())),
            "accuracy": here,
            "latency_p50_ms": float(np.percentile(milliseconds, 50)),
            "latency_p99_ms": float(np.percentile(milliseconds, 99)),
        },
        facts={
            "checks": checks,
            "worst": worst,
            "example": {
                "sample_id": int(frozen.sample_ids[0]),
                "label": first.labels[0],
                "probability": float(first.probabilities[0].max()),
            },
            "protocol": {"name": "Open Inference Protocol v2", "extensions": list(EXTENSIONS), "predict": "/predict"},
            "model": {"name": endpoint.model, "version": endpoint.version},
            "samples": len(frozen.sample_ids),
        },
    )


def accuracy(probabilities: npt.NDArray[np.float32], frozen: Frozen) -> float:
    """Share of the frozen rows whose most probable class `[n, classes]` is the true one."""
    return float((probabilities.argmax(axis=1) == frozen.labels).mean())


def _check_health(endpoint: Endpoint) -> dict[str, Any]:
    with Client(endpoint.url, None) as stranger:
        for path in ("/v2/health/live", "/v2/health/ready"):
            _expect(endpoint, path, stranger.ask("GET", path).status, 200)
    return {"name": "health without a key", "detail": "live and ready"}


def _check_model(client: Client, endpoint: Endpoint) -> dict[str, Any]:
    answer = client.ask("GET", f"/v2/models/{endpoint.model}/ready")
    _expect(endpoint, "the model's ready", answer.status, 200)
    _expect(endpoint, "the model's version", answer.headers.get("x-model-version"), endpoint.version)
    return {"name": "model and version", "detail": f"{endpoint.model} {endpoint.version}"}


def _check_key(endpoint: Endpoint) -> dict[str, Any]:
    for key in (None, f"{endpoint.key}x"):
        with Client(endpoint.url, key) as stranger:
            _expect(endpoint, "a wrong or missing key", stranger.ask("GET", "/v2").status, 401)
    return {"name": "key", "detail": "401 without it and with another"}


def _expect(endpoint: Endpoint, what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise StageError(
            f"{what} gave {got}, wanted {wanted}", where=endpoint.url, hint="another service may listen on this port"
        )
