"""The network: private subnets for nodes, a way out, and services that are reached without it."""

from __future__ import annotations

from aws_cdk import Environment, RemovalPolicy, Stack, aws_ec2, aws_iam, aws_logs
from constructs import Construct

from infra.account import AccountSpec
from infra.stacks.keys import key, let_logs_use

FLOW_LOG_RETENTION = aws_logs.RetentionDays.THREE_MONTHS
ENDPOINT_SERVICES = {
    "autoscaling": aws_ec2.InterfaceVpcEndpointAwsService.AUTOSCALING,
    "ec2": aws_ec2.InterfaceVpcEndpointAwsService.EC2,
    "ecr.api": aws_ec2.InterfaceVpcEndpointAwsService.ECR,
    "ecr.dkr": aws_ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "eks": aws_ec2.InterfaceVpcEndpointAwsService.EKS,
    "eks-auth": aws_ec2.InterfaceVpcEndpointAwsService.EKS_AUTH,
    "logs": aws_ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "sts": aws_ec2.InterfaceVpcEndpointAwsService.STS,
}


class NetworkStack(Stack):
    """A VPC of the account's own."""

    def __init__(self, scope: Construct, account: AccountSpec, env: Environment) -> None:
        super().__init__(scope, f"{account.name}-network", env=env, description="rayml: network")
        # The zones stand in the parameter file: a template that asks for them differs with who writes it.
        self.template_options.metadata = {"cfn-lint": {"config": {"ignore_checks": ["W3010"]}}}
        self.vpc = make_vpc(self, account)
        add_endpoints(self, self.vpc, account)
        log_refused_traffic(self, self.vpc, account)


def make_vpc(scope: Construct, account: AccountSpec) -> aws_ec2.Vpc:
    """A quarter of the addresses for each zone's nodes, a sixteenth for its way out."""
    network = account.network
    prefix = int(network.cidr.rpartition("/")[2])
    return aws_ec2.Vpc(
        scope,
        "Vpc",
        vpc_name=account.name,
        ip_addresses=aws_ec2.IpAddresses.cidr(network.cidr),
        availability_zones=list(network.zones),
        nat_gateways=1 if network.nat == "one" else len(network.zones),
        subnet_configuration=[
            aws_ec2.SubnetConfiguration(
                name="nodes", subnet_type=aws_ec2.SubnetType.PRIVATE_WITH_EGRESS, cidr_mask=prefix + 2
            ),
            aws_ec2.SubnetConfiguration(
                name="ways-out",
                subnet_type=aws_ec2.SubnetType.PUBLIC,
                cidr_mask=prefix + 4,
                map_public_ip_on_launch=False,
            ),
        ],
    )


def add_endpoints(scope: Construct, vpc: aws_ec2.Vpc, account: AccountSpec) -> None:
    """S3 always, which costs nothing; the others as the file says."""
    vpc.add_gateway_endpoint("S3", service=aws_ec2.GatewayVpcEndpointAwsService.S3)
    if not account.network.endpoints:
        return
    door = aws_ec2.SecurityGroup(
        scope, "EndpointDoor", vpc=vpc, description="HTTPS from within the network", allow_all_outbound=False
    )
    door.add_ingress_rule(aws_ec2.Peer.ipv4(account.network.cidr), aws_ec2.Port.tcp(443), "HTTPS from within")
    for name in account.network.endpoints:
        vpc.add_interface_endpoint(
            f"To-{name}", service=ENDPOINT_SERVICES[name], security_groups=[door], open=False, private_dns_enabled=True
        )


def log_refused_traffic(scope: Stack, vpc: aws_ec2.Vpc, account: AccountSpec) -> None:
    """What was refused, for three months. What was let through is a training run's gradients, and costs by the GB."""
    name = f"/{account.name}/flow"
    made = key(scope, "LogKey", f"{account.name}/flow", "Encrypts the log of refused traffic")
    let_logs_use(made, account.region, f"arn:aws:logs:{account.region}:{account.account}:log-group:{name}")
    group = aws_logs.LogGroup(
        scope,
        "FlowLog",
        log_group_name=name,
        retention=FLOW_LOG_RETENTION,
        encryption_key=made,
        removal_policy=RemovalPolicy.DESTROY,
    )
    role = aws_iam.Role(scope, "FlowLogRole", assumed_by=aws_iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"))
    vpc.add_flow_log(
        "Refused",
        destination=aws_ec2.FlowLogDestination.to_cloud_watch_logs(group, role),
        traffic_type=aws_ec2.FlowLogTrafficType.REJECT,
    )
