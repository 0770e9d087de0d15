"""What the cluster autoscaler may do: look at every group of nodes, change this cluster's.

The Kubernetes cluster-autoscaler over managed node groups, and not Karpenter: the pools are few and fixed, because
Kueue's flavours (k8s/) name their labels and quotas. This way labels, taints and limits stand in the template, where
tests, cfn-lint and cdk-nag see them. Managed groups drain spot nodes by themselves. What is given up: a free choice of
instance types for each pod.
"""

from __future__ import annotations

from aws_cdk import aws_eks_v2, aws_iam
from constructs import Construct

from infra.account import AccountSpec
from infra.stacks.findings import accept
from infra.stacks.pod_identity import assumed_by_pods, bind

NAMESPACE, ACCOUNT = "kube-system", "cluster-autoscaler"
"""As in infra/helm/cluster-autoscaler.yaml."""

LOOKING = (
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeLaunchConfigurations",
    "autoscaling:DescribeScalingActivities",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeLaunchTemplateVersions",
    "ec2:GetInstanceTypesFromInstanceRequirements",
)
SCALING = ("autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup")


def let_autoscaler_scale(scope: Construct, cluster: aws_eks_v2.Cluster, account: AccountSpec) -> None:
    """A role for its service account."""
    role = aws_iam.Role(scope, "AutoscalerRole", assumed_by=assumed_by_pods(account, NAMESPACE, [ACCOUNT]))
    role.add_to_policy(aws_iam.PolicyStatement(actions=list(LOOKING), resources=["*"]))
    groups = f"arn:aws:eks:{account.region}:{account.account}:nodegroup/{account.name}/*/*"
    role.add_to_policy(aws_iam.PolicyStatement(actions=["eks:DescribeNodegroup"], resources=[groups]))
    scaled = f"arn:aws:autoscaling:{account.region}:{account.account}:autoScalingGroup:*:autoScalingGroupName/eks-*"
    owned = {"StringEquals": {f"aws:ResourceTag/k8s.io/cluster-autoscaler/{account.name}": "owned"}}
    role.add_to_policy(aws_iam.PolicyStatement(actions=list(SCALING), resources=[scaled], conditions=owned))
    accept(role, "IAM5[Resource::*]", "These actions only read, and AWS lets none of them be narrowed to a resource.")
    accept(
        role,
        f"IAM5[Resource::{groups}]",
        "Reads the node groups of this cluster; the wildcards stand for names that EKS makes up.",
    )
    accept(
        role,
        f"IAM5[Resource::{scaled}]",
        "EKS makes up the groups' names; the condition on the tag that EKS sets leaves those of this cluster.",
    )
    bind(scope, "Bind-autoscaler", cluster, NAMESPACE, ACCOUNT, role)
