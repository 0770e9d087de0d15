"""Quotas, asked of botocore's own stub of the service: names, shapes and errors are AWS's."""

from __future__ import annotations

import boto3
import pytest
from botocore.stub import Stubber

from infra import quotas
from rayml.errors import BackendError, PlanError


@pytest.fixture
def service():
    client = boto3.client(
        "service-quotas", region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
    )
    with Stubber(client) as stub:
        yield client, stub


def answer(stub: Stubber, code: str, value: float) -> None:
    stub.add_response(
        "get_service_quota", {"Quota": {"QuotaCode": code, "Value": value}}, {"ServiceCode": "ec2", "QuotaCode": code}
    )


def test_needs_are_the_pools_at_their_largest(account):
    assert [(need.quota.code, need.vcpus, need.pools) for need in quotas.needs(account)] == [
        ("L-1216C47A", 3 * 4 + 16 * 16, ("system", "cpu")),
        ("L-417A185B", 2 * 96, ("gpu",)),
        ("L-C4BD4855", 4 * 192, ("gpu-spot",)),
    ]


def test_a_quota_that_is_large_enough_is_ok(account, service):
    client, stub = service
    for code, value in (("L-1216C47A", 268.0), ("L-417A185B", 192.0), ("L-C4BD4855", 1000.0)):
        answer(stub, code, value)
    answers = quotas.compare(account, client)
    assert [each.is_enough for each in answers] == [True, True, True]
    quotas.refuse_too_small(account, answers)
    stub.assert_no_pending_responses()


def test_a_new_account_has_no_gpus_and_is_told_what_to_type(account, service):
    client, stub = service
    for code, value in (("L-1216C47A", 1152.0), ("L-417A185B", 0.0), ("L-C4BD4855", 192.0)):
        answer(stub, code, value)
    with pytest.raises(PlanError) as error:
        quotas.refuse_too_small(account, quotas.compare(account, client))
    text = str(error.value)
    assert "account 111122223333, us-east-1: Running On-Demand P instances: 0 vCPUs, and gpu may take 192" in text
    assert "All P5 Spot Instance Requests: 192 vCPUs, and gpu-spot may take 768" in text
    assert (
        "aws service-quotas request-service-quota-increase --region us-east-1 --service-code ec2 "
        "--quota-code L-417A185B --desired-value 192" in text
    )
    assert error.value.exit_code == 2


def test_a_role_that_may_not_ask_is_told_what_it_needs(account, service):
    client, stub = service
    stub.add_client_error("get_service_quota", "AccessDeniedException", http_status_code=403)
    with pytest.raises(BackendError, match="servicequotas:GetServiceQuota"):
        quotas.compare(account, client)


def test_no_credentials(account, monkeypatch):
    from botocore.exceptions import NoCredentialsError

    class Without:
        def get_service_quota(self, **_: str) -> None:
            raise NoCredentialsError

    with pytest.raises(BackendError, match="aws sso login"):
        quotas.compare(account, Without())
