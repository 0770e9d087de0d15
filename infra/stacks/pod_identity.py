"""Roles that pods get by their service account (EKS Pod Identity): no keys, nothing that could be copied.

boto3 and Arrow's C++ both take them (tests/artifacts/test_pod_identity.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import aws_eks_v2, aws_iam
from constructs import Construct

from infra.account import AccountSpec

SERVICE = "pods.eks.amazonaws.com"


def assumed_by_pods(account: AccountSpec, namespace: str, accounts: Sequence[str]) -> aws_iam.IPrincipal:
    """Who may take a role: pods of these service accounts, of this cluster. EKS names all three in its request.

    The tags are those of the EKS user guide, page `pod-id-abac`.
    """
    conditions = {
        "StringEquals": {
            "aws:RequestTag/eks-cluster-arn": f"arn:aws:eks:{account.region}:{account.account}:cluster/{account.name}",
            "aws:RequestTag/kubernetes-namespace": namespace,
            "aws:RequestTag/kubernetes-service-account": list(accounts),
        }
    }
    return aws_iam.PrincipalWithConditions(aws_iam.SessionTagsPrincipal(aws_iam.ServicePrincipal(SERVICE)), conditions)


def bind(
    scope: Construct, name: str, cluster: aws_eks_v2.Cluster, namespace: str, account: str, role: aws_iam.Role
) -> None:
    """Give a service account's pods a role. The account need not be there yet."""
    aws_eks_v2.CfnPodIdentityAssociation(
        scope,
        name,
        cluster_name=cluster.cluster_name,
        namespace=namespace,
        service_account=account,
        role_arn=role.role_arn,
    )
