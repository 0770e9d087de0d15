"""Wrong `tune` sections: each fault at the line of its key, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayml.errors import SpecError
from rayml.spec.load import load_job

BEFORE = """\
name: sweep
data:
  source: {kind: sklearn, name: digits}
task: {kind: image_classification}
model: {kind: small_cnn, width: 32}
train: {workers: 1, epochs: 9}
tune:
"""
SPACE = "  space: {model.width: {choice: [8, 16]}}\n"
WRONG = [
    (
        "  space:\n    model.width: {choice: [8, 16]}\n    train.optimzer.lr: {uniform: [0.1, 1]}\n",
        ["10: tune.space.train.optimzer.lr: no such key of a job; did you mean `train.optimizer.lr`?"],
    ),
    (
        "  space:\n    serve.port: {choice: [80, 81]}\n",
        [
            "9: tune.space.serve.port: a trial runs `data`, `model`, `train` and `compress`, and this key changes "
            "none of it"
        ],
    ),
    (
        "  space:\n    data.source.name: {choice: [digits, wine]}\n",
        ["9: tune.space.data.source.name: `data.source` is not searched: trials are compared on the same rows"],
    ),
    (
        "  space:\n    model.width: {choice: [8, 6]}\n    train.optimizer.lr: {uniform: [0, 1]}\n",
        [
            "9: tune.space.model.width: 6 is not a whole number from 4 to 1024 and a multiple of 4",
            "10: tune.space.train.optimizer.lr: 0.0 is not a number above 0",
        ],
    ),
    (
        "  space:\n    train.optimizer.momentum: {uniform: [0.1, 0.9]}\n",
        [
            "9: tune.space.train.optimizer.momentum: no such field of kind `adamw`, but of `sgd`, `lars` or `muon`",
        ],
    ),
    (
        "  space:\n    train.optimizer: {choice: [{kind: sgd}]}\n    train.optimizer.lr: {uniform: [0.1, 1]}\n",
        ["10: tune.space.train.optimizer.lr: `train.optimizer` is searched as a whole; write one of the two"],
    ),
    (
        "  space:\n    model.width: {choice: [8, 16], when: {train.optimizer.knd: sgd}}\n"
        "    train.optimizer.kind: {choice: [sgd, adamw]}\n",
        [
            "9: tune.space.model.width.when.train.optimizer.knd: not a key of this space; "
            "did you mean `train.optimizer.kind`?"
        ],
    ),
    (
        "  space:\n    model.width: {choice: [8, 16], when: {train.optimizer.kind: lion}}\n"
        "    train.optimizer.kind: {choice: [sgd, adamw]}\n",
        [
            '9: tune.space.model.width.when.train.optimizer.kind: "lion" is not a value of `train.optimizer.kind`; '
            "it has `sgd` or `adamw`"
        ],
    ),
    (
        SPACE + "  constraints:\n    - model.width < 100\n    - model.widht > 8\n",
        [
            "11: tune.constraints.1: `model.widht` is not a key of the job; did you mean `model.width`? "
            "(text stands in quotes)"
        ],
    ),
    (
        SPACE + "  constraints: [model.width > 16]\n",
        ["9: tune.constraints: no configuration of the space keeps to it; check the comparisons and the ranges"],
    ),
    (
        SPACE + "  constraints: [train.epochs > 16]\n",
        ["9: tune.constraints.0: names no key of the space; it has `model.width`"],
    ),
    (
        SPACE + "  objectives: [{metric: val/acc}]\n",
        [
            '9: tune.objectives.0.metric: "val/acc" is not `val/accuracy`, `val/loss`, `train/loss`, `samples_per_s`, '
            "`compress/accuracy`, `compress/agreement`, `size_bytes`, `latency_p50_ms` or `latency_p95_ms`; "
            "did you mean `val/accuracy`?"
        ],
    ),
    (
        SPACE + "  objectives: [{metric: compress/accuracy}]\n",
        ["9: tune.objectives.0.metric: needs a `compress` section, and the file has none"],
    ),
    (
        SPACE + "  objectives: [{metric: val/loss}, {metric: val/loss}]\n",
        ["9: tune.objectives.1.metric: `val/loss` is an objective already; leave this one out"],
    ),
    (
        SPACE + "  objectives: [{metric: size_bytes}]\n  scheduler: {kind: asha}\n",
        [
            "9: tune.objectives.0.metric: is known when a trial is done, and asha judges after every epoch; write "
            "`val/accuracy`, `val/loss`, `train/loss` or `samples_per_s` first, or scheduler fifo"
        ],
    ),
    (
        SPACE + "  scheduler: {kind: asha, grace: 9}\n",
        [
            "9: tune.scheduler.grace: 9 epochs of grace, and a trial has 9, so that none is stopped; write at most 8, "
            "or more train.epochs"
        ],
    ),
    (
        SPACE + "  scheduler: {kind: pbt}\n  budget: {trials: 4}\n",
        [
            "9: tune.scheduler.kind: pbt changes numbers of the optimizer while a trial trains, and none is searched; "
            "add `train.optimizer.lr`, or write asha"
        ],
    ),
    (SPACE + "  budget: {trials: 0}\n", ["9: tune.budget.trials: 0 is not a whole number of at least 1 or `auto`"]),
    (
        SPACE + "  budget: {wall: 10}\n",
        ["9: tune.budget.wall: 10 is not a time; write a number with s, m, h or d, such as `10m`"],
    ),
    (
        "  space: {train.optimizer.lr: {uniform: [0.1, 1]}}\n  search: {kind: grid}\n",
        [
            "8: tune.space.train.optimizer.lr: has no end of values, and a grid tries each; write `grid: [...]`, "
            "or a `step`"
        ],
    ),
    (
        SPACE + "  search: {kind: cma_es}\n",
        ["9: tune.search.kind: cma_es needs a key that is a number; write tpe"],
    ),
    (SPACE + "  known: [{model.width: 9}]\n", ["9: tune.known.0.model.width: 9 is not in the range of `model.width`"]),
    (
        SPACE + "  known: [{model.wdth: 8}]\n",
        ["9: tune.known.0.model.wdth: not a key of the space; did you mean `model.width`?"],
    ),
]


@pytest.mark.parametrize(("written", "problems"), WRONG, ids=[row[1][0][:50] for row in WRONG])
def test_every_fault_is_told_at_its_line(tmp_path: Path, written: str, problems: list[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(BEFORE + written)
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert str(caught.value).splitlines() == [f"{path}:{problem}" for problem in problems]


def test_a_sweep_without_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(BEFORE.replace("train: {workers: 1, epochs: 9}\n", "") + SPACE)
    with pytest.raises(SpecError, match="needs a `train` section"):
        load_job(path)


def test_a_kind_that_is_searched_keeps_the_fields_that_both_kinds_have(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    text = BEFORE.replace("epochs: 9", "epochs: 9, optimizer: {kind: adamw, lr: 0.01, betas: [0.8, 0.9]}")
    path.write_text(
        text + "  space:\n    train.optimizer.kind: {choice: [adamw, sgd]}\n"
        "    train.optimizer.momentum: {uniform: [0.0, 0.9], when: {train.optimizer.kind: sgd}}\n"
    )
    from rayml.spec.job import JobSpec
    from rayml.spec.point import job_document, put_values

    document = job_document(load_job(path))
    changed = put_values(document, {"train.optimizer.momentum": 0.5, "train.optimizer.kind": "sgd"})
    assert changed["train"]["optimizer"] == {"kind": "sgd", "lr": 0.01, "momentum": 0.5}
    assert JobSpec.model_validate(changed)
    assert document["train"]["optimizer"]["betas"] == [0.8, 0.9], "the job itself stays"
    assert put_values(document, {"train.optimizer.kind": "adamw"}) == document
    assert put_values(document, {"train.schedule.kind": "cosine"})["train"]["schedule"] == {"kind": "cosine"}
    assert put_values(document, {"train.clip.norm": 1.0})["train"]["clip"] == {"norm": 1.0}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tune.space.model.width={choice: [4]}", {"model.width": {"choice": (4,)}}),
        ("tune.space.model.width.choice=[4, 8]", {"model.width": {"choice": (4, 8)}}),
        (
            "tune.space.train.batch_size={choice: [32]}",
            {"model.width": {"choice": (8, 16)}, "train.batch_size": {"choice": (32,)}},
        ),
    ],
)
def test_a_key_with_dots_is_one_key_on_the_command_line_too(tmp_path: Path, override: str, expected: dict) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(BEFORE + SPACE)
    tune = load_job(path, [override]).tune
    assert tune is not None
    assert {key: written.model_dump(exclude_unset=True) for key, written in tune.space.items()} == expected
