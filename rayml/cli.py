"""The command line: parse, call one function, print. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from rayml.spec.job import JobSpec

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One job file becomes a trained, evaluated and served model on a Ray cluster.",
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file.", show_default=False)]
Overrides = Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="Set a key of the job file.")]
ClusterFile = Annotated[Path | None, typer.Option("--cluster", help="The cluster file; this machine if left out.")]
HomeFolder = Annotated[
    Path, typer.Option("--home", envvar="RAYML_HOME", help="Where runs and artifacts are kept.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or a job's name.")]

Address = Annotated[
    str | None, typer.Option("--address", envvar="RAYML_ADDRESS", help="Of a Ray head's dashboard: http://HOST:8265.")
]
StorageUri = Annotated[
    str | None,
    typer.Option("--storage", envvar="RAYML_STORAGE", help="A folder that all nodes see, or s3://BUCKET/PREFIX."),
]

WhereItRuns = Annotated[
    Path | None, typer.Option("--cluster", help="The cluster file that the run was submitted with.")
]

DEFAULT_HOME = Path(".rayml")
NO_OVERRIDES: list[str] = []
NO_GATES: list[str] = []
EXIT_INTERRUPTED = 130


def main() -> None:
    """The entry point: a RaymlError becomes its sentence and its exit code."""
    from rayml.errors import RaymlError, machine_failure

    try:
        app()
    except RaymlError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        failure = machine_failure(error)
        if failure is None:
            print_bug()
            sys.exit(1)
        print_error(failure)
        sys.exit(failure.exit_code)
    except Exception:
        print_bug()
        sys.exit(1)


@app.command()
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


@app.command()
def schema(kind: Annotated[str, typer.Argument(metavar="job|cluster", help="Of which files.")] = "job") -> None:
    """Print the JSON Schema of job files.

    Or of cluster files. An editor that knows it completes and checks them.
    """
    from rayml.spec.schema import cluster_schema, job_schema

    schemas = {"job": job_schema, "cluster": cluster_schema}
    if kind not in schemas:
        raise typer.BadParameter(f"{kind!r} is neither job nor cluster", param_hint="KIND")
    print_json(schemas[kind]())


@app.command()
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


@app.command()
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


@app.command()
def submit(
    job: JobFile,
    overrides: Overrides = NO_OVERRIDES,
    cluster: ClusterFile = None,
    address: Address = None,
    storage: StorageUri = None,
    name: Annotated[str | None, typer.Option("--run", help="The run's name; of its job and steps if left out.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="STEP", help="Stop after this step.")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Print exactly what would be sent.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")] = True,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Hand a job to a cluster.

    The same command again goes on where the run is.
    """
    from rayml.run import submit as handing
    from rayml.run.resolve import resolve
    from rayml.spec.kuberay import KubeRayCluster
    from rayml.spec.load import load_cluster

    named = None if cluster is None else load_cluster(cluster)
    if isinstance(named, KubeRayCluster):
        from rayml.run import to_kubernetes

        whole = resolve(job, overrides, named, home, to)[0]
        if dry:
            sys.stdout.write(to_kubernetes.dry_run(whole, named, name))
            return
        document = to_kubernetes.submit(whole, named, name, wait, console(stderr=as_json))
        if as_json:
            print_json(document)
        raise typer.Exit(document["exit_code"])
    to_cluster = handing.target(named, address, storage)
    resolved, _, _ = resolve(job, overrides, to_cluster, home, to)
    sent = handing.without_endpoint(resolved)
    if dry:
        print_json(handing.dry_run(sent, to_cluster, name))
        return
    document = handing.submit(sent, to_cluster, name, wait, console(stderr=as_json))
    if as_json:
        print_json(document)
    raise typer.Exit(document["exit_code"])


@app.command()
def lint(
    paths: Annotated[list[str], typer.Argument(metavar="FILE", help="YAML files or folders; - is standard input.")],
    schemas: Annotated[Path | None, typer.Option("--schemas", help="A folder of CRD schemas as JSON.")] = None,
    from_cluster: Annotated[
        bool, typer.Option("--from-cluster", help="Schemas of the cluster that the kubeconfig names.")
    ] = False,
    context: Annotated[
        str | None, typer.Option("--context", help="Of the kubeconfig; its current one if left out.")
    ] = None,
    gates: Annotated[
        list[str], typer.Option("--gate", metavar="NAME=true", help="A feature gate of KubeRay.")
    ] = NO_GATES,
    as_json: AsJson = False,
) -> None:
    """Check Kubernetes manifests.

    Schemas, KubeRay's own rules, Pod Security and what leaks or exposes.
    """
    from rayml.lint.command import run as check

    if (from_cluster and schemas is not None) or (context is not None and not from_cluster):
        raise typer.BadParameter("name --schemas DIR, or --from-cluster with or without --context NAME")
    if from_cluster:
        from rayml.backends.kuberay.kinds import ClusterKinds

        raise typer.Exit(check(paths, ClusterKinds.of_context(context), gates, as_json))
    raise typer.Exit(check(paths, None if schemas is None else str(schemas), gates, as_json))


@app.command()
def cluster(
    action: Annotated[str, typer.Argument(metavar="up|down|status", help="What to do.", show_default=False)],
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The cluster file, for up.")] = None,
    name: Annotated[str, typer.Option(help="Which cluster.")] = "local",
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """A Ray cluster on this machine that stays.

    Brought up here, used by rayml submit, and taken down again.
    """
    from rayml.run import standing_command

    if action == "up":
        standing_command.up(file, name, home, as_json)
    elif action == "down":
        standing_command.down(name, home)
    elif action == "status":
        raise typer.Exit(standing_command.status(name, home, as_json))
    else:
        raise typer.BadParameter(f"{action!r} is not up, down or status", param_hint="ACTION")


@app.command()
def stop(run: RunName, address: Address = None, cluster: WhereItRuns = None) -> None:
    """End a run on a cluster. It can be submitted again, and goes on."""
    from rayml.run.places import address_of, kubernetes_of

    on_kubernetes = kubernetes_of(cluster)
    if on_kubernetes is not None:
        from rayml.backends.kuberay.api import connect
        from rayml.backends.kuberay.following import stop as delete

        say(f"the {delete(connect(), on_kubernetes.namespace, run)} of {run} was deleted; what it has made is kept")
        return
    from rayml.run.submit import stop as end

    say(f"job {end(address_of(cluster, address), run)} was asked to end")


@app.command()
def runs(storage: StorageUri = None, home: HomeFolder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the runs of a storage, the newest first. No cluster has to be there."""
    from rayml.run.records import list_runs, print_runs

    listed = list_runs(storage, home)
    if as_json:
        print_json({"runs": listed})
    else:
        print_runs(console(), listed)


@app.command()
def status(
    run: RunName,
    cluster: WhereItRuns = None,
    storage: StorageUri = None,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Say where a run is. No cluster has to be there.

    With the cluster file of a run on Kubernetes, the API server is asked as well while the run is not done.
    """
    from rayml.run.places import kubernetes_of, storage_of
    from rayml.run.records import describe_run, print_run

    on_kubernetes = kubernetes_of(cluster)
    if on_kubernetes is not None:
        from rayml.run.of_kubernetes import describe, print_status

        described = describe(on_kubernetes, home, run, console(stderr=True))
        show = print_status
    else:
        described = describe_run(storage_of(cluster, storage), home, run)
        show = print_run
    if as_json:
        print_json(described)
    else:
        show(console(), described)


@app.command()
def logs(
    run: RunName,
    file: Annotated[str | None, typer.Option("--file", help="A log of this name instead of the events.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    cluster: WhereItRuns = None,
    storage: StorageUri = None,
    home: HomeFolder = DEFAULT_HOME,
) -> None:
    """Print what happened in a run, or a log of one of its processes. No cluster has to be there.

    With the cluster file of a run on Kubernetes that has not written to its storage yet, what its job prints.
    """
    from rayml.run.places import kubernetes_of, storage_of
    from rayml.run.records import print_events, print_log

    on_kubernetes = kubernetes_of(cluster)
    if on_kubernetes is not None:
        from rayml.run.of_kubernetes import print_logs

        print_logs(console(), on_kubernetes, home, run, file, follow, console(stderr=True))
        return
    storage = storage_of(cluster, storage)
    if file is None:
        print_events(console(), storage, home, run, follow)
    else:
        print_log(console(), storage, home, run, file)


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def report(run: RunName, home: HomeFolder = DEFAULT_HOME) -> None:
    """Write a run's report.

    One self-contained HTML file, and the same as JSON beside it.
    """
    from rayml.artifacts.store import LocalStore
    from rayml.observe.runs import Home
    from rayml.report.page import write_report

    folders = Home(home)
    say(str(write_report(folders.find_run(run).path, LocalStore(folders.artifacts))))


@app.command()
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
    from rayml.run.show import job_of, write_job
    from rayml.run.submitted import submissions

    document, notes = job_of(Home(home), run, trial)
    notes += [str(each) for each in submissions(Home(home).find_run(run).path)]
    if as_json:
        print_json(document)
    else:
        say(write_job(document, notes).rstrip())


@app.command()
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


@app.command()
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


@app.command()
def doctor(
    cluster: ClusterFile = None,
    address: Address = None,
    storage: StorageUri = None,
    image: Annotated[bool, typer.Option("--image", help="Inside a container image: what it has to bring.")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="Give the token file mode 0600.")] = False,
    home: HomeFolder = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Say what works here and what does not, and what to type.

    Driver, CUDA, NCCL, torch, Ray, tokens, ports, storage, limits; a cluster too where one is named.
    """
    from rayml.doctor.command import run as examine

    raise typer.Exit(examine(home, cluster, address, storage, image, fix, as_json))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="startup, train, tune, compress or submit.")],
    full: Annotated[
        bool, typer.Option("--full/--quick", help="About 10 minutes, or below 90 seconds.", show_default=True)
    ] = False,
    row: Annotated[
        list[str] | None, typer.Option("--row", metavar="NAME", help="Measure this row alone; repeatable.")
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table for docs/LOG.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a promise of speed.

    Against what a user would pick instead, both run in turn.
    """
    from rayml.bench.harness import refuse_unequal
    from rayml.bench.show import markdown, print_bench
    from rayml.bench.table import run_bench

    document = run_bench(name, "full" if full else "quick", lambda text: say(text, error=True), row or ())
    if as_json:
        print_json(document)
    elif as_markdown:
        say(markdown(document))
    else:
        print_bench(console(), document)
    refuse_unequal(document)


def stages_of(job: JobSpec) -> list[str]:
    """The steps of a job, in order."""
    from rayml.spec.job import STAGES

    return [stage for stage in STAGES if getattr(job, stage) is not None]


def console(stderr: bool = False) -> Console:
    """Where people read."""
    from rich.console import Console

    return Console(stderr=stderr)


def say(text: str, error: bool = False) -> None:
    """One line for a person."""
    typer.echo(text, err=error)


def print_json(document: Any) -> None:
    """The one JSON document of a command, to standard output."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_error(error: Exception) -> None:
    """An error's sentence, to standard error."""
    from rayml.errors import SpecError

    typer.echo(str(error) if isinstance(error, SpecError) else f"error: {error}", err=True)


def go_on() -> str:
    """The command that was typed."""
    import shlex

    from rayml.redact.text import redacted

    return redacted(shlex.join(["rayml", *sys.argv[1:]]))


def print_bug() -> None:
    """A bug in rayml, with all that helps to find it and nothing secret."""
    import traceback

    from rayml.redact.text import redacted

    sys.stderr.write(redacted(traceback.format_exc()))


if __name__ == "__main__":
    main()
