"""A job file: is it right, what will happen, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayml.cli.options import DEFAULT_HOME, NO_OVERRIDES, AsJson, ClusterFile, HomeFolder, JobFile, Overrides, RunName
from rayml.cli.output import console, go_on, print_error, print_json, say

if TYPE_CHECKING:
    from rayml.spec.job import JobSpec


def validate(
    job: JobFile, overrides: Overrides = NO_OVERRIDES, cluster: ClusterFile = None, as_json: AsJson = False
) -> None:
    """Check a job file.

    Every error at once, as file:line: path: what is wrong, what fits.
    """
    from rayml.spec.load import load_cluster, load_job

    spec = load_job(job, overrides)
    load_cluster(cluster)
    if as_json:
        print_json({"job": spec.name, "valid": True})
    else:
        say(f"{job}: a valid job, {' -> '.join(stages_of(spec))}")


def schema(kind: Annotated[str, typer.Argument(metavar="job|cluster", help="Of which files.")] = "job") -> None:
    """Print the JSON Schema of job files.

    Or of cluster files. An editor that knows it completes and checks them.
    """
    from rayml.spec.schema import cluster_schema, job_schema

    schemas = {"job": job_schema, "cluster": cluster_schema}
    if kind not in schemas:
        raise typer.BadParameter(f"{kind!r} is neither job nor cluster", param_hint="KIND")
    print_json(schemas[kind]())


def plan(
    job: JobFile,
    overrides: Overrides = NO_OVERRIDES,
    cluster: ClusterFile = None,
    home: HomeFolder = DEFAULT_HOME,
    estimate: Annotated[bool, typer.Option("--estimate", help="Work out the memory of a worker; needs torch.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a run would do.

    Every "auto" as a number, which steps are cached, and why the others run.
    """
    from rayml.plan.render import plan_json, print_plan
    from rayml.plan.show import forecast
    from rayml.run.resolve import resolve

    resolved, store, previous = resolve(job, overrides, cluster, home)
    if estimate:
        from rayml.stages.train.estimate import estimate_plan

        estimate_plan(resolved, store, home)
    planned = forecast(resolved, store, previous, home)
    if as_json:
        print_json(plan_json(resolved, planned))
    else:
        print_plan(console(), resolved, planned)


def run(
    job: JobFile,
    overrides: Overrides = NO_OVERRIDES,
    cluster: ClusterFile = None,
    to: Annotated[str | None, typer.Option("--to", metavar="STEP", help="Stop after this step.")] = None,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Run a job on this machine.

    Steps that are there already are not run again.
    """
    from rayml.observe.runs import Home
    from rayml.plan.show import forecast
    from rayml.run.launch import launch
    from rayml.run.resolve import require_here, resolve

    resolved, store, previous = resolve(job, overrides, cluster, home, to)
    require_here(resolved)
    planned = forecast(resolved, store, previous)
    result, error = launch(resolved, planned, Home(home), console(stderr=as_json))
    if as_json:
        print_json(result)
    if error is not None:
        print_error(error)
    if result["status"] == "interrupted":
        say(f"stopped; nothing is left running. To go on after the last finished step: {go_on()}", error=True)
    raise typer.Exit(result["exit_code"])


def tune(
    job: JobFile,
    lr_range: Annotated[bool, typer.Option("--lr-range", help="Find a learning rate.")] = False,
    batch_range: Annotated[bool, typer.Option("--batch-range", help="Find the rows of a micro-batch.")] = False,
    first: Annotated[float, typer.Option("--from", metavar="LR", help="The first learning rate.")] = 1e-6,
    last: Annotated[float, typer.Option("--to", metavar="LR", help="The last learning rate.")] = 1.0,
    steps: Annotated[
        int | None, typer.Option(min=2, help="Of the ramp, or of each size of a micro-batch.", show_default="100 or 10")
    ] = None,
    overrides: Overrides = NO_OVERRIDES,
    cluster: ClusterFile = None,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Find a learning rate or the rows of a micro-batch.

    On the workers of the train step; no checkpoint is read or written.
    """
    from rayml.observe.runs import Home
    from rayml.plan.build import cut_after
    from rayml.plan.show import forecast
    from rayml.run.finder_show import show_batch_range, show_lr_range
    from rayml.run.finders import find, finder_settings, refuse_command, require_train
    from rayml.run.launch import launch
    from rayml.run.resolve import resolve

    if lr_range == batch_range:
        raise refuse_command(lr_range, batch_range)
    settings = finder_settings("lr_range" if lr_range else "batch_range", first, last, steps)
    resolved, store, previous = resolve(job, overrides, cluster, home)
    require_train(resolved)
    data = cut_after(resolved, "data")
    planned = forecast(data, store, previous)
    if planned.work:
        result, error = launch(data, planned, Home(home), console(stderr=True))
        if error is not None:
            raise error
        if result["status"] == "interrupted":
            raise typer.Exit(result["exit_code"])
    with console(stderr=True).status("starting the workers") as status:
        found = find(resolved, Home(home), settings, lambda kind, **fields: status.update(progress_of(kind, fields)))
    if as_json:
        print_json(found)
    else:
        (show_lr_range if lr_range else show_batch_range)(console(), str(job), found)


def progress_of(kind: str, fields: dict[str, Any]) -> str:
    """What a worker tells while it looks for something, as one line."""
    if kind != "progress":
        return str(fields.get("text", kind))
    if "rows" in fields:
        return f"{fields['rows']:,} rows: {fields['samples_per_s']:,.0f} samples/s"
    return (
        f"step {fields['step_index']} of {fields['steps']}, learning rate {fields['lr']:.1e}, loss {fields['loss']:.3f}"
    )


def diff(before: RunName, after: RunName, home: HomeFolder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Say which key made two runs differ."""
    from rayml.observe.runs import Home
    from rayml.plan.diff import diff_plans

    runs = Home(home)
    first, second = runs.find_run(before), runs.find_run(after)
    changes = diff_plans(first.plan(), second.plan())
    if as_json:
        changed = [change.model_dump() for change in changes]
        print_json({"before": first.id, "after": second.id, "changes": changed})
    elif not changes:
        say(f"{first.id} and {second.id} do the same work")
    else:
        for change in changes:
            say(str(change))


def stages_of(job: JobSpec) -> list[str]:
    """The steps of a job, in order."""
    from rayml.spec.job import STAGES

    return [stage for stage in STAGES if getattr(job, stage) is not None]
