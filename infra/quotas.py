"""vCPUs that the pools may take at most, against the quotas of the account. A new account has none for GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.account import AccountSpec
from infra.pools import pools_of
from rayml.errors import BackendError, PlanError

SERVICE = "ec2"


@dataclass(frozen=True)
class Quota:
    """One of Service Quotas' limits on running vCPUs."""

    code: str
    name: str
    usage_class: str
    """What CloudWatch calls it in the namespace AWS/Usage."""


ON_DEMAND_P = Quota("L-417A185B", "Running On-Demand P instances", "P/OnDemand")
QUOTAS = {
    ("standard", False): Quota(
        "L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", "Standard/OnDemand"
    ),
    ("standard", True): Quota(
        "L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", "Standard/Spot"
    ),
    ("g", False): Quota("L-DB2E81BA", "Running On-Demand G and VT instances", "G/OnDemand"),
    ("g", True): Quota("L-3819A6DF", "All G and VT Spot Instance Requests", "G/Spot"),
    ("p4", False): ON_DEMAND_P,
    ("p5", False): ON_DEMAND_P,
    ("p4", True): Quota("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests", "P/Spot"),
    ("p5", True): Quota("L-C4BD4855", "All P5 Spot Instance Requests", "P5/Spot"),
}
"""Family of an instance type, whether spot -> its quota."""


@dataclass(frozen=True)
class Need:
    """What the pools of an account may take of a quota, all at their largest."""

    quota: Quota
    vcpus: int
    pools: tuple[str, ...]


def needs(account: AccountSpec) -> list[Need]:
    """One for each quota that a pool counts against."""
    found: dict[Quota, list[tuple[str, int]]] = {}
    for pool in pools_of(account):
        quota = QUOTAS[pool.spec.instance.quota, pool.is_spot]
        found.setdefault(quota, []).append((pool.name, pool.spec.max * pool.spec.instance.vcpus))
    return [
        Need(quota, sum(vcpus for _, vcpus in parts), tuple(name for name, _ in parts))
        for quota, parts in found.items()
    ]


def client(region: str) -> Any:
    """Service Quotas of a region, with the credentials that the machine has."""
    try:
        import boto3
    except ImportError:
        raise PlanError("boto3 is not installed", hint="pip install 'rayml[infra]'") from None
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.client("service-quotas", region_name=region)
    except BotoCoreError as error:
        raise BackendError(
            f"Service Quotas cannot be asked: {error}", hint="aws configure list-profiles, then set AWS_PROFILE"
        ) from error


def limit_of(service_quotas: Any, quota: Quota) -> float:
    """vCPUs that the account has. BackendError where AWS does not say."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = service_quotas.get_service_quota(ServiceCode=SERVICE, QuotaCode=quota.code)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        hint = (
            "the role needs servicequotas:GetServiceQuota" if "AccessDenied" in code else "aws sts get-caller-identity"
        )
        raise BackendError(f"Service Quotas refuses {quota.code}: {code}", hint=hint) from error
    except BotoCoreError as error:
        raise BackendError(
            f"Service Quotas cannot be asked: {error}", hint="aws sso login, or set AWS_PROFILE"
        ) from error
    return float(answer["Quota"]["Value"])


@dataclass(frozen=True)
class Answer:
    """A need, and what the account has."""

    need: Need
    limit: float

    @property
    def is_enough(self) -> bool:
        """Whether all of these pools can be at their largest at the same time, with nothing else in the region."""
        return self.need.vcpus <= self.limit

    def request(self, region: str) -> str:
        """What to type to have it raised."""
        return (
            f"aws service-quotas request-service-quota-increase --region {region} --service-code {SERVICE} "
            f"--quota-code {self.need.quota.code} --desired-value {self.need.vcpus}"
        )


def compare(account: AccountSpec, service_quotas: Any) -> list[Answer]:
    """Every need with the account's limit."""
    return [Answer(need, limit_of(service_quotas, need.quota)) for need in needs(account)]


def refuse_too_small(account: AccountSpec, answers: list[Answer]) -> None:
    """PlanError where a quota is too small, with what to type for each."""
    short = [answer for answer in answers if not answer.is_enough]
    if short:
        raise PlanError(
            "; ".join(
                f"{answer.need.quota.name}: {answer.limit:g} vCPUs, and {' and '.join(answer.need.pools)} may take "
                f"{answer.need.vcpus:,}"
                for answer in short
            ),
            where=f"account {account.account}, {account.region}",
            hint="\n  ".join(
                [
                    "ask for more (AWS takes hours to days), or lower `max`:",
                    *(each.request(account.region) for each in short),
                ]
            ),
        )
