"""Wrong job files, and the line, path and sentence that their author gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayml.errors import SpecError
from rayml.spec.load import load_job
from rayml.spec.problems import MAX_FAULTS

GOLDEN = Path(__file__).with_name("wrong_jobs.txt")
ENVIRONMENT = {"JOB_NAME": "Zähler 1", "EMPTY": ""}


def _rows() -> list[tuple[int, str, list[str]]]:
    """Of each block: the number of the line that is replaced, what is written there, the problems expected."""
    rows = []
    for block in GOLDEN.read_text(encoding="utf-8").split("\n@ ")[1:]:
        head, *rest = block.rstrip("\n").split("\n")
        problems = [line.removeprefix("=> ") for line in rest if line.startswith("=> ")]
        rows.append((int(head), "\n".join(line for line in rest if not line.startswith("=> ")), problems))
    return rows


ROWS = _rows()


@pytest.mark.parametrize(("number", "written", "problems"), ROWS, ids=[row[1].strip()[:40] for row in ROWS])
def test_every_problem_has_its_line_path_and_sentence(
    job_file: Path, number: int, written: str, problems: list[str]
) -> None:
    lines = job_file.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = written
    job_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_job(job_file, environ=ENVIRONMENT)
    assert str(caught.value).splitlines() == [f"{job_file}:{problem}" for problem in problems]


def test_the_unchanged_job_is_right(job_file: Path) -> None:
    assert load_job(job_file, environ={}).name == "digits"
    assert len(ROWS) >= 50


def test_all_problems_are_told_at_once_in_the_order_of_lines(job_file: Path) -> None:
    text = job_file.read_text(encoding="utf-8")
    for right, wrong in (("workers: 2", "workers: 0"), ("kind: small_cnn", "kind: resnet"), ("seed: 7", "seed:")):
        text = text.replace(right, wrong)
    job_file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_job(job_file, ["train.lrr=1", "serve.port=0"])
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (2, "seed"),
        (7, "model.kind"),
        (9, "train.workers"),
        (None, "train.lrr"),
        (None, "serve.port"),
    ]


def test_a_problem_inside_an_alias_has_the_line_of_the_alias(job_file: Path) -> None:
    text = job_file.read_text(encoding="utf-8")
    text = text.replace("model: {kind: small_cnn}", "model: &net {kind: mlp, hidden: [0]}")
    job_file.write_text(text.replace("  epochs: 15", "  best: *net"), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_job(job_file)
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (7, "model.hidden.0"),
        (10, "train.best.kind"),
        (10, "train.best.hidden"),
    ]


def test_a_file_full_of_mistakes_is_answered_soon_and_says_that_it_was_cut(job_file: Path) -> None:
    with job_file.open("a", encoding="utf-8") as file:
        file.writelines(f"field{number}: 1\n" for number in range(20_000))
    with pytest.raises(SpecError) as caught:
        load_job(job_file)
    assert len(caught.value.problems) == MAX_FAULTS + 1
    assert caught.value.problems[-1].what == "more than 1000 places are wrong; these are the first"
