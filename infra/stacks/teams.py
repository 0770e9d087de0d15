"""What a team's pods may do in the account: read and write its folder of the bucket, and read data that is named."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import CfnOutput, aws_eks_v2, aws_iam, aws_kms
from constructs import Construct

from infra.account import AccountSpec, TeamSpec
from infra.stacks.findings import accept
from infra.stacks.pod_identity import assumed_by_pods, bind

OBJECT_ACTIONS = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
"""What rayml/artifacts/bucket.py asks for. What was written over is out of reach, for a run gone wrong as well."""
KEY_ACTIONS = ("kms:Decrypt", "kms:GenerateDataKey")


def let_team_use_bucket(
    scope: Construct, cluster: aws_eks_v2.Cluster, account: AccountSpec, team: TeamSpec, data_key: aws_kms.IKey
) -> None:
    """A role of the team's own, for its service accounts."""
    bucket, folder = f"arn:aws:s3:::{account.bucket}", team.folder
    role = aws_iam.Role(
        scope,
        f"Team-{team.namespace}",
        role_name=account.role_of(team),
        description=f"Pods of namespace {team.namespace}: s3://{account.bucket}/{folder}",
        assumed_by=assumed_by_pods(account, team.namespace, team.accounts),
    )
    allow(role, ["s3:ListBucket"], bucket, {"StringLike": {"s3:prefix": [folder, f"{folder}/*"]}})
    allow(role, list(OBJECT_ACTIONS), f"{bucket}/{folder}/*")
    through_s3 = {"StringEquals": {"kms:ViaService": f"s3.{account.region}.amazonaws.com"}}
    allow(role, list(KEY_ACTIONS), data_key.key_arn, through_s3)
    accept(
        role,
        f"IAM5[Resource::{bucket}/{folder}/*]",
        "Objects have names that runs make up; the wildcard ends at the team's folder, and no action has one.",
    )
    for place in team.reads:
        let_read(role, place)
    for name in team.accounts:
        bind(scope, f"Bind-{team.namespace}-{name}", cluster, team.namespace, name, role)
    CfnOutput(scope, f"Role-{team.namespace}", value=role.role_arn)


def let_read(role: aws_iam.Role, place: str) -> None:
    """Data of others: to list and to read. A bucket of another account, or one with a key of its own, has to agree."""
    name, _, folder = place.partition("/")
    bucket = f"arn:aws:s3:::{name}"
    prefixes = {"StringLike": {"s3:prefix": [folder, f"{folder}/*"]}} if folder else None
    allow(role, ["s3:ListBucket"], bucket, prefixes)
    objects = f"{bucket}/{folder}/*" if folder else f"{bucket}/*"
    allow(role, ["s3:GetObject"], objects)
    accept(role, f"IAM5[Resource::{objects}]", "Data has names that others make up; it is read, and never written.")


def allow(
    role: aws_iam.Role, actions: list[str], resource: str, conditions: Mapping[str, object] | None = None
) -> None:
    """One statement."""
    role.add_to_policy(aws_iam.PolicyStatement(actions=actions, resources=[resource], conditions=conditions))
