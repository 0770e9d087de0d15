"""The control plane, and in which order what belongs to it is made."""

from __future__ import annotations

from aws_cdk import CfnOutput, Environment, RemovalPolicy, Stack, aws_ec2, aws_eks_v2, aws_iam, aws_kms, aws_logs
from constructs import Construct

from infra.account import AccountSpec
from infra.pools import pools_of
from infra.stacks.addons import add_addon, add_network_plugin
from infra.stacks.autoscaler import let_autoscaler_scale
from infra.stacks.findings import accept
from infra.stacks.keys import key, let_logs_use
from infra.stacks.nodes import add_pool, make_node_role
from infra.stacks.teams import let_team_use_bucket

RETENTION = {
    30: aws_logs.RetentionDays.ONE_MONTH,
    60: aws_logs.RetentionDays.TWO_MONTHS,
    90: aws_logs.RetentionDays.THREE_MONTHS,
    180: aws_logs.RetentionDays.SIX_MONTHS,
    365: aws_logs.RetentionDays.ONE_YEAR,
    731: aws_logs.RetentionDays.TWO_YEARS,
}


class ClusterStack(Stack):
    """EKS with managed node groups. No function of AWS Lambda in it: what runs inside comes by kubectl and helm."""

    def __init__(
        self,
        scope: Construct,
        account: AccountSpec,
        env: Environment,
        vpc: aws_ec2.IVpc,
        data_key: aws_kms.IKey,
    ) -> None:
        super().__init__(scope, f"{account.name}-cluster", env=env, description="rayml: EKS")
        cluster_key = key(
            self, "ClusterKey", f"{account.name}/cluster", "Encrypts secrets and the control plane's logs"
        )
        log = keep_logs(self, account, cluster_key)
        cluster = make_cluster(self, account, vpc, cluster_key)
        cluster.node.add_dependency(log)
        # In this order: a node without network plugin is never ready, and DNS is never ready without a node.
        before_nodes = [
            add_network_plugin(self, cluster, account),
            add_addon(self, cluster, "kube-proxy"),
            add_addon(self, cluster, "eks-pod-identity-agent"),
        ]
        role = make_node_role(self)
        nodes = [add_pool(self, cluster, account, pool, role, vpc) for pool in pools_of(account)]
        for group in nodes:
            group.node.add_dependency(*before_nodes)
        add_addon(self, cluster, "coredns").node.add_dependency(nodes[0])
        let_autoscaler_scale(self, cluster, account)
        for team in account.teams:
            let_team_use_bucket(self, cluster, account, team, data_key)
        CfnOutput(
            self,
            "Context",
            value=f"aws eks update-kubeconfig --name {account.name} --region {account.region} --alias {account.name}",
        )


def keep_logs(scope: Construct, account: AccountSpec, cluster_key: aws_kms.Key) -> aws_logs.LogGroup:
    """Made before the cluster, which would make it itself, unencrypted and kept for ever."""
    name = f"/aws/eks/{account.name}/cluster"
    let_logs_use(cluster_key, account.region, f"arn:aws:logs:{account.region}:{account.account}:log-group:{name}")
    return aws_logs.LogGroup(
        scope,
        "Log",
        log_group_name=name,
        retention=RETENTION[account.cluster.log_days],
        encryption_key=cluster_key,
        removal_policy=RemovalPolicy.RETAIN,
    )


def make_cluster(
    scope: Construct, account: AccountSpec, vpc: aws_ec2.IVpc, cluster_key: aws_kms.Key
) -> aws_eks_v2.Cluster:
    """Secrets encrypted, every log on, no rights for whoever happened to create it."""
    cluster = aws_eks_v2.Cluster(
        scope,
        "Cluster",
        cluster_name=account.name,
        version=aws_eks_v2.KubernetesVersion.of(account.cluster.version),
        vpc=vpc,
        vpc_subnets=[aws_ec2.SubnetSelection(subnet_type=aws_ec2.SubnetType.PRIVATE_WITH_EGRESS)],
        default_capacity_type=aws_eks_v2.DefaultCapacityType.NODEGROUP,
        default_capacity=0,
        secrets_encryption_key=cluster_key,
        cluster_logging=list(aws_eks_v2.ClusterLoggingTypes),
        endpoint_access=endpoint_access(account),
        bootstrap_cluster_creator_admin_permissions=False,
        bootstrap_self_managed_addons=False,
        output_config_command=False,
        role=make_control_plane_role(scope),
    )
    for at, arn in enumerate(account.cluster.admins):
        cluster.grant_cluster_admin(f"Admin{at}", arn)
    return cluster


def endpoint_access(account: AccountSpec) -> aws_eks_v2.EndpointAccess:
    """Nodes always take the private way."""
    blocks = account.cluster.public_access
    return (
        aws_eks_v2.EndpointAccess.PUBLIC_AND_PRIVATE.only_from(*blocks) if blocks else aws_eks_v2.EndpointAccess.PRIVATE
    )


def make_control_plane_role(scope: Construct) -> aws_iam.Role:
    """What EKS itself may do in the account."""
    role = aws_iam.Role(
        scope,
        "ControlPlaneRole",
        assumed_by=aws_iam.ServicePrincipal("eks.amazonaws.com"),
        managed_policies=[aws_iam.ManagedPolicy.from_aws_managed_policy_name("AmazonEKSClusterPolicy")],
    )
    accept(
        role,
        "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonEKSClusterPolicy]",
        "EKS requires this policy by name, and AWS keeps it in step with what its control plane does.",
    )
    return role
