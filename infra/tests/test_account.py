"""What a wrong parameter file is told: where, what is wrong, what fits."""

from __future__ import annotations

import pytest

from infra.costs import monthly, refuse_small_budget
from infra.load import ACCOUNT_FILE, load_account
from infra.prices import read_prices
from rayml.errors import PlanError, SpecError

EXAMPLE = ACCOUNT_FILE.read_text()


def told(tmp_path, *changes: tuple[str, str]) -> str:
    text = EXAMPLE
    for before, after in changes:
        assert before in text, f"the example has no `{before}`"
        text = text.replace(before, after)
    path = tmp_path / "account.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as error:
        load_account(path)
    return str(error.value).replace(f"{tmp_path}/", "")


CASES = {
    "no account": (('account: "111122223333"\n', ""), "account: missing; write the 12 digits of an account"),
    "no region": (("region: us-east-1\n", ""), "region: missing; write `af-south-1`"),
    "region": (("region: us-east-1\n", "region: us-est-1\n"), 'account.yaml:5: region: "us-est-1" is not'),
    "account as a number": (('account: "111122223333"', "account: 111122223333"), 'put it in quotes: "111122223333"'),
    "account too short": (('account: "111122223333"', 'account: "1111"'), "account.yaml:4: account: "),
    "unknown key": (("  nat: one", "  natt: one"), "account.yaml:9: network.natt: no such field; did you mean `nat`?"),
    "unknown instance type": (
        ("p4d.24xlarge", "p4d.48xlarge"),
        "`p4d.48xlarge` is not known here; `p4d.24xlarge` fits",
    ),
    "sizes differ": (("[m7i.4xlarge]", "[m7i.4xlarge, r7i.4xlarge]"), "differ in size"),
    "max below min": (("min: 2, max: 3", "min: 4, max: 3"), "max 3 is below min 4"),
    "no system node": (("min: 2, max: 3", "min: 0, max: 3"), "system.min is 0"),
    "GPUs in the pool of CPUs": (("[m7i.4xlarge]", "[g6.2xlarge]"), "cpu has `g6.2xlarge`, which is paid for its GPUs"),
    "no GPU in the pool of GPUs": (("[p4d.24xlarge]", "[m7i.xlarge]"), "gpu has `m7i.xlarge`, which has no GPU"),
    "cidr of a host": (("10.42.0.0/16", "10.42.0.1/16"), "`10.42.0.1/16` is not a block of addresses"),
    "public cidr": (("10.42.0.0/16", "52.0.0.0/16"), "`52.0.0.0/16` is not private"),
    "cidr too small": (("10.42.0.0/16", "10.42.0.0/24"), "`10.42.0.0/24` is too small; from /16 to /22 fits"),
    "cidr too large": (("10.42.0.0/16", "10.0.0.0/8"), "`10.0.0.0/8` is too large"),
    "cidr too small for its nodes": (
        ("10.42.0.0/16", "10.42.0.0/22"),
        "network.cidr `10.42.0.0/22` has 502 private addresses, and 25 nodes take 1,500",
    ),
    "zone of another region": (("us-east-1b]", "us-west-2b]"), "zone `us-west-2b` is not one of us-east-1"),
    "one zone": (("[us-east-1a, us-east-1b]", "[us-east-1a]"), "network.zones"),
    "zone of a pool": (
        ("zone: us-east-1a}", "zone: us-east-1c}"),
        "zone `us-east-1c` of a pool is not one of `us-east-1a`",
    ),
    "the whole internet": (("203.0.113.0/24", "0.0.0.0/0"), "`0.0.0.0/0` is most of the internet"),
    "nobody who may": (('admins: ["arn:aws:iam::111122223333:role/rayml-admin"]', "admins: []"), "cluster.admins"),
    "a key in place of a role": (
        ("arn:aws:iam::111122223333:role/rayml-admin", "AKIAEXAMPLE"),
        "is not the ARN of a role",
    ),
    "old version": (('version: "1.35"', 'version: "1.29"'), 'cluster.version: "1.29" is not `1.33`'),
    "version without quotes": (('version: "1.35"', "version: 1.35"), 'put it in quotes: "1.35"'),
    "images that clash": (
        ("[rayml, kuberay/operator]", "[rayml, kuberay/operator, kuberay-operator]"),
        "images: `kuberay/operator` and `kuberay-operator` differ only in `/` and `-`",
    ),
    "shared folder": (
        ("{namespace: rayml}", "{namespace: rayml}\n  - {namespace: vision, prefix: rayml/vision}"),
        "teams: `rayml` and `rayml/vision` share a folder",
    ),
    "same namespace": (
        ("{namespace: rayml}", "{namespace: rayml}\n  - {namespace: rayml, prefix: vision}"),
        "teams: two have the same namespace",
    ),
    "data of other teams": (
        ("{namespace: rayml}", "{namespace: rayml, reads: [rayml-111122223333-us-east-1/vision]}"),
        "teams: reads names `rayml-111122223333-us-east-1`, where each team has a folder of its own",
    ),
    "data by an address": (
        ("{namespace: rayml}", '{namespace: rayml, reads: ["s3://our-data"]}'),
        "is not a bucket with or without a folder, such as `our-data/images`",
    ),
    "budget of 0": (("budget_usd_per_month: 5000", "budget_usd_per_month: 0"), "0 is not a number above 0"),
    "a zone twice": (("us-east-1b]", "us-east-1a]"), "network.zones: `us-east-1a` stands there twice"),
    "an image twice": (("images: [rayml,", "images: [rayml, rayml,"), "images: `rayml` stands there twice"),
    "an admin twice": (
        ("admins: [", 'admins: ["arn:aws:iam::111122223333:role/rayml-admin", '),
        "cluster.admins: `arn:aws:iam::111122223333:role/rayml-admin` stands there twice",
    ),
    "an address twice": (
        ("[platform@example.com]", "[platform@example.com, platform@example.com]"),
        "watch.emails: `platform@example.com` stands there twice",
    ),
    "an endpoint twice": (("  nat: one", "  nat: one\n  endpoints: [sts, sts]"), "network.endpoints: `sts` stands"),
    "an account twice": (
        ("{namespace: rayml}", "{namespace: rayml, accounts: [x, x]}"),
        "teams.0.accounts: `x` stands there twice",
    ),
    "data twice": (
        ("{namespace: rayml}", "{namespace: rayml, reads: [our-data, our-data]}"),
        "teams.0.reads: `our-data` stands there twice",
    ),
    "a role that IAM does not take": (
        ("{namespace: rayml}", f"{{namespace: {'a' * 49}}}"),
        "has 65 characters, and IAM takes 64; write a shorter `name`, or a namespace of 48 at most",
    ),
    "mail": (("platform@example.com", "platform"), "watch.emails"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_wrong_file_is_told_what_fits(case, tmp_path):
    change, expected = case
    assert expected in told(tmp_path, change)


def test_every_problem_is_told_at_once_and_with_its_line(tmp_path):
    text = told(
        tmp_path,
        ("region: us-east-1\n", "region: mars\n"),
        ("min: 2, max: 3", "min: 4, max: 3"),
        ("nat: one", "nat: two"),
    )
    assert [line.split(":")[1] for line in text.splitlines()] == ["5", "9", "15"]


def test_a_budget_below_what_stands_is_refused(account):
    costs = monthly(account, read_prices().of(account.region))
    small = account.model_copy(update={"watch": account.watch.model_copy(update={"budget_usd_per_month": 100})})
    with pytest.raises(PlanError, match="a budget of 100 USD per month, and 513 are spent while nothing runs"):
        refuse_small_budget(small, costs)
    refuse_small_budget(account, costs)
