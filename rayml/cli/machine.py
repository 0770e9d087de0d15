"""This machine: what works on it, and how fast rayml is there."""

from __future__ import annotations

from typing import Annotated

import typer

from rayml.cli.options import DEFAULT_HOME, Address, AsJson, ClusterFile, HomeFolder, StorageUri
from rayml.cli.output import console, print_json, say


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
