"""The command line: parse, call one function, print."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from infra import node, quotas
from infra.costs import Cost, by_use, monthly, price_of, refuse_small_budget, to_json
from infra.fit import place
from infra.load import load_account
from infra.pools import pools_of
from infra.prices import read_prices
from rayml.errors import PlanError, RaymlError, SpecError
from rayml.spec.kuberay import KubeRayCluster
from rayml.spec.load import load_cluster

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
AccountFile = Annotated[Path, typer.Argument(metavar="ACCOUNT", help="The parameter file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
ACCOUNT_FILE = Path("infra/account.yaml")
TEMPLATES = Path("build/infra")


def main() -> None:
    """The entry point: a RaymlError becomes its sentence and its exit code."""
    try:
        app(prog_name="python -m infra")
    except RaymlError as error:
        typer.echo(str(error) if isinstance(error, SpecError) else f"error: {error}", err=True)
        sys.exit(error.exit_code)


@app.command()
def check(account: AccountFile = ACCOUNT_FILE) -> None:
    """Check the parameter file, the budget against what stands, and node."""
    spec = load_account(account)
    refuse_small_budget(spec, monthly(spec, read_prices().of(spec.region)))
    warn_about_node()
    typer.echo(f"{account}: ok; {spec.name} in {spec.region} of {spec.account}, bucket s3://{spec.bucket}")


@app.command()
def synth(
    account: AccountFile = ACCOUNT_FILE, to: Annotated[Path, typer.Option(help="Where the templates go.")] = TEMPLATES
) -> None:
    """Write the templates that `cdk deploy --app` sends. Fails where cdk-nag finds something."""
    spec = load_account(account)
    warn_about_node()
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"{to} cannot be made: {error.strerror}", where="--to", hint="name another folder") from None
    node.quiet_jsii()
    from infra.app import build

    build(spec, to).synth()
    for template in sorted(to.glob("*.template.json")):
        typer.echo(f"{template}  {template.stat().st_size:,} bytes")


@app.command()
def costs(account: AccountFile = ACCOUNT_FILE, as_json: AsJson = False) -> None:
    """What the account costs per month, at list prices."""
    spec, file = load_account(account), read_prices()
    prices = file.of(spec.region)
    rows = monthly(spec, prices)
    if as_json:
        typer.echo(json.dumps(to_json(spec, rows, prices, str(file.date)), indent=2))
        return
    typer.echo(f"USD per month in {spec.region}, list prices of {file.date} (infra/prices.yaml)")
    typer.echo(table(rows))
    typer.echo("and by use")
    for name, cost in by_use(prices):
        typer.echo(f"{name:<40}{cost:>12,.2f}")


@app.command()
def prices(
    clusters: Annotated[list[Path], typer.Argument(metavar="CLUSTER...", help="Cluster files of kind kuberay.")],
    account: Annotated[Path, typer.Option(help="The parameter file.")] = ACCOUNT_FILE,
) -> None:
    """`price_per_hour` of a cluster file's groups in this account, and the pools that they stand in."""
    spec = load_account(account)
    listed = read_prices().of(spec.region)
    for path in clusters:
        cluster = load_cluster(path)
        if not isinstance(cluster, KubeRayCluster):
            raise PlanError("no groups in it", where=str(path), hint="name a cluster file of kind kuberay")
        for group in cluster.groups:
            found = place(group, pools_of(spec))
            if found is None:
                raise PlanError(
                    f"no pool holds a pod of group `{group.name}`",
                    where=str(path),
                    hint="compare its size, node_selector and tolerations with the pools of the parameter file",
                )
            price = found.price_per_hour(price_of(found.pool.spec.instances[0], listed))
            most = "  # at most: on-demand" if found.pool.is_spot else ""
            typer.echo(
                f"{path}: {group.name}: price_per_hour: {price:.2f}{most}  pool {found.pool.name}, "
                f"{found.pods_per_node} to a {found.pool.spec.instances[0]}"
            )


@app.command("quotas")
def compare_quotas(account: AccountFile = ACCOUNT_FILE) -> None:
    """Compare the vCPUs of the pools with Service Quotas. Asks AWS; needs servicequotas:GetServiceQuota."""
    spec = load_account(account)
    answers = quotas.compare(spec, quotas.client(spec.region))
    for answer in answers:
        verdict = "ok" if answer.is_enough else "too small"
        typer.echo(f"{verdict:<10}{answer.limit:>8,.0f} of {answer.need.vcpus:>8,} vCPUs  {answer.need.quota.name}")
    quotas.refuse_too_small(spec, answers)


def warn_about_node() -> None:
    """To standard error, so that what a command prints stays what it is."""
    told = node.warning(node.installed(), datetime.datetime.now(datetime.UTC).date())
    if told:
        typer.echo(f"warning: {told}", err=True)


def table(rows: list[Cost]) -> str:
    """Lines of name, least, most and note, and their sums."""
    total = Cost("together", sum(row.least for row in rows), sum(row.most for row in rows))
    lines = [f"{'':<18}{'nothing runs':>14}{'all at most':>14}"]
    lines += [f"{row.name:<18}{row.least:>14,.2f}{row.most:>14,.2f}  {row.note}".rstrip() for row in [*rows, total]]
    return "\n".join(lines)
