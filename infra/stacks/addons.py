"""EKS's own parts of a cluster: network, DNS, and the agent that hands out roles to pods."""

from __future__ import annotations

import json

from aws_cdk import aws_eks_v2, aws_iam
from constructs import Construct

from infra.account import AccountSpec
from infra.stacks.findings import accept
from infra.stacks.pod_identity import assumed_by_pods

NETWORK_PLUGIN_ACCOUNT = "aws-node"


def add_addon(
    scope: Construct,
    cluster: aws_eks_v2.Cluster,
    name: str,
    configuration: dict[str, str] | None = None,
    roles: dict[str, aws_iam.Role] | None = None,
) -> aws_eks_v2.CfnAddon:
    """One of EKS's parts, in the version that EKS holds for the right one.

    Args:
        roles: service account -> what its pods may do in the account.
    """
    return aws_eks_v2.CfnAddon(
        scope,
        f"Addon-{name}",
        addon_name=name,
        cluster_name=cluster.cluster_name,
        resolve_conflicts="OVERWRITE",
        configuration_values=json.dumps(configuration) if configuration else None,
        pod_identity_associations=[
            aws_eks_v2.CfnAddon.PodIdentityAssociationProperty(role_arn=role.role_arn, service_account=account)
            for account, role in (roles or {}).items()
        ]
        or None,
    )


def add_network_plugin(scope: Construct, cluster: aws_eks_v2.Cluster, account: AccountSpec) -> aws_eks_v2.CfnAddon:
    """With network policies switched on: without, those of k8s/ are taken in and protect nothing."""
    role = aws_iam.Role(
        scope,
        "NetworkPluginRole",
        assumed_by=assumed_by_pods(account, "kube-system", [NETWORK_PLUGIN_ACCOUNT]),
        managed_policies=[aws_iam.ManagedPolicy.from_aws_managed_policy_name("AmazonEKS_CNI_Policy")],
    )
    accept(
        role,
        "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonEKS_CNI_Policy]",
        "The plugin's own policy, kept by AWS; bound to its service account, so no right of nodes or of other pods.",
    )
    return add_addon(scope, cluster, "vpc-cni", {"enableNetworkPolicy": "true"}, roles={NETWORK_PLUGIN_ACCOUNT: role})
