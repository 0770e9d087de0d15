"""What the account costs per month: while nothing runs, and with every pool at its largest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from infra.account import AccountSpec
from infra.pools import pools_of
from infra.prices import Prices
from infra.quotas import needs
from rayml.errors import PlanError

HOURS = 730
"""Of a month, as AWS counts."""
KEYS = 5
"""Log of refused traffic, bucket, images, cluster, alerts."""
CONTROL_PLANE_ALARMS = 3


@dataclass(frozen=True)
class Cost:
    """One line, in US dollars per month."""

    name: str
    least: float
    most: float
    note: str = ""


def monthly(account: AccountSpec, prices: Prices) -> list[Cost]:
    """What stands by the hour. Traffic and storage come on top (`by_use`). PlanError where a type has no price."""
    ways_out = 1 if account.network.nat == "one" else len(account.network.zones)
    doors = len(account.network.endpoints) * len(account.network.zones)
    alarms = CONTROL_PLANE_ALARMS + ways_out + len(needs(account))
    standing = [
        ("control plane", prices.eks_cluster_hour * HOURS, "1 cluster"),
        (
            "ways out (NAT)",
            ways_out * (prices.nat_gateway_hour + prices.public_address_hour) * HOURS,
            f"{ways_out} with an address",
        ),
        (
            "endpoints",
            doors * prices.endpoint_hour * HOURS,
            f"{len(account.network.endpoints)} in {len(account.network.zones)} zones",
        ),
        ("keys", KEYS * prices.key_month, f"{KEYS} of KMS, and 1 more for each of the first two rotations"),
        ("alarms", alarms * prices.alarm_month, f"{alarms}"),
    ]
    return [*(Cost(name, cost, cost, note) for name, cost, note in standing), *nodes(account, prices)]


def nodes(account: AccountSpec, prices: Prices) -> list[Cost]:
    """A line for each pool."""
    found = []
    for pool in pools_of(account):
        spec = pool.spec
        name = spec.instances[0]
        each = price_of(name, prices) * HOURS + spec.disk_gib * prices.disk_gb_month
        note = f"{spec.min} to {spec.max} {name}" + (
            ", spot: less than this, by the hour's price" if pool.is_spot else ""
        )
        found.append(Cost(f"nodes: {pool.name}", spec.min * each, spec.max * each, note))
    return found


def price_of(name: str, prices: Prices) -> float:
    """Of an instance type, per hour."""
    if name not in prices.instances:
        raise PlanError(f"no price of {name}", where="prices.yaml", hint=f"write its line: {name}: DOLLARS_PER_HOUR")
    return prices.instances[name]


def by_use(prices: Prices) -> list[tuple[str, float]]:
    """What depends on use, per month."""
    return [
        ("bucket, 100 GB kept (old versions count)", 100 * prices.s3_gb_month),
        ("images, 100 GB kept", 100 * prices.ecr_gb_month),
        ("way out, 100 GB through NAT", 100 * prices.nat_gateway_gb),
        ("logs, 10 GB taken in", 10 * prices.log_gb),
    ]


def refuse_small_budget(account: AccountSpec, costs: list[Cost]) -> None:
    """PlanError where the budget is below what stands: it would tell every month, and so tell nothing."""
    least, budget = sum(cost.least for cost in costs), account.watch.budget_usd_per_month
    if budget < least:
        raise PlanError(
            f"a budget of {budget:,.0f} USD per month, and {least:,.0f} are spent while nothing runs",
            where="watch.budget_usd_per_month",
            hint=f"write at least {least + 1:.0f}, or lower `min` of a pool (python -m infra costs)",
        )


def to_json(account: AccountSpec, costs: list[Cost], prices: Prices, date: str) -> dict[str, Any]:
    """The table as a document."""
    return {
        "account": account.account,
        "region": account.region,
        "currency": "USD",
        "list_prices_of": date,
        "rows": [asdict(cost) for cost in costs],
        "least_per_month": round(sum(cost.least for cost in costs), 2),
        "most_per_month": round(sum(cost.most for cost in costs), 2),
        "by_use": dict(by_use(prices)),
    }
