"""Run folders as the runner leaves them, with artifacts in a real store: passed, cached, failed, cut off."""

from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from rayml.artifacts.manifest import Manifest, digest
from rayml.artifacts.store import LocalStore
from rayml.observe.events import EventLog
from rayml.plan.plan import ClusterPlan, Plan, Resources, Step

STARTED = 1_795_303_578.125
DIGITS = tuple(str(digit) for digit in range(10))
RUN = "ziffern-20261121-232618-4f1a"
ENVIRONMENT = {"python": "3.12.8", "ray": "2.60.0", "torch": "2.14.1", "processor": "AMD EPYC 7R13 <48 cores>"}


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, size=(8, 8), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((96, 96), Image.Resampling.NEAREST).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def history(epochs):
    return [
        {
            "epoch": epoch,
            "step_index": 23 * epoch,
            "train/loss": 2.3 * math.exp(-epoch / 3),
            "val/loss": 2.2 * math.exp(-epoch / 3) + 0.004 * epoch,
            "val/accuracy": round(0.985 - 0.6 * math.exp(-epoch / 2) - (0.005 if epoch == epochs else 0), 4),
            "seconds": 0.41 + 0.02 * (epoch % 3),
            "samples_per_s": 3480.5 - epoch,
            "rows_seen": 1437,
        }
        for epoch in range(1, epochs + 1)
    ]


def evaluation(classes, rows=180, tabular=False):
    """A model that is right on most rows of every class and takes some of each class for the next one."""
    count = len(classes)
    support = [rows // count + (index < rows % count) for index in range(count)]
    confusion = np.zeros((count, count), dtype=int)
    for index, total in enumerate(support):
        missed = 1 if index % 3 == 1 and total > 1 else 0
        confusion[index, index] = total - missed
        confusion[index, (index + 1) % count] += missed
    accuracy = float(np.trace(confusion) / confusion.sum())
    estimate = {"value": accuracy, "low": accuracy - 0.022, "high": min(1.0, accuracy + 0.017)}
    names = ("accuracy", "precision_macro", "recall_macro", "f1_macro", "precision_weighted", "recall_weighted")
    metrics = {name: {**estimate} for name in (*names, "f1_weighted")}
    metrics["roc_auc"] = {"value": 0.9994, "low": 0.9981, "high": 1.0}
    predicted = confusion.sum(axis=0)
    return {
        "split": "test",
        "rows": int(confusion.sum()),
        "classes": list(classes),
        "absent": [],
        "metrics": metrics,
        "per_class": [
            {
                "class": name,
                "precision": float(confusion[index, index] / max(predicted[index], 1)),
                "recall": float(confusion[index, index] / max(support[index], 1)),
                "f1": float(2 * confusion[index, index] / (predicted[index] + support[index])),
                "support": int(support[index]),
                "roc_auc": 0.9991 if index else None,
            }
            for index, name in enumerate(classes)
        ],
        "confusion": confusion.tolist(),
        "samples": [sample(classes, index, right=False, tabular=tabular) for index in range(3)]
        + [sample(classes, index, right=True, tabular=tabular) for index in range(12)],
    }


def sample(classes, index, *, right, tabular):
    label = classes[index % len(classes)]
    predicted = label if right else classes[(index + 1) % len(classes)]
    probability = 0.9993 - 0.004 * index if right else 0.83 - 0.1 * index
    others = [name for name in classes if name != predicted][:2]
    shown = {"record": {"Länge": 1.5, "Breite": None}} if tabular else {"image": picture(index)}
    return {
        "sample_id": 1000 + 7 * index,
        "label": label,
        "predicted": predicted,
        "probability": probability,
        "top": [[predicted, probability], *[[name, (1 - probability) / 2] for name in others]],
        **shown,
    }


def make_plan(job, classes):
    train_resources = Resources(workers=2, cpus_per_worker=1, ray=True)
    stages = {
        "data": ({"source": {"kind": "sklearn", "name": "digits"}, "split": {"train": 0.8, "val": 0.1}}, {}, ()),
        "train": (
            {
                "model": {"kind": "small_cnn", "width": 32},
                "epochs": 15,
                "optimizer": {"kind": "adamw", "lr": 2.0e-3, "betas": [0.9, 0.999]},
                "best": {"metric": "val/accuracy", "goal": "max"},
            },
            {"retries": 2, "checkpoint": {"every_steps": None, "keep": 2}},
            ("data",),
        ),
        "export": (
            {"formats": ["onnx"], "opset": 20, "parity": {"samples": 64}},
            {"gates": {"parity_max_abs_diff": "<= 0.0001", "parity_label_mismatches": "<= 0"}},
            ("data", "train"),
        ),
        "evaluate": (
            {"split": "test", "bootstrap": 1000, "seed": 7},
            {"gates": {"accuracy": ">= 0.9"}},
            ("data", "export"),
        ),
        "serve": (
            {"name": job, "auth": "bearer", "parity": {"samples": 64}},
            {
                "host": "127.0.0.1",
                "gates": {"parity_max_abs_diff": "<= 0.0001", "parity_label_mismatches": "<= 0"},
            },
            ("export",),
        ),
    }
    keys, steps = {}, []
    for name, (config, policy, needs) in stages.items():
        inputs = {need: keys[need] for need in needs}
        keys[name] = digest({"stage": name, "config": config, "inputs": inputs, "classes": list(classes)})
        resources = train_resources if name == "train" else Resources(cpus_per_worker=2)
        steps.append(
            Step(
                name=name,
                config=config,
                policy=policy,
                inputs=inputs,
                code=digest(name),
                key=keys[name],
                resources=resources,
            )
        )
    return Plan(
        rayml="0.1.0",
        job=job,
        seed=7,
        job_file=f"jobs/{job}.yaml",
        base="/jobs",
        code=None,
        cluster=ClusterPlan(cpus=2, gpus=0, object_store=2**30),
        steps=tuple(steps),
    )


def outcome(name, classes, epochs, document):
    """Files, metrics and facts of a step."""
    worst = {"sample_id": 1371, "class": classes[0], "expected": 0.7310586, "got": 0.7310587, "difference": 1.19e-7}
    if name == "data":
        rows = [143 + index % 3 for index in range(len(classes))]
        counts = {"train": rows, "val": [18] * len(classes), "test": [18] * len(classes)}
        facts = {"classes": list(classes), "class_counts": counts, "shape": [8, 8, 1]}
        return {"train-00000.arrow": "A" * 9000, "schema.json": "{}"}, {"rows": 1797.0}, facts
    if name == "train":
        metrics = {"val/accuracy": 0.9845, "best_epoch": 14.0, "samples_per_s": 3475.2}
        return {"history.json": json.dumps(history(epochs)), "model.safetensors": "W" * 94000}, metrics, {}
    if name == "export":
        metrics = {"parity_max_abs_diff": 1.19e-7, "parity_label_mismatches": 0.0, "size_bytes": 96234.0}
        return {"model.onnx": "O" * 96234}, metrics, {"opset": 20, "worst": worst}
    if name == "evaluate":
        text = json.dumps(document, ensure_ascii=False)
        metrics = {metric: estimate["value"] for metric, estimate in document["metrics"].items()}
        return {"evaluation.json": text, "predictions.parquet": "PAR1"}, metrics, {"split": "test"}
    metrics = {"parity_max_abs_diff": 1.8e-7, "latency_p50_ms": 1.92, "latency_p99_ms": 3.41}
    example = {"sample_id": 1371, "label": classes[-1], "probability": 0.9998}
    return (
        {"endpoint.json": "{}"},
        metrics,
        {"checks": [{"name": "health without a key", "detail": "live and ready"}], "worst": worst, "example": example},
    )


class Runs:
    """Makes run folders that share one store."""

    IMAGE = f"registry.example:5000/team/rayml@sha256:{'1' * 64}"

    def __init__(self, root):
        self.root = root
        self.store = LocalStore(root / "artifacts")
        self.made_with = {}

    def submit(self, folder, number, **changes):
        """A record of who started a run, as `rayml submit` leaves it."""
        said = {
            "run": folder.name,
            "time": f"2026-11-21T2{number}:20:07.512+00:00",
            "user": "jürgen",
            "host": "laptop-7",
            "rayml": "0.1.0",
            "rayml_code": digest("rayml"),
            "cluster": "kuberay",
            "storage": "s3://bucket/rayml",
            "plan": digest("plan"),
            "code": None,
            "image": self.IMAGE,
            "request": digest("request"),
        }
        path = folder / "submitted" / f"20261121T2{number}2007Z.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**said, **changes}), encoding="utf-8")

    def make(self, *, classes=DIGITS, job="ziffern", run=RUN, fate="passed", stop_in=None, tabular=False, epochs=15):
        """A run folder. `fate` is passed, failed, gate, interrupted or killed; all but passed end in `stop_in`."""
        plan = make_plan(job, classes)
        folder = self.root / "runs" / run
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(plan.model_dump_json(indent=1), encoding="utf-8")
        self.clock, self.folder = STARTED, folder
        self.log("run_started", run=run, job=job, job_file=plan.job_file, rayml="0.1.0", host="werkbank")
        document = evaluation(classes, rows=max(180, 4 * len(classes)), tabular=tabular)
        end = {"status": "done", "exit_code": 0, "error": None}
        for step in plan.steps:
            stops = step.name == stop_in
            if stops and fate != "gate":
                end = self.stop(step, fate, epochs)
                break
            self.finish(plan, step, outcome(step.name, classes, epochs, document), run, epochs)
            if stops:
                end = self.refuse(step)
                break
        if end is not None:
            self.log("run_done", **end, seconds=round(self.clock - STARTED, 3))
        return folder

    def finish(self, plan, step, result, run, epochs):
        """The step's events and its artifact, or the event that says it was there."""
        files, metrics, facts = result
        found = self.store.find(step.name, step.key)
        if found is not None:
            self.log("step_cached", step=step.name, key=step.key, reason=f"made by {found.manifest.run}")
        else:
            self.log("step_started", step=step.name, key=step.key, attempt=1)
            for record in history(epochs) if step.name == "train" else []:
                self.log("epoch", after=record["seconds"], step=step.name, **record)
            seconds = {"data": 3.1, "train": 9.6, "export": 1.9, "evaluate": 0.22, "serve": 7.5}[step.name]
            self.commit(plan, step, files, metrics, facts, run, seconds)
            self.log(
                "step_done",
                after=seconds if step.name != "train" else 3.1,
                step=step.name,
                key=step.key,
                seconds=seconds,
                metrics=metrics,
            )
        for metric, bound in step.policy.get("gates", {}).items():
            value = metrics.get(metric, 0.0)
            self.log("gate", step=step.name, metric=metric, value=value, bound=bound, passed=True)

    def stop(self, step, fate, epochs):
        """The events of a step that does not end well."""
        self.log("step_started", step=step.name, key=step.key, attempt=1)
        if step.name == "train":
            for record in history(epochs)[:6]:
                self.log("epoch", after=record["seconds"], step=step.name, **record)
            self.log("progress", step=step.name, epoch=7, epochs=epochs, batch=4, batches=23, loss=0.4)
        if fate != "failed":
            return {"status": "interrupted", "exit_code": 130, "error": None} if fate == "interrupted" else None
        error = {
            "type": "StageError",
            "exit_code": 4,
            "what": "worker 1 of 2 failed: ValueError: <b>größer</b> als erlaubt",
            "where": step.name,
            "hint": "its last lines:\n    line one\n    line two",
        }
        self.log("retry", step=step.name, attempt=1, reason="the worker died", after_s=1)
        self.log("step_started", step=step.name, key=step.key, attempt=2)
        self.log("step_failed", after=4.0, step=step.name, error=error)
        return {"status": "failed", "exit_code": 4, "error": error}

    def refuse(self, step):
        """The last gate of a finished step is not met."""
        metric, bound = list(step.policy["gates"].items())[-1]
        self.log("gate", step=step.name, metric=metric, value=0.9111, bound=bound, passed=False)
        error = {
            "type": "GateError",
            "exit_code": 3,
            "what": f"{metric} is 0.9111, the gate asks for {bound}",
            "where": f"{step.name} gate",
            "hint": "what was made is kept",
        }
        return {"status": "failed", "exit_code": 3, "error": error}

    def commit(self, plan, step, files, metrics, facts, run, seconds):
        out = self.store.staging(step.name, step.key)
        for name, content in files.items():
            (out / name).write_text(content, encoding="utf-8")
        self.store.commit(
            out,
            Manifest(
                kind=step.name,
                key=step.key,
                files=(),
                config=step.config,
                inputs=step.inputs,
                code=step.code,
                metrics=metrics,
                facts=facts,
                environment=ENVIRONMENT,
                made_with=self.made_with,
                run=run,
                job=plan.job,
                created="2026-11-21T23:26:41.512+00:00",
                seconds=seconds,
            ),
        )

    def log(self, kind, after=0.15, **fields):
        """Append one event, `after` seconds later than the last."""
        self.clock += after
        log = EventLog(self.folder / "events.jsonl")
        log.emit(kind, **{**fields, "t": round(self.clock, 3)})
        log.close()


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)
