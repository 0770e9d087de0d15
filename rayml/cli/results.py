"""What runs have left: records, checks, models that answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rayml.cli.options import DEFAULT_HOME, AsJson, HomeFolder, RunName, StorageUri
from rayml.cli.output import console, print_json, say


def verify(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run; every artifact if left out.")] = None,
    storage: StorageUri = None,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Check the files of a run, or of all.

    Every file is read again and held against its sha256, and every link of the lineage is followed. Of a run also
    that image, code and plan are those that it was planned and submitted with, and who submitted it.
    """
    from rayml.run.verify_command import run as check

    document, lines, error = check(run, storage, home)
    if as_json:
        print_json(document)
    else:
        for line in lines:
            say(line)
    if error is not None:
        raise error


def report(run: RunName, home: HomeFolder = DEFAULT_HOME) -> None:
    """Write a run's report.

    One self-contained HTML file, and the same as JSON beside it.
    """
    from rayml.artifacts.store import LocalStore
    from rayml.observe.runs import Home
    from rayml.report.page import write_report

    folders = Home(home)
    say(str(write_report(folders.find_run(run).path, LocalStore(folders.artifacts))))


def show(
    run: RunName,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="A trial of the run's sweep.")] = None,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Print the job file of a run, or of one trial of its sweep.

    What a trial was trained with: `rayml show RUN --trial 7 > job.yaml`, and `rayml run job.yaml` finds its result.
    """
    from rayml.observe.runs import Home
    from rayml.observe.submissions import submissions
    from rayml.run.show import job_of, write_job

    document, notes = job_of(Home(home), run, trial)
    notes += [str(each) for each in submissions(Home(home).find_run(run).path)]
    if as_json:
        print_json(document)
    else:
        say(write_job(document, notes).rstrip())


def serve(
    run: RunName,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The port; a free one if left out.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on; the job file's if left out.")] = None,
    home: HomeFolder = DEFAULT_HOME,
) -> None:
    """Serve a run's model until Ctrl-C."""
    from rayml.observe.runs import Home
    from rayml.run.serving import serve_run

    serve_run(Home(home), run, host, port, console())


def predict(
    target: Annotated[str, typer.Argument(metavar="URL|RUN", help="An endpoint, or the run that it serves.")],
    file: Annotated[Path, typer.Argument(help="An image, a .json file of records, or a .csv file.")],
    key: Annotated[str | None, typer.Option(envvar="RAYML_KEY", help="The endpoint's bearer key, for a URL.")] = None,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Ask an endpoint for a prediction."""
    from rayml.observe.runs import Home
    from rayml.run.serving import ask

    answer = ask(Home(home), target, key, file)
    if as_json:
        print_json(answer)
    else:
        for prediction in answer["predictions"]:
            say(f"{prediction['label']}  {prediction['probability']:.4f}")
