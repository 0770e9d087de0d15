"""The cost table, in numbers that can be worked out by hand."""

from __future__ import annotations

import pytest

from infra.costs import HOURS, by_use, monthly
from infra.prices import read_prices
from rayml.errors import PlanError


def rows(account):
    return {row.name: row for row in monthly(account, read_prices().of(account.region))}


def test_what_stands(account):
    found = rows(account)
    assert found["control plane"].least == pytest.approx(0.10 * 730)
    assert found["ways out (NAT)"].least == pytest.approx((0.045 + 0.005) * 730)
    assert found["endpoints"].least == pytest.approx(6 * 2 * 0.01 * 730)
    assert found["keys"].least == 5
    assert found["nodes: system"].least == pytest.approx(2 * (0.2016 * HOURS + 100 * 0.08))


def test_what_it_may_become(account):
    found = rows(account)
    assert (found["nodes: gpu"].least, found["nodes: cpu"].least) == (0, 0)
    assert found["nodes: gpu"].most == pytest.approx(2 * (21.957642 * HOURS + 800 * 0.08))
    assert "spot" in found["nodes: gpu-spot"].note


def test_use_is_per_100_gb():
    assert dict(by_use(read_prices().of("us-east-1")))["bucket, 100 GB kept (old versions count)"] == pytest.approx(2.3)


def test_a_region_without_prices_is_told_what_to_write():
    with pytest.raises(PlanError, match="no prices of eu-north-1") as error:
        read_prices().of("eu-north-1")
    assert "copy a region's section" in error.value.hint


def test_a_type_without_a_price_is_told_what_to_write(account):
    prices = read_prices().of(account.region)
    without = prices.model_copy(update={"instances": {}})
    with pytest.raises(PlanError, match=r"no price of m7i\.xlarge"):
        monthly(account, without)
