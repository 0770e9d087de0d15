"""Pools of nodes: their machines, labels, taints, and what a node may do in the account.

Bottlerocket: no shell, a system that cannot be written to; with GPUs, driver and device plugin are in the image.
"""

from __future__ import annotations

from aws_cdk import aws_ec2, aws_eks_v2, aws_iam
from constructs import Construct

from infra.account import AccountSpec
from infra.pools import Pool
from infra.stacks.findings import accept

NODE_POLICIES = ("AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly")
TEMPLATE_TAG = "k8s.io/cluster-autoscaler/node-template/resources/"
DATA_DISK = "/dev/xvdb"
"""Bottlerocket's second disk: images, logs, and what pods write. The first holds the system."""


def make_node_role(scope: Construct) -> aws_iam.Role:
    """To join the cluster and to pull images. No bucket, no shell: pods have roles of their own."""
    role = aws_iam.Role(
        scope,
        "NodeRole",
        assumed_by=aws_iam.ServicePrincipal("ec2.amazonaws.com"),
        managed_policies=[aws_iam.ManagedPolicy.from_aws_managed_policy_name(name) for name in NODE_POLICIES],
    )
    for name in NODE_POLICIES:
        accept(
            role,
            f"IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/{name}]",
            "EKS requires it of nodes, and AWS keeps it in step; no pod reaches it, for the metadata's hop limit is 1.",
        )
    return role


def add_pool(
    scope: Construct,
    cluster: aws_eks_v2.Cluster,
    account: AccountSpec,
    pool: Pool,
    role: aws_iam.Role,
    vpc: aws_ec2.IVpc,
) -> aws_eks_v2.CfnNodegroup:
    """A managed node group over a launch template. The plain resource: CDK's own class knows no GPU newer than P4."""
    machine = make_launch_template(scope, account, pool)
    template = aws_eks_v2.CfnNodegroup
    return template(
        scope,
        f"Pool-{pool.name}",
        cluster_name=cluster.cluster_name,
        nodegroup_name=pool.name,
        node_role=role.role_arn,
        ami_type="BOTTLEROCKET_x86_64_NVIDIA" if pool.spec.instance.gpus else "BOTTLEROCKET_x86_64",
        instance_types=list(pool.spec.instances),
        capacity_type="SPOT" if pool.is_spot else "ON_DEMAND",
        scaling_config=template.ScalingConfigProperty(
            min_size=pool.spec.min, desired_size=pool.spec.min, max_size=pool.spec.max
        ),
        node_repair_config=template.NodeRepairConfigProperty(enabled=True),
        update_config=template.UpdateConfigProperty(max_unavailable=1),
        labels=pool.labels,
        taints=[template.TaintProperty(key=key, value=value, effect="NO_SCHEDULE") for key, value in pool.taints],
        subnets=subnets_of(pool, vpc),
        launch_template=template.LaunchTemplateSpecificationProperty(
            id=machine.launch_template_id, version=machine.latest_version_number
        ),
        # A pool of no nodes has none to look at: without it, no pod that asks for disk would ever start the first.
        tags={f"{TEMPLATE_TAG}ephemeral-storage": f"{pool.pod_disk_gib}Gi"},
    )


def make_launch_template(scope: Construct, account: AccountSpec, pool: Pool) -> aws_ec2.LaunchTemplate:
    """IMDSv2, and an answer that dies at the node's edge: a pod never gets the node's credentials."""
    disk = aws_ec2.BlockDeviceVolume.ebs(
        pool.spec.disk_gib, encrypted=True, volume_type=aws_ec2.EbsDeviceVolumeType.GP3, delete_on_termination=True
    )
    return aws_ec2.LaunchTemplate(
        scope,
        f"Machine-{pool.name}",
        launch_template_name=f"{account.name}-{pool.name}",
        http_tokens=aws_ec2.LaunchTemplateHttpTokens.REQUIRED,
        http_put_response_hop_limit=1,
        http_endpoint=True,
        block_devices=[aws_ec2.BlockDevice(device_name=DATA_DISK, volume=disk)],
    )


def subnets_of(pool: Pool, vpc: aws_ec2.IVpc) -> list[str]:
    """Private ones, of one zone where the file says so."""
    zones = [pool.spec.zone] if pool.spec.zone else None
    return vpc.select_subnets(subnet_type=aws_ec2.SubnetType.PRIVATE_WITH_EGRESS, availability_zones=zones).subnet_ids
