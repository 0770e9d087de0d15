"""Keys that encrypt, each for one kind of thing, and who of AWS's services may use them."""

from __future__ import annotations

from aws_cdk import Duration, RemovalPolicy, aws_iam, aws_kms
from constructs import Construct

ROTATION_DAYS = 365


def key(scope: Construct, name: str, alias: str, description: str) -> aws_kms.Key:
    """A key that is made anew every year. It outlives its stack: without it, what it encrypted is lost."""
    return aws_kms.Key(
        scope,
        name,
        alias=alias,
        description=description,
        enable_key_rotation=True,
        rotation_period=Duration.days(ROTATION_DAYS),
        pending_window=Duration.days(30),
        removal_policy=RemovalPolicy.RETAIN,
    )


def let_logs_use(made: aws_kms.Key, region: str, log_group_arn: str) -> None:
    """CloudWatch Logs encrypts one log group with it, and no other."""
    made.add_to_resource_policy(
        aws_iam.PolicyStatement(
            principals=[aws_iam.ServicePrincipal(f"logs.{region}.amazonaws.com")],
            actions=[
                "kms:Encrypt",
                "kms:Decrypt",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
                "kms:GenerateDataKey",
                "kms:DescribeKey",
            ],
            resources=["*"],
            conditions={"ArnEquals": {"kms:EncryptionContext:aws:logs:arn": log_group_arn}},
        )
    )


def let_services_publish(made: aws_kms.Key, services: tuple[str, ...]) -> None:
    """Services that send to a topic which it encrypts. For which account they may is said by the topic's policy."""
    for service in services:
        made.add_to_resource_policy(
            aws_iam.PolicyStatement(
                principals=[aws_iam.ServicePrincipal(service)],
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                resources=["*"],
            )
        )
