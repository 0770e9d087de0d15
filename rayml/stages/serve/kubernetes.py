"""The application of a RayService: `import_path: rayml.stages.serve.kubernetes:app` in its serveConfigV2.

Serve calls `app` once in the cluster. Each replica then fetches the model on its own host and, before it becomes
ready, is asked the frozen rows of the export: one that answers differently fails in its constructor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rayml.artifacts.bucket import Bucket
from rayml.artifacts.opening import open_artifacts, runs_beside
from rayml.artifacts.store import Store
from rayml.errors import GateError, StageError
from rayml.plan.plan import Plan
from rayml.spec.evaluate import parse_gate
from rayml.stages.serve.arguments import ServeArguments, read_arguments
from rayml.stages.serve.deployment import Settings, app_of, make_application
from rayml.stages.serve.inside import Inside
from rayml.stages.serve.keys import hash_key, key_of_environment
from rayml.stages.serve.model import ServedModel, load_model
from rayml.stages.serve.parity import ask_infer, ask_predict, compare, load_frozen
from rayml.stages.serve.wire import App

AGAIN = "submit the job again: rayml submit JOB --cluster FILE"


def app(args: dict[str, Any]) -> Any:
    """The `ray.serve.Application` of an endpoint.

    Args:
        args: of rayml.stages.serve.arguments.ServeArguments.
    Raises:
        StageError: the arguments are wrong, or the run has not decided which model it is.
    """
    arguments = read_arguments(args)
    # Decided once: replicas that are added later serve the same model.
    key = arguments.artifact or decided_artifact(open_artifacts(arguments.storage, "serve"), arguments)

    def build() -> App:
        return build_replica(arguments, key)

    return make_application(build, settings_of(arguments))


def settings_of(arguments: ServeArguments) -> Settings:
    """Host and port are Serve's own, from the same serveConfigV2."""
    return Settings(
        replicas_min=arguments.min_replicas,
        replicas_max=arguments.max_replicas,
        cpus=arguments.cpus,
        max_body=arguments.max_body,
        max_rows=arguments.max_rows,
        auth=arguments.key,
    )


def build_replica(arguments: ServeArguments, artifact: str) -> App:
    """The application of one replica, which has answered as the trained checkpoint did.

    Raises:
        StageError: there is no key or no model.
        GateError: it answers otherwise.
        BackendError: the storage cannot be reached.
    """
    key = key_of_environment() if arguments.key else None
    folder = fetch_model(open_artifacts(arguments.storage, "serve"), arguments, artifact)
    model = load_model(folder, threads=arguments.cpus)
    answering = app_of(model, settings_of(arguments), None if key is None else hash_key(key))
    prove(Inside(answering, key), model, folder, arguments)
    return answering


def fetch_model(store: Store, arguments: ServeArguments, artifact: str) -> Path:
    """The folder of the exported model on this host. StageError where the storage has none, or a damaged one."""
    found = store.find("export", artifact)
    if found is not None:
        return found.path
    damage = store.damage("export", artifact)
    what = f"is damaged: {damage[0].file} {damage[0].what}" if damage else "is not in the storage"
    raise StageError(
        f"the exported model {artifact[:12]} of the run {arguments.run} {what}",
        where=f"{arguments.storage}/artifacts",
        hint=f"{AGAIN}, which makes what is missing",
    )


def decided_artifact(store: Store, arguments: ServeArguments) -> str:
    """The key of the model that the run's sweep has decided on. StageError where it has not."""
    plan = read_plan(store, arguments.run)
    undecided = plan is None or (plan.decision is None and any(step.name == "tune" for step in plan.steps))
    if plan is None or undecided:
        raise StageError(
            f"the run {arguments.run} {'has left no plan' if plan is None else 'has not decided on a model'}",
            where=f"{arguments.storage}/runs/{arguments.run}/plan.json",
            hint=f"rayml status {arguments.run} --storage {arguments.storage} says how it stands; {AGAIN}",
        )
    return plan.step("export").key


def read_plan(store: Store, run: str) -> Plan | None:
    """The plan of a run as its driver has left it beside the artifacts; None where there is none."""
    runs = runs_beside(store)
    if isinstance(runs, Bucket):
        found = runs.read(f"{run}/plan.json")
        content = None if found is None else found[0]
    else:
        path = runs / run / "plan.json"
        content = path.read_bytes() if path.is_file() else None
    try:
        return None if content is None else Plan.model_validate_json(content)
    except ValidationError:
        return None


def prove(asker: Inside, model: ServedModel, folder: Path, arguments: ServeArguments) -> None:
    """Hold the answers to the frozen rows against those of the trained checkpoint, asked in both ways.

    Raises:
        GateError: they differ by more than the job allows.
    """
    frozen = load_frozen(folder, arguments.samples)
    schema = model.schema
    for name, answers in (
        ("infer", ask_infer(asker, model.name, schema.feature.name, frozen.inputs, arguments.max_rows)),
        ("predict", ask_predict(asker, schema.classes, frozen.inputs, arguments.max_rows)),
    ):
        difference, mismatches, worst = compare(frozen, schema.classes, answers)
        found = {"parity_max_abs_diff": difference, "parity_label_mismatches": float(mismatches)}
        for metric, bound in arguments.gates.items():
            holds, limit = parse_gate(bound)
            if not holds(found[metric], limit):
                raise GateError(
                    f"this replica answers {name} otherwise than the trained checkpoint: {metric} is "
                    f"{found[metric]:.6g}, the gate asks for {bound}; worst sample {worst['sample_id']}, "
                    f"{worst['tensor']} expected {worst['expected']:.6g}, got {worst['got']:.6g}",
                    where="serve gate",
                    hint="the model's file or its runtime is not the one of the export: compare onnxruntime of the "
                    "image with the one that exported it",
                )
