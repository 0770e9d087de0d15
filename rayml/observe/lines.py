"""What an event says in one line: for logs, and for the rows of the live table."""

from __future__ import annotations

from collections.abc import Callable

from rayml.observe.events import Event
from rayml.observe.sweep import Trial, decision_text, error_line, metric_text, short_names, value_text
from rayml.spec.tune import COMPRESS_METRICS, EPOCH_METRICS, EXPORT_METRICS

Metrics = dict[str, float]


def metrics_line(event: Event) -> str:
    """What came out of a step that is done."""
    describe = METRICS.get(event["step"])
    return describe(event.get("metrics", {})) if describe else ""


def _data(metrics: Metrics) -> str:
    return f"{metrics['rows']:,.0f} rows, {metrics['classes']:.0f} classes"


def _train(metrics: Metrics) -> str:
    best = f"val/accuracy {metrics['val/accuracy']:.4f} at epoch {metrics['best_epoch']:.0f}"
    return f"{best}, {metrics['samples_per_s']:,.0f} samples/s"


def _export(metrics: Metrics) -> str:
    difference = f"differs from the model before by at most {metrics['parity_max_abs_diff']:.1e}"
    return f"{metrics['size_bytes'] / 1000:,.0f} kB, {difference}"


def _compress(metrics: Metrics) -> str:
    """`12.4x smaller (63 kB), 5.1x faster, accuracy -0.0056, agreement 0.9889`."""
    size = f"{metrics['times_smaller']:.1f}x smaller ({metrics['size_bytes'] / 1000:,.0f} kB)"
    answers = f"accuracy {-metrics['metric_drop']:+.4f}, agreement {metrics['agreement']:.4f}"
    return f"{size}, {metrics['times_faster']:.1f}x faster, {answers}"


def _evaluate(metrics: Metrics) -> str:
    return f"accuracy {metrics['accuracy']:.4f}, f1_macro {metrics['f1_macro']:.4f}"


def _serve(metrics: Metrics) -> str:
    difference = f"the endpoint differs from it by at most {metrics['parity_max_abs_diff']:.1e}"
    return f"{difference}, p50 {metrics['latency_p50_ms']:.1f} ms"


OBJECTIVES = (*EPOCH_METRICS, *COMPRESS_METRICS, *EXPORT_METRICS)
COUNTS = ("done", "stopped", "failed", "unfinished")


def _sweep(metrics: Metrics) -> str:
    """`12 trials (5 done, 6 stopped, 1 failed), best val/accuracy 0.9722, size_bytes 81.2 kB`."""
    counts = [f"{metrics[name]:.0f} {name}" for name in COUNTS if metrics.get(name)]
    best = [f"{name} {metric_text(name, metrics[f'best {name}'])}" for name in OBJECTIVES if f"best {name}" in metrics]
    ended = f"{metrics['trials']:.0f} trials ({', '.join(counts)})"
    return f"{ended}, best {', '.join(best)}" if best else ended


METRICS: dict[str, Callable[[Metrics], str]] = {
    "data": _data,
    "tune": _sweep,
    "train": _train,
    "compress": _compress,
    "export": _export,
    "evaluate": _evaluate,
    "serve": _serve,
}


def trial_line(trial: Trial, epochs: int) -> str:
    """How a trial ended, and with which values it began."""
    said = f"trial {trial['number']} {'FAILED' if trial['status'] == 'failed' else trial['status']}"
    said += f" after {len(trial['epochs'])} of {epochs or '?'} epochs in {trial['seconds'] or 0.0:.1f} s"
    names = short_names(list(trial["point"]))
    parts = [f"{metric} {metric_text(metric, value)}" for metric, value in trial["values"].items()]
    parts += [f"{names[path]}={value_text(value)}" for path, value in trial["point"].items()]
    why = error_line(trial["error"] or "") or trial["reason"]
    return f"{said}: {', '.join(parts)}" + (f" ({why})" if why else "")


def _epoch(event: Event) -> str:
    return (
        f"epoch {event['epoch']}/{event['epochs']}: train/loss {event['train/loss']:.4f}, "
        f"val/loss {event['val/loss']:.4f}, val/accuracy {event['val/accuracy']:.4f}, "
        f"{event['samples_per_s']:,.0f} samples/s"
    )


def _progress(event: Event) -> str:
    return (
        f"epoch {event['epoch']}/{event['epochs']}, step {event['batch']}/{event['batches']}: "
        f"loss {event['loss']:.4f}, {event['samples_per_s']:,.0f} samples/s"
    )


def gate_line(event: Event) -> str:
    verdict = "passed" if event["passed"] else "NOT MET"
    return f"gate {event['metric']} {event['bound']}: {event['value']:.6g}, {verdict}"


def _started(event: Event) -> str:
    return "starts" if event["attempt"] == 1 else f"starts again (attempt {event['attempt']})"


def _rung(event: Event) -> str:
    """A pass of the ladder: that it starts, or what became of it."""
    if event["number"] == 0:
        return f"uncompressed: {event['size_bytes'] / 1000:,.0f} kB, {event['latency_p50_ms']:.3g} ms"
    said = f"rung {event['number']}/{event['of']} {event['name']}"
    if event["status"] == "starts":
        return f"{said} starts"
    answers = f"accuracy {-event['metric_drop']:+.4f}, agreement {event['agreement']:.4f}"
    return f"{said} {event['status']}: {event['why']}; {answers}"


LINES: dict[str, Callable[[Event], str]] = {
    "step_cached": lambda event: f"cached, {event['reason']}",
    "step_started": _started,
    "progress": _progress,
    "epoch": _epoch,
    "rung": _rung,
    "note": lambda event: str(event["text"]),
    "retry": lambda event: f"failed and is tried again: {event['reason'].splitlines()[0]}",
    "step_done": lambda event: f"done in {event['seconds']:.1f} s: {metrics_line(event)}",
    "gate": gate_line,
    "decided": lambda event: f"decided: {decision_text(event)}",
}
