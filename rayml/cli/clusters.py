"""Jobs and runs on clusters: Ray elsewhere, Kubernetes, and one on this machine that stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rayml.cli.options import (
    DEFAULT_HOME,
    NO_GATES,
    NO_OVERRIDES,
    Address,
    AsJson,
    ClusterFile,
    HomeFolder,
    JobFile,
    Overrides,
    RunName,
    StorageUri,
    WhereItRuns,
)
from rayml.cli.output import console, print_json, say


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
        from rayml.run.sending import in_words

        whole = resolve(job, overrides, named, home, to)[0]
        if dry:
            sys.stdout.write(to_kubernetes.dry_run(whole, named, name))
            for line in in_words(whole):
                console(stderr=True).print(line, highlight=False, markup=False)
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


def runs(storage: StorageUri = None, home: HomeFolder = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the runs of a storage, the newest first. No cluster has to be there."""
    from rayml.run.records import list_runs, print_runs

    listed = list_runs(storage, home)
    if as_json:
        print_json({"runs": listed})
    else:
        print_runs(console(), listed)


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
