"""What the page shows of a compression, worked out from its record: before and after, rung by rung, and the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from rayml.report import compress_svg, words
from rayml.report.compress import Record, chosen_rung

TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
UNCOMPRESSED = "uncompressed"
SETTINGS = {"1x1": (1, 1), "1x32": (1, 32), "2x1": (2, 1), "2x32": (2, 32)}
"""Latency's key in a row to threads and batch. Others are shown as they are written."""
PILLS = {"chosen": "good", "kept": "calm", "refused": "warn", "unfinished": "warn"}
BEST = {"size": ("smallest", "smaller"), "latency": ("fastest", "faster")}
BOUNDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "metric_drop": ("Accuracy lost", ("accuracy", "drop")),
    "agreement": ("Same answer", ("agreement", "value")),
    "size": ("File size", ("bytes",)),
    "p50_ms": ("Latency, p50", ("latency", "1x1", "p50_ms")),
    "p95_ms": ("Latency, p95", ("latency", "1x1", "p95_ms")),
    "ram": ("RAM", ("ram",)),
}
"""A bound of the budget: its name on the page, and where a row has the number."""


def compress_view(document: Record | None, step: Record | None) -> dict[str, Any] | None:
    """Everything that the section shows; None where no rung was heard of.

    Args:
        document: `compress` of the record.
        step: the step of the record that made it.
    """
    if document is None or not document["rungs"]:
        return None
    chosen = chosen_rung(document)
    whole = find(document, UNCOMPRESSED)
    most = {name: max_of(document["rungs"], *path) for name, path in (("size", SIZE), ("latency", P50))}
    return {
        "sentence": sentence(document, step),
        "tiles": tiles(chosen, whole) if chosen else [],
        "rungs": [rung_view(rung, document, most) for rung in document["rungs"]],
        "has_whole": whole is not None,
        "has_interval": any(dig(rung["row"], "accuracy", "low") is not None for rung in document["rungs"]),
        "budget": budget_view(document, chosen),
        "found": "Found" if chosen else "Best",
        "picture": picture(document),
        "machine": machine(document["rungs"]),
    }


SIZE, P50, P95 = ("bytes",), ("latency", "1x1", "p50_ms"), ("latency", "1x1", "p95_ms")


def header_tiles(document: Record | None) -> list[tuple[str, str, str]]:
    """For the head of the page: how much was gained."""
    chosen, whole = chosen_rung(document), find(document, UNCOMPRESSED) if document else None
    if chosen is None or whole is None or chosen is whole:
        return []
    faster = times(dig(chosen["row"], "latency", "1x1", "ratio"))
    return [("Compressed", times(smaller_by(chosen, whole)), f"smaller, {faster} as fast")]


def find(document: Record, name: str) -> Record | None:
    """A rung by its name."""
    return next((rung for rung in document["rungs"] if rung["name"] == name), None)


def dig(row: Any, *path: str) -> Any:
    """A measured number; None where this run did not measure it, or another version wrote no such thing."""
    for name in path:
        row = row.get(name) if isinstance(row, dict) else None
    return row


def max_of(rungs: Sequence[Record], *path: str) -> float | None:
    """Of the uncompressed model, or the largest that is known where the run did not tell of it."""
    first = dig(rungs[0]["row"], *path) if rungs[0]["name"] == UNCOMPRESSED else None
    return first or max((dig(rung["row"], *path) or 0.0 for rung in rungs), default=0.0) or None


def smaller_by(rung: Record, whole: Record) -> float | None:
    """How many times smaller the file is."""
    before, after = dig(whole["row"], *SIZE), dig(rung["row"], *SIZE)
    return before / after if before and after else None


def share_of(rung: Record, whole: Record) -> float | None:
    """The file as a share of the uncompressed model's."""
    smaller = smaller_by(rung, whole)
    return 1 / smaller if smaller else None


def sentence(document: Record, step: Record | None) -> str:
    """Which candidate goes on, or why none does."""
    inside = [rung for rung in document["rungs"] if rung["status"] == "kept" and not missed(rung, document)]
    kept = sum(rung["status"] == "kept" for rung in document["rungs"])
    best, better = BEST.get(document["prefer"], BEST["size"])
    if document["chosen"] is None:
        return no_result(document, step)
    if document["chosen"] == UNCOMPRESSED:
        return f"The uncompressed model goes on: no candidate inside the budget is {better}."
    if len(inside) == 1 and kept > 1:
        return f"{document['chosen']} goes on: the only one of {kept} candidates inside the budget."
    count = f"{len(inside)} candidates" if len(inside) == kept else f"{len(inside)} of {kept} candidates"
    return f"{document['chosen']} goes on: the {best} of {count} inside the budget."


def no_result(document: Record, step: Record | None) -> str:
    """Of a ladder that ended without a candidate."""
    if step is not None and step["error"]:
        return f"No candidate goes on: {step['error']['what']}."
    passes = [rung for rung in document["rungs"] if rung["name"] != UNCOMPRESSED]
    ended = sum(rung["status"] != "unfinished" for rung in passes)
    return f"The ladder was not walked to its end: {words.count(ended, 'rung')} measured so far."


def tiles(chosen: Record, whole: Record | None) -> list[tuple[str, str, str]]:
    """Before and after: (name, value, remark)."""
    row, before = chosen["row"], whole["row"] if whole else {}
    return [
        ("File", f"{times(smaller_by(chosen, whole) if whole else None)} smaller",
         f"{words.size(dig(before, *SIZE))} to {words.size(dig(row, *SIZE))}"),
        ("Latency, p50", f"{times(dig(row, 'latency', '1x1', 'ratio'))} as fast",
         f"{milliseconds(dig(before, *P50))} to {milliseconds(dig(row, *P50))}"),
        ("Accuracy", signed(lost(row, "drop")),
         f"{number(dig(before, 'accuracy', 'value'))} to {number(dig(row, 'accuracy', 'value'))}"),
        ("Same answer", words.percent(dig(row, "agreement", "value")), "of the rows as before"),
        ("RAM", words.size(dig(row, "ram")), f"before {words.size(dig(before, 'ram'))}"),
    ]  # fmt: skip


def rung_view(rung: Record, document: Record, most: dict[str, float | None]) -> Record:
    """A row of the table and what is folded below it."""
    row, is_whole = rung["row"], rung["name"] == UNCOMPRESSED
    whole = find(document, UNCOMPRESSED)
    state = "chosen" if rung["name"] == document["chosen"] else rung["status"]
    outside = missed(rung, document) if rung["status"] == "kept" else []
    return {
        "name": rung["name"],
        "about": essence(rung["config"]),
        "pill": PILLS.get(state, "open"),
        "status": "before" if is_whole and state != "chosen" else state,
        "style": "best" if state == "chosen" else "kept" if state == "kept" else "dim",
        "why": rung["why"],
        "outside": ", ".join(f"{BOUNDS[name][0]} {bound_text(name, document['budget'][name])}" for name in outside),
        "size": words.size(dig(row, *SIZE)),
        "smaller": "" if is_whole or whole is None else known(times(smaller_by(rung, whole))),
        "share": "" if is_whole or whole is None else known(words.percent(share_of(rung, whole))),
        "size_bar": bar(dig(row, *SIZE), most["size"]),
        "p50": milliseconds(dig(row, *P50)),
        "faster": "" if is_whole else known(times(dig(row, "latency", "1x1", "ratio"))),
        "tail": tail(dig(row, "latency", "1x1") or {}),
        "latency_bar": bar(dig(row, *P50), most["latency"]),
        "accuracy": number(dig(row, "accuracy", "value")),
        "difference": "" if is_whole else known(signed(lost(row, "drop"))),
        "interval": "" if is_whole else interval(row),
        "agreement": words.MISSING if is_whole else words.percent(dig(row, "agreement", "value")),
        "ram": words.size(dig(row, "ram")),
        "parameters": compact(dig(row, "parameters")),
        "operations": compact(dig(row, "multiply_adds")),
        "latencies": [latency_view(key, value) for key, value in (dig(row, "latency") or {}).items()],
        "facts": facts(rung),
        "config": rung["config"],
        "pass": rung["pass"] or {},
    }


def essence(config: Record) -> str:
    """What a pass does, in a few words."""
    kind = config.get("kind")
    if kind == "distill":
        student = dict(config.get("student") or {})
        name = student.pop("kind", "student")
        sizes = [f"{key} {value:g}" for key, value in student.items() if isinstance(value, int | float) and value != 1]
        return ", ".join([str(name), *sizes[:2]])
    if kind == "prune":
        way = next((name for name in ("structured", "unstructured", "pattern") if config.get(name)), "")
        return f"{way} {config[way]}" if way else ""
    if kind == "factorize":
        return ", ".join(f"{name} {config[name]:g}" for name in ("energy", "rank") if config.get(name))
    if kind == "share":
        return f"every {config.get('every', '')}".strip()
    return str(config.get({"quantize": "scheme", "optimize": "level"}.get(str(kind), ""), ""))


def tail(single: Record) -> str:
    """The slow calls."""
    known = [(name, single.get(f"{name}_ms")) for name in ("p95", "p99")]
    return ", ".join(f"{name} {value:.3g}" for name, value in known if value is not None)


def interval(row: Record) -> str:
    """95 % interval of the difference in accuracy: what was lost the other way round."""
    low, high = lost(row, "high"), lost(row, "low")
    return "" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def lost(row: Record, name: str) -> float | None:
    """A drop of accuracy as the difference that it makes."""
    value = dig(row, "accuracy", name)
    return None if value is None else -value


def latency_view(key: str, row: Record) -> Record:
    """One latency setting."""
    threads, batch = SETTINGS.get(key, (None, None))
    low, high = row.get("ratio_low"), row.get("ratio_high")
    return {
        "name": f"{words.count(threads, 'thread')}, batch of {batch}" if threads and batch else key,
        "times": [milliseconds(row.get(f"{name}_ms")) for name in ("p50", "p95", "p99")],
        "rows": compact(row.get("rows_per_s")),
        "ratio": times(row.get("ratio")),
        "interval": "" if low is None or high is None else f"{times(low)} to {times(high)}",
    }


def facts(rung: Record) -> list[tuple[str, str]]:
    """What is said of a rung in words."""
    row, is_whole = rung["row"], rung["name"] == UNCOMPRESSED
    said = [
        ("Answers", "" if is_whole else answers_text(dig(row, "agreement") or {})),
        ("Frozen rows", "" if is_whole else parity_text(dig(row, "parity") or {})),
        ("Diverges", divergence_text(rung["diverges"] or {})),
        ("Loss", f"{row['loss']:.4f} nats per row" if dig(row, "loss") is not None else ""),
        ("Energy", energy_text(dig(row, "energy") or {})),
        ("Not counted", f"multiply-adds: {dig(row, 'multiply_adds_why')}" if dig(row, "multiply_adds_why") else ""),
        ("Took", words.duration(rung["seconds"]) if rung["seconds"] is not None else ""),
        ("Key", (rung["key"] or "")[:12]),
    ]
    return [(name, text) for name, text in said if text]


def answers_text(agreement: Record) -> str:
    """How the answers on the validation split differ from the uncompressed model's."""
    if agreement.get("rows") is None:
        return ""
    low, high = words.percent(agreement.get("low")), words.percent(agreement.get("high"))
    said = f"{words.percent(agreement.get('value'))} of {words.count(agreement['rows'], 'row')} as before"
    lost, won = agreement.get("only_baseline_right"), agreement.get("only_candidate_right")
    said += f" (95 % interval {low} to {high})"
    if lost is None or won is None:
        return said
    return f"{said}; {words.count(lost, 'row')} right only before, {won} only now"


def parity_text(parity: Record) -> str:
    """The same rows of the test split through both models."""
    if not parity.get("samples"):
        return ""
    said = f"{words.percent(parity.get('agreement'))} of {words.count(parity['samples'], 'row')} as before"
    apart = [f"{name} {words.number(parity.get(key))}" for name, key in (("at most", "max_abs"), ("mean", "mean_abs"))]
    return f"{said}; probabilities differ by {', '.join(apart)}"


def divergence_text(diverges: Record) -> str:
    """The first layer whose output is no longer that of the candidate before (rayml.ml.divergence)."""
    if "layer" not in diverges:
        return ""
    error = diverges.get("error")
    by = "is not a number" if error is None else f"is off by {100 * error:.2g} %"
    said = f"first at {diverges['layer']} ({diverges.get('op', 'layer')}), whose output {by}"
    return f"{said}; {diverges['compared']} tensors compared" if diverges.get("compared") else said


def energy_text(energy: Record) -> str:
    joules, why = energy.get("joules_per_1000"), energy.get("why")
    if joules is not None:
        return f"{joules:.3g} J for 1,000 rows"
    return f"not measured: {why}" if why else ""


def missed(rung: Record, document: Record) -> list[str]:
    """Names of the bounds that a candidate does not keep to."""
    return [name for name in bounds(document) if keeps_to(name, rung, document) is False]


def bounds(document: Record) -> list[str]:
    """Names of the bounds that the job has."""
    return [name for name in BOUNDS if document["budget"].get(name) is not None]


def keeps_to(name: str, rung: Record, document: Record) -> bool | None:
    """Whether a candidate keeps to a bound; None where it was not measured."""
    value, bound = dig(rung["row"], *BOUNDS[name][1]), document["budget"][name]
    if value is None:
        return None
    return bool(value >= bound if name == "agreement" else value <= bound)


def budget_view(document: Record, chosen: Record | None) -> list[Record]:
    """Each bound, what was found, and whether it is kept. Without a result: the best that any candidate reaches."""
    candidates = [rung for rung in document["rungs"] if rung["status"] == "kept"]
    rows = []
    for name in bounds(document):
        best = max if name == "agreement" else min
        measured = [rung for rung in candidates if dig(rung["row"], *BOUNDS[name][1]) is not None]
        shown = chosen or best(measured, key=lambda rung: dig(rung["row"], *BOUNDS[name][1]), default=None)
        kept = sum(keeps_to(name, rung, document) is True for rung in candidates)
        rows.append(
            {
                "name": BOUNDS[name][0],
                "bound": bound_text(name, document["budget"][name]),
                "found": value_text(name, dig(shown["row"], *BOUNDS[name][1])) if shown else words.MISSING,
                "passed": keeps_to(name, shown, document) if shown else None,
                "count": f"{kept} of {len(candidates)}",
            }
        )
    return rows


def bound_text(name: str, bound: float) -> str:
    """A bound as it is read."""
    return f"{'≥' if name == 'agreement' else '≤'} {value_text(name, bound)}"


def value_text(name: str, value: float | None) -> str:
    """A bounded number with its unit."""
    if name in ("size", "ram"):
        return words.size(value)
    if name.endswith("_ms"):
        return milliseconds(value)
    return words.percent(value) if name == "agreement" else number(value)


def picture(document: Record) -> Markup | None:
    """Size and latency of every candidate; None where fewer than two were measured."""
    points = [
        compress_svg.Candidate(
            name=rung["name"],
            label="" if rung["name"] == UNCOMPRESSED else signed(lost(rung["row"], "drop")),
            style="chosen" if rung["name"] == document["chosen"] else "kept" if rung["status"] == "kept" else "dim",
            size=dig(rung["row"], *SIZE),
            p50_ms=dig(rung["row"], *P50),
        )
        for rung in document["rungs"]
        if dig(rung["row"], *SIZE) and dig(rung["row"], *P50)
    ]
    if len(points) < 2:
        return None
    return compress_svg.candidates(points, document["budget"].get("size"), document["budget"].get("p50_ms"))


def machine(rungs: Sequence[Record]) -> str:
    """What it was measured on, as far as the rows tell it."""
    told = next((rung["row"]["processor"] for rung in rungs if dig(rung["row"], "processor")), None) or {}
    flags = f"with {', '.join(told['flags'])}" if told.get("flags") else ""
    return ", ".join(filter(None, [told.get("name"), told.get("machine"), flags]))


def bar(value: float | None, whole: float | None) -> float | None:
    """Width in percent; None where there is nothing to draw."""
    return None if not value or not whole else round(min(100.0, max(1.5, 100 * value / whole)), 1)


def known(text: str) -> str:
    """Nothing in the place of a dash."""
    return "" if text == words.MISSING else text


def times(ratio: float | None) -> str:
    """12, 5.1 or 0.93 times."""
    if ratio is None:
        return words.MISSING
    return f"{ratio:,.0f}{TIMES}" if ratio >= 9.95 else f"{ratio:.{1 if ratio >= 0.995 else 2}f}{TIMES}"


def milliseconds(value: float | None) -> str:
    return words.MISSING if value is None else f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"


def number(value: float | None) -> str:
    return words.MISSING if value is None else f"{value:.4f}"


def signed(difference: float | None) -> str:
    """A difference of accuracies, to four digits."""
    if difference is None:
        return words.MISSING
    return "0" if round(difference, 4) == 0 else f"{difference:+.4f}".replace("-", MINUS)


def compact(count: float | None) -> str:
    """`24.2 k`, `1.42 M`."""
    if count is None:
        return words.MISSING
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= limit * 0.9995:
            return f"{count / limit:.3g}{unit}"
    return f"{count:.3g}"
