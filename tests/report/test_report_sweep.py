"""The section on a sweep: from its artifact, or from the events of one that has not ended; one objective or several."""

from __future__ import annotations

import json
import math
import random
import re
from xml.etree import ElementTree

import pytest

from rayml.observe.sweep import pareto_front
from rayml.plan.plan import Decision, Plan, Resources, Step
from rayml.report.page import write_report
from rayml.report.record import collect
from rayml.report.scale import Scale, fitted
from rayml.report.sweep_svg import Look
from rayml.report.sweep_time_svg import Span, lanes, running_clock

RUN = "ziffern-20261121-232618-4f1a"

ACCURACY = {"metric": "val/accuracy", "goal": "max"}
SIZE = {"metric": "size_bytes", "goal": "min"}
EPOCHS = 9
RUNGS = (1, 3)
SECTIONS = (
    {"kind": "none"},
    {"kind": "cosine", "warmup_steps": 20, "floor": 0.01},
    {"kind": "step", "every_epochs": 3, "factor": 0.5},
)
SPACE = {
    "train.optimizer.lr": {"loguniform": [3.0e-4, 2.0e-2]},
    "model.width": {"choice": [8, 16, 32, 48]},
    "model.dropout": {"uniform": [0.0, 0.4], "step": 0.1},
    "train.optimizer.kind": {"choice": ["adamw", "sgd"]},
    "train.optimizer.momentum": {"uniform": [0.5, 0.99], "when": {"train.optimizer.kind": "sgd"}},
    "data.augment": {"choice": ["schärfen", "größe ändern", "<nichts> & mehr"]},
    "train.schedule": {"choice": list(SECTIONS)},
    "train.batch_size": {"log_integer": [8, 256]},
}
LONG_ERROR = "Traceback (most recent call last):\n" + "".join(
    f'  File "layer_{line}.py", line {line}, in forward\n    return self.größe(x)\n' for line in range(12)
)
LONG_ERROR += "RuntimeError: CUDA <out of memory>: tried to allocate 3.1 GiB of 2.0 GiB"


def dimensions():
    """The space as the artifact has it."""
    found = []
    for path, spec in SPACE.items():
        kind = next(iter(spec))
        low, high = (None, None) if kind == "choice" else spec[kind]
        values = list(spec[kind]) if kind == "choice" else []
        when = [[key, [value]] for key, value in spec.get("when", {}).items()]
        step = spec.get("step")
        found.append(
            {"path": path, "kind": kind, "low": low, "high": high, "step": step, "values": values, "when": when}
        )
    return found


def draw(dice):
    point = {
        "train.optimizer.lr": math.exp(dice.uniform(math.log(3.0e-4), math.log(2.0e-2))),
        "model.width": dice.choice([8, 16, 32, 48]),
        "model.dropout": dice.choice([0.0, 0.1, 0.2, 0.3, 0.4]),
        "train.optimizer.kind": dice.choice(["adamw", "sgd"]),
        "data.augment": dice.choice(SPACE["data.augment"]["choice"]),
        "train.schedule": dice.choice(SECTIONS),
        "train.batch_size": round(math.exp(dice.uniform(math.log(8), math.log(256)))),
    }
    if point["train.optimizer.kind"] == "sgd":
        point["train.optimizer.momentum"] = round(dice.uniform(0.5, 0.99), 3)
    return point


def curve(point, dice):
    """Accuracy by epoch: best near lr 0.004 and for wide models; some trials hardly learn."""
    far = abs(math.log(point["train.optimizer.lr"] / 0.004))
    top = 0.955 + 0.012 * math.log2(point["model.width"] / 8) - 0.05 * far - 0.1 * point["model.dropout"] ** 2
    pace = 1.1 + far
    return [top - 0.7 * math.exp(-epoch / pace) + dice.gauss(0, 0.006) for epoch in range(1, EPOCHS + 1)]


def make_trial(number, start, seconds, dice, best_at_rungs):
    point, status, reason, error = draw(dice), "done", "", None
    accuracies, ended = curve(point, dice), EPOCHS
    for rung in RUNGS:
        seen = best_at_rungs[rung]
        seen.append(accuracies[rung - 1])
        if len(seen) >= 3 and accuracies[rung - 1] < sorted(seen)[-max(1, len(seen) // 3)]:
            ended, status, reason = rung, "stopped", f"asha: rung of {rung} epochs"
            break
    if number == 5:
        ended, status, reason, error = 2, "failed", "", LONG_ERROR
    each = seconds * (0.6 + point["model.width"] / 40) / EPOCHS
    rows = [
        {
            "epoch": epoch,
            "val/accuracy": accuracies[epoch - 1],
            "val/loss": 2.2 * (1.02 - accuracies[epoch - 1]),
            "train/loss": 2.3 * (1.0 - accuracies[epoch - 1]),
            "samples_per_s": 900.0 + dice.random(),
            "t": round(start + 0.4 + epoch * each, 3),
        }
        for epoch in range(1, ended + 1)
    ]
    values = {} if status == "failed" else {"val/accuracy": max(row["val/accuracy"] for row in rows)}
    if status == "done":
        values["size_bytes"] = 9000.0 + 1130.0 * point["model.width"] ** 1.2
    end = round(start + 0.6 + ended * each, 3)
    return {
        "number": number,
        "point": point,
        "origin": "known" if number == 0 else "draw" if number < 6 else "search",
        "status": status,
        "reason": reason,
        "values": values,
        "epochs": rows,
        "started": start,
        "ended": end,
        "seconds": round(end - start, 3),
        "spans": [],
        "attempts": 2 if number == 9 else 1,
        "error": error,
        "keys": {"train": f"{number:02x}" * 32, "export": f"{number + 1:02x}" * 32},
        "took_over": [],
    }


def make_sweep(trials=24, objectives=(ACCURACY, SIZE), started=1_795_303_582.0, seed=7):
    """A sweep as ASHA leaves it: two slots on the head node, two more on a node that comes and goes."""
    dice, best_at_rungs = random.Random(seed), {rung: [] for rung in RUNGS}
    free = [[started, "kopf-01"], [started, "kopf-01"], [started + 6, "node-1a2b"], [started + 6.3, "node-1a2b"]]
    if trials > 100:
        free += [[started + 9 + extra, f"node-{extra // 2:04x}"] for extra in range(12)]
    found = []
    for number in range(trials):
        slot = min(free)
        trial = make_trial(number, slot[0], 6.0, dice, best_at_rungs)
        trial["spans"] = [{"node": slot[1], "started": trial["started"], "ended": trial["ended"]}]
        trial["values"] = {
            name: trial["values"][name] for name in [o["metric"] for o in objectives] if name in trial["values"]
        }
        slot[0] = trial["ended"] + 0.1
        found.append(trial)
    front = pareto_front(found, list(objectives))
    ended = max(trial["ended"] for trial in found)
    done = sorted((trial for trial in found if trial["status"] == "done"), key=lambda trial: trial["ended"])
    grows = [{"trial": trial["number"], "value": 0.82 - 0.5 / (place + 1)} for place, trial in enumerate(done)]
    extra = [{"t": started + 9, "nodes": 7, "cpus": 28.0}] if trials > 100 else []
    return {
        "objectives": list(objectives),
        "scheduler": {"kind": "asha", "grace": 1, "reduction": 3, "brackets": 1},
        "search": {"kind": "tpe", "startup": 6},
        "space": dimensions(),
        "epochs": EPOCHS,
        "trials": found,
        "nodes": [
            {"t": started, "nodes": 1, "cpus": 2.0},
            {"t": started + 6, "nodes": 2, "cpus": 4.0},
            *extra,
            {"t": ended - 3, "nodes": 1, "cpus": 2.0},
        ],
        "spent": {"wall_s": ended - started, "cpu_hours": 0.021, "gpu_hours": 0.0, "money": 0.04, "trials": trials},
        "budget": {"trials": trials, "wall_s": 600.0, "cpu_hours": None, "gpu_hours": None, "money": 2.0},
        "ended": f"{trials} trials",
        "front": front,
        "hypervolume": grows if len(objectives) > 1 else [],
        "importance": {
            "train.optimizer.lr": 0.613,
            "model.width": 0.224,
            "model.dropout": 0.061,
            "train.batch_size": 0.043,
            "train.optimizer.kind": 0.031,
            "train.schedule": 0.018,
            "data.augment": 0.008,
            "train.optimizer.momentum": 0.002,
        },
    }


def decide(sweep):
    """The best of the front by accuracy, tied with the second."""
    trials = {trial["number"]: trial for trial in sweep["trials"]}
    best = sorted(sweep["front"], key=lambda number: -trials[number]["values"]["val/accuracy"])
    chosen = trials[best[len(best) // 2]]
    value = chosen["values"]["val/accuracy"]
    return Decision(
        trial=chosen["number"],
        values=chosen["point"],
        objectives=chosen["values"],
        why=f"knee of the front of {len(best)}" if len(best) > 1 else "best val/accuracy",
        tied=tuple(best[:1]) if len(best) > 1 else (),
        interval=(value - 0.025, min(1.0, value + 0.018)),
    )


def tune_step(sweep, data_key):
    config = {
        "space": SPACE,
        "constraints": [],
        "search": sweep["search"],
        "scheduler": sweep["scheduler"],
        "objectives": sweep["objectives"],
        "budget": sweep["budget"],
        "seed": 7,
        "trial": {"train": {"config": {"epochs": EPOCHS}, "code": "c0de"}},
    }
    return Step(
        name="tune",
        config=config,
        policy={"choose": "knee", "limits": {}, "final": "checkpoint", "concurrency": 4},
        inputs={"data": data_key},
        code="ab" * 32,
        key="cd" * 32,
        resources=Resources(workers=4, ray=True),
    )


def events_of(sweep, until=math.inf):
    """The events that a sweep leaves, in their order, as far as it got."""
    found, finished = [], {"done": 0, "stopped": 0, "failed": 0}
    for trial in sweep["trials"]:
        common = {"step": "tune", "trial": trial["number"]}
        span = trial["spans"][0]
        begin = {"point": trial["point"], "origin": trial["origin"], "node": span["node"], "attempt": 1}
        found.append({"t": trial["started"], "kind": "trial_started", **common, **begin})
        for row in trial["epochs"]:
            values = {name: row[name] for name in ("val/accuracy", "val/loss", "train/loss")}
            epoch = {"epoch": row["epoch"], "epochs": sweep["epochs"], "values": values}
            found.append({"t": row["t"], "kind": "trial_epoch", **common, **epoch})
        told = {name: trial[name] for name in ("status", "values", "seconds", "reason", "error")}
        found.append({"t": trial["ended"], "kind": "trial_done", **common, **told, "epochs": len(trial["epochs"])})
    found = sorted((event for event in found if event["t"] <= until), key=lambda event: event["t"])
    with_counts = []
    started, running = sweep["trials"][0]["started"], 0
    for event in found:
        with_counts.append(event)
        if event["kind"] == "trial_epoch":
            continue
        running += 1 if event["kind"] == "trial_started" else -1
        if event["kind"] == "trial_done":
            finished[event["status"]] += 1
        size = [row for row in sweep["nodes"] if row["t"] <= event["t"]][-1]
        spent = {"wall_s": event["t"] - started, "cpu_hours": 0.01, "gpu_hours": 0.0, "money": 0.02}
        with_counts.append(
            {
                "t": event["t"],
                "kind": "sweep",
                "step": "tune",
                "running": running,
                "waiting": 2,
                **finished,
                "budget": sweep["budget"],
                "spent": {**spent, "trials": sum(finished.values())},
                "nodes": size["nodes"],
                "cpus": size["cpus"],
            }
        )
    return with_counts


def sweep_run(runs, sweep, *, until=None, **made):
    """The folder of a run with a sweep: whole, or cut off `until` so many seconds after its start."""
    folder = runs.make(**made)
    plan = Plan.model_validate_json((folder / "plan.json").read_bytes())
    step = tune_step(sweep, plan.step("data").key)
    decision = decide(sweep) if until is None else None
    steps = (plan.steps[0], step, *plan.steps[1:])
    plan = plan.model_copy(update={"steps": steps, "decision": decision})
    (folder / "plan.json").write_text(plan.model_dump_json(indent=1), encoding="utf-8")
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    place = next(at for at, event in enumerate(events) if event.get("step") == "train")
    begin = sweep["trials"][0]["started"]
    mine = [{"t": begin - 0.5, "kind": "step_started", "step": "tune", "key": step.key, "attempt": 1}]
    mine += events_of(sweep, math.inf if until is None else begin + until)
    after = []
    if decision is not None:
        wall = sweep["spent"]["wall_s"]
        metrics = {"trials": float(len(sweep["trials"])), "best val/accuracy": 0.97}
        end = {"t": begin + wall + 0.4, "step": "tune", "key": step.key}
        mine.append({**end, "kind": "step_done", "seconds": wall + 1.0, "metrics": metrics})
        mine.append({**end, "kind": "decided", **decision.model_dump(exclude={"population"})})
        after = [{**event, "t": event["t"] + wall} for event in events[place:]]
        document = json.dumps(sweep, ensure_ascii=False)
        runs.commit(plan, step, {"sweep.json": document}, metrics, {}, made.get("run", "r"), wall)
    text = "\n".join(json.dumps(event) for event in [*events[:place], *mine, *after])
    (folder / "events.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder


def page_of(folder, runs):
    """The page's text, and that of its section on the sweep."""
    text = write_report(folder, runs.store).read_text(encoding="utf-8")
    return text, text.partition('<section id="sweep">')[2].partition("</section>")[0]


def drawing(section, style):
    """One drawing as XML; an error of its syntax fails the test."""
    found = re.search(rf'<svg class="chart {style}.*?</svg>', section, re.DOTALL)
    return ElementTree.fromstring(found[0]) if found else None


def groups(tree, style):
    return [element for element in tree.iter() if style in element.get("class", "").split()]


@pytest.mark.parametrize("trials", [24, 200])
@pytest.mark.parametrize("objectives", [(ACCURACY,), (ACCURACY, SIZE)], ids=["one", "two"])
def test_every_trial_is_in_the_table_and_in_the_drawings(runs, trials, objectives):
    sweep = make_sweep(trials, objectives)
    _, section = page_of(sweep_run(runs, sweep), runs)
    rows = re.findall(r'<a href="#trial-(\d+)">', section)
    assert sorted(map(int, rows)) == list(range(trials))
    assert len(groups(drawing(section, "parallel"), "trial")) == trials
    assert len(groups(drawing(section, "curves"), "trial")) == trials
    assert len(groups(drawing(section, "timeline"), "span")) == trials
    assert (drawing(section, "pareto") is None) == (len(objectives) == 1)
    assert all(f'id="trial-{number}"' in section for number in range(trials))


def test_the_decision_stands_first_and_its_trial_is_marked_everywhere(runs):
    sweep = make_sweep()
    decision = decide(sweep)
    _, section = page_of(sweep_run(runs, sweep), runs)
    low, high = decision.interval
    value = decision.objectives["val/accuracy"]
    said = f"Trial {decision.trial} goes on ({decision.why}): val/accuracy {value:.4f} "
    assert f"{said}(95 % interval {low:.4f} to {high:.4f}), size_bytes" in section
    assert f"It cannot be told from trial {decision.tied[0]}." in section
    for style in ("parallel", "curves", "pareto", "timeline"):
        chosen = groups(drawing(section, style), "chosen")
        assert any(f"trial {decision.trial}, done" in "".join(element.itertext()) for element in chosen), style
    row = section.partition('<tr class="best">')[2].partition("</tr>")[0]
    assert f"#trial-{decision.trial}" in row
    assert f"rayml show {RUN} --trial {decision.trial}" in section


def test_trials_are_best_first_the_front_before_all_others_and_failed_ones_last(runs):
    sweep = make_sweep()
    _, section = page_of(sweep_run(runs, sweep), runs)
    numbers = list(map(int, re.findall(r'<a href="#trial-(\d+)">', section)))
    front = numbers[: len(sweep["front"])]
    values = {trial["number"]: trial["values"].get("val/accuracy") for trial in sweep["trials"]}
    rest = [values[number] for number in numbers[len(front) : -1]]
    assert sorted(front) == sorted(sweep["front"])
    assert rest == sorted(rest, reverse=True)
    assert numbers[-1] == 5


def test_a_key_that_was_not_searched_is_a_gap_and_a_lone_value_a_dot(runs):
    sweep = make_sweep()
    _, section = page_of(sweep_run(runs, sweep), runs)
    lines = {}
    for group in groups(drawing(section, "parallel"), "trial"):
        number = int(group.find("title").text.split(",")[0].split()[1])
        lines[number] = group.find("path").get("d").count("M")
    for trial in sweep["trials"]:
        has_momentum = "train.optimizer.momentum" in trial["point"]
        assert lines[trial["number"]] == (1 if has_momentum else 2), trial["number"]


def test_a_stopped_trial_ends_early_and_says_at_which_rung(runs):
    sweep = make_sweep()
    _, section = page_of(sweep_run(runs, sweep), runs)
    stopped = next(trial for trial in sweep["trials"] if trial["status"] == "stopped" and len(trial["epochs"]) == 3)
    curve = next(
        group
        for group in groups(drawing(section, "curves"), "trial")
        if group.find("title").text.startswith(f"trial {stopped['number']},")
    )
    assert curve.find("path").get("d").count("L") == 2
    assert "asha: rung of 3 epochs" in section


def test_an_error_is_one_line_in_the_table_and_whole_below_it_and_names_stay_text(runs):
    text, section = page_of(sweep_run(runs, make_sweep()), runs)
    cell = "RuntimeError: CUDA &lt;out of memory&gt;: tried to allocate 3.1 GiB of 2.0 GiB"
    assert f'<td class="why">{cell}</td>' in section
    assert "layer_11.py" in section.partition('<details class="entries">')[2]
    assert "&lt;nichts&gt; &amp; mehr" in section and "<nichts>" not in text
    assert "train.schedule.warmup_steps" in section, "a section as a value is shown field by field"


@pytest.mark.parametrize("cut", [None, 9.0])
def test_the_section_is_well_formed_fetches_nothing_and_every_id_is_there_once(runs, cut):
    made = {} if cut is None else {"until": cut, "fate": "killed", "stop_in": "train"}
    text, section = page_of(sweep_run(runs, make_sweep(), **made), runs)
    tree = ElementTree.fromstring(f"<section>{section}</section>")
    assert all(header.get("scope") in ("row", "col") for header in tree.iter("th"))
    assert all(svg.get("role") == "img" and svg.find("title") is not None for svg in tree.iter("svg"))
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    assert "<script" not in text and "http://" not in text and "https://" not in text


def test_the_record_holds_the_sweep_and_the_decision(runs):
    sweep = make_sweep()
    folder = sweep_run(runs, sweep)
    write_report(folder, runs.store)
    record = json.loads((folder / "report.json").read_text(encoding="utf-8"))["sweep"]
    assert record["is_whole"] is True
    assert record["decision"]["trial"] == decide(sweep).trial
    assert {name: record[name] for name in sweep} == sweep


def test_a_sweep_that_was_cut_off_is_drawn_from_its_events(runs):
    whole = make_sweep()
    folder = sweep_run(runs, whole, until=9.0, fate="killed", stop_in="train")
    text, section = page_of(folder, runs)
    record = collect(folder, runs.store)["sweep"]
    begun = [trial for trial in whole["trials"] if trial["started"] <= whole["trials"][0]["started"] + 9.0]
    assert record["is_whole"] is False
    assert record["decision"] is None
    assert [trial["number"] for trial in record["trials"]] == [trial["number"] for trial in begun]
    assert [row["path"] for row in record["space"]] == list(SPACE)
    assert record["space"][:4] == whole["space"][:4]
    assert record["trials"][0]["values"] == whole["trials"][0]["values"]
    assert "The sweep has not ended: 4 of 24 trials have ended; so far trial 1 is the best" in section
    assert "stopped in tune, after 4 of 24 trials" in text
    assert drawing(section, "timeline") is not None
    assert drawing(section, "importance") is None


def test_a_sweep_of_which_no_trial_began_says_so(runs):
    folder = sweep_run(runs, make_sweep(), until=-1.0, fate="killed", stop_in="train")
    _, section = page_of(folder, runs)
    assert "The run stopped in tune." in section


def test_a_job_without_a_sweep_has_no_section_for_it(runs):
    folder = runs.make()
    text, section = page_of(folder, runs)
    assert section == ""
    assert 'href="#sweep"' not in text
    assert collect(folder, runs.store)["sweep"] is None


def test_the_lineage_shows_that_the_sweep_decided_the_training(runs):
    text, _ = page_of(sweep_run(runs, make_sweep()), runs)
    lineage = text.partition('<section id="lineage">')[2]
    assert lineage.count('class="edge decides"') == 1
    assert f"tune</a>: trial {decide(make_sweep()).trial}" in lineage


def test_a_value_far_away_from_all_others_does_not_squeeze_them():
    losses = [0.3 + 0.01 * place for place in range(40)]
    assert fitted([*losses, -4.0e6], "val/loss").low > -1
    assert fitted([*losses, 5.0]).high < 1
    assert fitted([*losses, 5.0]).share(5.0) == 1.0
    assert fitted([1.0, 1000.0]).is_log


def test_a_metric_that_is_not_a_number_is_left_out_of_the_drawings(runs):
    sweep = make_sweep()
    broken = next(trial for trial in sweep["trials"] if trial["status"] == "stopped")
    broken["values"]["val/accuracy"] = math.nan
    for row in broken["epochs"]:
        row["val/accuracy"] = math.nan
    _, section = page_of(sweep_run(runs, sweep), runs)
    assert not re.search(r"\bnan\b", section)
    assert len(groups(drawing(section, "curves"), "trial")) == 23


def test_ticks_of_a_logarithmic_axis_are_few_round_numbers():
    texts = [text for _, text in Scale(3.0e-4, 2.0e-2, is_log=True).ticks()]
    assert texts == ["0.0005", "0.001", "0.002", "0.005", "0.01", "0.02"]
    wide = Scale(1e-9, 1e6, is_log=True).ticks()
    assert wide[0][1] == "1e-09"
    assert len(wide) <= 6


def test_a_pause_before_a_run_went_on_is_cut_out_of_the_timeline():
    look = Look(0, 1.0, "done", "trial 0")
    spans = [Span(look, "a", 0.0, 60.0), Span(look, "a", 40_000.0, 40_060.0)]
    clock = running_clock(spans)
    assert clock.at(60.0) == clock.at(30_000.0) == clock.at(40_000.0) == 60.0
    assert clock.at(clock.ended) == 120.0


def test_trials_of_a_node_at_the_same_time_have_lanes_of_their_own():
    spans = [
        Span(Look(number, 1.0, "done", ""), node, started, started + 2)
        for number, (node, started) in enumerate([("a", 0), ("a", 1), ("b", 0), ("a", 2), ("a", 3)])
    ]
    assert [(node, [span.look.number for span in slot]) for node, slot in lanes(spans)] == [
        ("a", [0, 3]),
        ("a", [1, 4]),
        ("b", [2]),
    ]
