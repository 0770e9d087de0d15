"""List prices of a region, with the day on which they held."""

from __future__ import annotations

import datetime
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from rayml.errors import PlanError

PRICE_FILE = Path(__file__).with_name("prices.yaml")


class Prices(BaseModel):
    """US dollars. A GB is 10^9 bytes for traffic, and 2^30 for what is stored, as AWS counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    eks_cluster_hour: float
    nat_gateway_hour: float
    nat_gateway_gb: float
    public_address_hour: float
    endpoint_hour: float
    """Of one service in one zone."""
    key_month: float
    s3_gb_month: float
    ecr_gb_month: float
    disk_gb_month: float
    alarm_month: float
    log_gb: float
    """Taken in."""
    instances: dict[str, float]
    """Per hour, on-demand."""


class PriceFile(BaseModel):
    """The file as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: datetime.date
    regions: dict[str, Prices]

    def of(self, region: str) -> Prices:
        """The prices of a region. PlanError where the file has none."""
        if region not in self.regions:
            raise PlanError(
                f"no prices of {region}; there are some of {', '.join(self.regions)}",
                where=str(PRICE_FILE.name),
                hint=f"copy a region's section, name it {region}, and put in the prices of the pages it names",
            )
        return self.regions[region]


def read_prices() -> PriceFile:
    """The price file beside this one."""
    return PriceFile.model_validate(yaml.safe_load(PRICE_FILE.read_text()))
