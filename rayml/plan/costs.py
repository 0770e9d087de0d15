"""What a plan costs by the prices of its cluster file, in the currency of those."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from rayml.plan.plan import ClusterPlan


class Costs(BaseModel):
    """Money; None where the cluster file has no price for it."""

    model_config = ConfigDict(frozen=True)

    per_hour: float | None = None
    """While a job runs, with every node that the cluster may have."""
    per_month: float | None = None
    """Of what stands whether or not a job runs."""
    run: float | None = None
    """Of this run, with every node for as long as its steps took last time; None where that is not known."""

    def sentence(self) -> str:
        """`costs up to 32.77 an hour while it runs (about 4.10 this time); 513.14 a month stand`; empty without."""
        this = f" (about {self.run:,.2f} this time)" if self.run else ""
        while_running = f"up to {self.per_hour:,.2f} an hour while it runs{this}" if self.per_hour else ""
        standing = f"{self.per_month:,.2f} a month for what stands" if self.per_month else ""
        parts = [part for part in (while_running, standing) if part]
        return f"costs {'; '.join(parts)}" if parts else ""


def costs_of(cluster: ClusterPlan, seconds: float | None) -> Costs:
    """The costs of a run that takes so long on this cluster, as far as it is known."""
    nodes = cluster.nodes
    prices = [cluster.price_per_hour, *([nodes.price_per_hour] * nodes.max if nodes else [])]
    known = [price for price in prices if price is not None]
    per_hour = sum(known) if known else None
    run = per_hour * seconds / 3600 if per_hour is not None and seconds is not None else None
    return Costs(per_hour=per_hour, per_month=cluster.price_per_month, run=run)
