"""The harness on made-up work in virtual time: the order of laps, the ratio and its interval, the proof of work."""

from __future__ import annotations

import json
import random

import pytest

from rayml.bench.harness import Contest, Goal, Lap, bootstrap, compete, document, refuse_unequal, verdict
from rayml.bench.machine import SystemTimes
from rayml.errors import StageError


class VirtualMachine:
    """A clock that only work moves forward. It gets slower by `drift` per second, as a shared machine may."""

    def __init__(self, drift: float = 0.0) -> None:
        self.now, self.drift, self.order, self.busy = 0.0, drift, [], 0.0

    def side(self, name, seconds, cpu=1.0, proof=None, first=None, noise=None):
        laps = []

        def lap():
            work = first if first is not None and not laps else seconds
            laps.append(work)
            took = work * (1 + self.drift * self.now) * (1 if noise is None else noise.lognormvariate(0, 0.05))
            self.order.append(name)
            self.now += took
            self.busy += took * cpu
            return Lap(value=took, cpu_s=took * cpu, proof=proof)

        return lap

    def times(self):
        return SystemTimes(busy_s=self.busy + 0.1 * self.now, steal_s=0.05 * self.now, total_s=2 * self.now)


def contest(machine, ours, alternative=None, **changes):
    settings = {"name": "work", "unit": "s", "better": "less", "ours": ours, "alternative": alternative}
    return Contest(**{**settings, "alternative_is": "the other one", **changes})


def test_laps_are_interleaved_and_the_warm_up_is_dropped():
    machine = VirtualMachine()
    ours = machine.side("A", 2.0, first=50.0)
    row = compete(contest(machine, ours, machine.side("B", 3.0, first=70.0)), pairs=5, times=machine.times)
    assert "".join(machine.order) == "BA" + "ABBAABBAAB"
    assert (row.ours, row.alternative, row.ratio, row.pairs) == (2.0, 3.0, 1.5, 5)
    assert row.interval == (1.5, 1.5)


@pytest.mark.parametrize(
    ("better", "ours", "alternative", "ratio"),
    [("less", 2.0, 5.0, 2.5), ("less", 5.0, 2.0, 0.4), ("more", 5.0, 2.0, 2.5), ("more", 2.0, 5.0, 0.4)],
)
def test_a_ratio_above_one_means_that_ours_is_better(better, ours, alternative, ratio):
    machine = VirtualMachine()
    sides = machine.side("A", ours), machine.side("B", alternative)
    row = compete(contest(machine, *sides, better=better), pairs=6, times=machine.times)
    assert row.ratio == pytest.approx(ratio)


def test_a_machine_that_gets_slower_does_not_change_the_ratio():
    """Half as fast again at the end: A A A ... B B B would say 1.9; interleaved it says what is true."""
    machine = VirtualMachine(drift=0.02)
    row = compete(
        contest(machine, machine.side("A", 1.0), machine.side("B", 1.2)), pairs=20, times=machine.times, warm_up=0
    )
    assert row.ratio == pytest.approx(1.2, rel=0.02)
    assert row.alternative > 1.5, "the drift was there"


def test_the_interval_covers_the_true_ratio():
    """Of 200 benches with noise of 5 % per lap, about 95 in 100 intervals hold the ratio of 1.1."""
    covered = 0
    for seed in range(200):
        machine, noise = VirtualMachine(), random.Random(seed)
        sides = machine.side("A", 1.0, noise=noise), machine.side("B", 1.1, noise=noise)
        row = compete(contest(machine, *sides), pairs=11, times=machine.times)
        low, high = row.interval
        assert low <= row.ratio <= high
        covered += low <= 1.1 <= high
    assert 180 <= covered <= 200


def test_the_interval_is_repeatable_and_narrows_with_more_pairs():
    draw = random.Random(3)
    values = [draw.gauss(1.0, 0.1) for _ in range(80)]
    assert bootstrap(values) == bootstrap(values)
    few, many = bootstrap(values[:8]), bootstrap(values)
    assert many[1] - many[0] < few[1] - few[0]


def test_processor_time_steal_and_other_processes_are_counted():
    machine = VirtualMachine()
    sides = machine.side("A", 2.0, cpu=1.0), machine.side("B", 2.0, cpu=1.5)
    row = compete(contest(machine, *sides), pairs=5, times=machine.times)
    assert (row.ours_cpu_s, row.alternative_cpu_s, row.cpu_ratio) == (2.0, 3.0, 1.5)
    assert row.steal == pytest.approx(0.05 / 2)
    assert row.others == pytest.approx(0.1 / 2)


def test_no_alternative_is_a_row_without_a_ratio():
    machine = VirtualMachine()
    row = compete(
        contest(machine, machine.side("A", 2.0), check=differs, goal=Goal(3.0, "ours")), pairs=5, times=machine.times
    )
    assert machine.order == ["A"] * 6
    assert (row.ratio, row.interval, row.alternative, row.alternative_is, row.same_work) == (None,) * 5
    assert row.met is True


def differs(ours, alternative):
    return None if ours == alternative else f"loss {ours} is not {alternative}"


@pytest.mark.parametrize("warm_up", [0, 1])
def test_work_that_differs_is_told_and_refused(warm_up):
    machine = VirtualMachine()
    sides = machine.side("A", 1.0, proof=0.25), machine.side("B", 1.0, proof=0.26)
    row = compete(contest(machine, *sides, check=differs), pairs=5, warm_up=warm_up, times=machine.times)
    assert (row.same_work, row.difference) == (False, "loss 0.25 is not 0.26")
    with pytest.raises(StageError, match=r"work: loss 0.25 is not 0.26") as refused:
        refuse_unequal(document("träumen", "quick", {}, "rayml bench träumen", [row]))
    assert refused.value.exit_code == 4


def test_a_difference_in_the_warm_up_alone_is_found_too():
    machine = VirtualMachine()
    proofs = iter([1, 2, 2, 2])
    good = machine.side("B", 1.0, proof=2)

    def ours():
        return Lap(value=1.0, proof=next(proofs))

    row = compete(contest(machine, ours, good, check=differs), pairs=3, times=machine.times)
    assert row.same_work is False


def test_work_that_is_the_same_passes():
    machine = VirtualMachine()
    sides = machine.side("A", 1.0, proof=[1, 2]), machine.side("B", 1.0, proof=[1, 2])
    row = compete(contest(machine, *sides, check=differs), pairs=5, times=machine.times)
    assert row.same_work is True
    refuse_unequal(document("x", "quick", {}, "rayml bench x", [row]))


@pytest.mark.parametrize(
    ("goal", "ours", "ratio", "interval", "met"),
    [
        (None, 1.0, 2.0, (1.9, 2.1), None),
        (Goal(0.5, "ours"), 0.5, None, None, True),
        (Goal(0.5, "ours"), 0.51, 9.0, (8.0, 10.0), False),
        (Goal(25.0, "ours_at_least"), 25.0, None, None, True),
        (Goal(25.0, "ours_at_least"), 24.9, 9.0, (8.0, 10.0), False),
        (Goal(1.0, "ratio"), 7.0, 1.02, (1.00, 1.05), True),
        (Goal(1.0, "ratio"), 7.0, 0.995, (0.985, 1.01), True),
        (Goal(1.0, "ratio"), 7.0, 1.10, (0.90, 1.30), None),
        (Goal(1.0, "ratio"), 7.0, 0.99, (0.981, 0.999), False),
        (Goal(1.0, "ratio"), 7.0, 1.10, None, None),
    ],
)
def test_a_verdict_is_given_on_the_interval(goal, ours, ratio, interval, met):
    assert verdict(goal, ours, ratio, interval) is met


def test_the_document_is_what_the_design_promises():
    machine = VirtualMachine()
    sides = machine.side("A", 1.0, proof=1), machine.side("B", 1.5, proof=1)
    measured = contest(machine, *sides, check=differs, goal=Goal(1.0, "ratio"), limit=0.5, limit_is="the light")
    rows = [
        compete(measured, pairs=7, times=machine.times),
        compete(contest(machine, machine.side("A", 1.0)), pairs=5, times=machine.times),
    ]
    found = document("train", "quick", {"cpus": 2}, "rayml bench train --quick", rows)
    assert json.loads(json.dumps(found)) == found
    assert {"bench", "machine", "mode", "pairs", "rows"} <= found.keys()
    assert (found["bench"], found["mode"], found["pairs"]) == ("train", "quick", 7)
    first, second = found["rows"]
    promised = "name unit ours alternative alternative_is ratio interval cpu_ratio same_work limit goal met"
    assert set(promised.split()) <= first.keys()
    assert first["ratio"] == 1.5
    assert first["interval"] == [1.5, 1.5]
    assert (first["same_work"], first["limit"], first["goal"], first["met"]) == (True, 0.5, 1.0, True)
    assert (second["ratio"], second["interval"], second["goal"], second["met"]) == (None, None, None, None)
