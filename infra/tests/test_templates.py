"""What matters in the templates: who may do what, what is encrypted, what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from infra.account import TeamSpec
from infra.costs import CONTROL_PLANE_ALARMS, KEYS, monthly
from infra.pools import pools_of
from infra.prices import read_prices
from infra.tests.conftest import of_type, read_templates

POLICY_KEYS = ("PolicyDocument", "AssumeRolePolicyDocument", "KeyPolicy", "RepositoryPolicyText")


def statements(template: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name of the resource, its type, statement) of every policy in a template."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        for key in POLICY_KEYS:
            for statement in properties.get(key, {}).get("Statement", ()):
                yield name, resource["Type"], statement


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_nothing_is_allowed_by_a_wildcard(templates):
    for template in templates.values():
        for name, kind, statement in statements(template):
            # What an account says of its own keys: without it, a key could become one that nobody can change.
            own = kind == "AWS::KMS::Key" and str(statement.get("Principal", {}).get("AWS", "")).endswith(":root")
            if statement["Effect"] == "Allow" and not own:
                assert not [action for action in listed(statement["Action"]) if "*" in action], name


def test_nobody_is_everybody(templates):
    for template in templates.values():
        for name, _, statement in statements(template):
            if statement["Effect"] == "Allow":
                assert statement.get("Principal") != "*", name
                assert statement.get("Principal") != {"AWS": "*"}, name


def test_there_are_no_users_and_no_keys_of_users(templates):
    kinds = {each["Type"] for template in templates.values() for each in template["Resources"].values()}
    assert not kinds & {"AWS::IAM::User", "AWS::IAM::AccessKey", "AWS::EC2::KeyPair"}
    assert not [kind for kind in kinds if kind.startswith(("AWS::Lambda", "Custom::", "AWS::CloudFormation::Custom"))]


def test_buckets_refuse_plain_http_and_old_tls(templates):
    policies = of_type(templates["storage"], "AWS::S3::BucketPolicy").values()
    assert len(policies) == len(of_type(templates["storage"], "AWS::S3::Bucket")) == 2
    for policy in policies:
        denied = [each["Condition"] for each in policy["PolicyDocument"]["Statement"] if each["Effect"] == "Deny"]
        assert {"Bool": {"aws:SecureTransport": "false"}} in denied
        assert {"NumericLessThan": {"s3:TlsVersion": 1.2}} in denied


def test_buckets_are_versioned_private_and_kept(templates):
    for resource in templates["storage"]["Resources"].values():
        if resource["Type"] == "AWS::S3::Bucket":
            properties = resource["Properties"]
            assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
            assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
            assert resource["DeletionPolicy"] == "Retain"


def test_the_bucket_is_encrypted_by_its_key_and_forgets_old_versions(templates, account):
    bucket = next(
        each
        for each in of_type(templates["storage"], "AWS::S3::Bucket").values()
        if each["BucketName"] == account.bucket
    )
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
    assert rule["BucketKeyEnabled"]
    (life,) = bucket["LifecycleConfiguration"]["Rules"]
    assert life["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert "ExpirationInDays" not in life, "what is current never goes by itself"
    assert bucket["LoggingConfiguration"]["LogFilePrefix"] == "access/"


def test_images_cannot_be_replaced_and_are_looked_through(templates, account):
    repositories = of_type(templates["storage"], "AWS::ECR::Repository").values()
    assert [each["RepositoryName"] for each in repositories] == [f"{account.name}/{image}" for image in account.images]
    for each in repositories:
        assert each["ImageTagMutability"] == "IMMUTABLE"
        assert each["ImageScanningConfiguration"] == {"ScanOnPush": True}
        assert each["EncryptionConfiguration"]["EncryptionType"] == "KMS"


def test_keys_rotate_and_are_kept(templates):
    for template in templates.values():
        for resource in template["Resources"].values():
            if resource["Type"] == "AWS::KMS::Key":
                assert resource["Properties"]["EnableKeyRotation"]
                assert resource["DeletionPolicy"] == "Retain"


def test_nodes_ask_for_imdsv2_and_pods_do_not_reach_it(templates, account):
    machines = of_type(templates["cluster"], "AWS::EC2::LaunchTemplate")
    assert len(machines) == len(pools_of(account))
    for machine in machines.values():
        data = machine["LaunchTemplateData"]
        assert data["MetadataOptions"] == {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
        }
        assert all(disk["Ebs"]["Encrypted"] for disk in data["BlockDeviceMappings"])
        assert "KeyName" not in data


def test_node_groups_are_the_pools(templates, account):
    groups = {each["NodegroupName"]: each for each in of_type(templates["cluster"], "AWS::EKS::Nodegroup").values()}
    gpu = {"Key": "nvidia.com/gpu", "Value": "true", "Effect": "NO_SCHEDULE"}
    spot = {"Key": "rayml.io/spot", "Value": "true", "Effect": "NO_SCHEDULE"}
    assert {name: each["Taints"] for name, each in groups.items()} == {
        "system": [],
        "cpu": [],
        "gpu": [gpu],
        "gpu-spot": [gpu, spot],
    }
    for name, each in groups.items():
        assert each["Labels"]["rayml.io/pool"] == name
        assert each["CapacityType"] == ("SPOT" if name == "gpu-spot" else "ON_DEMAND")
        assert each["AmiType"] == ("BOTTLEROCKET_x86_64_NVIDIA" if "gpu" in name else "BOTTLEROCKET_x86_64")
    assert len(groups["gpu"]["Subnets"]) == 1
    tag = "k8s.io/cluster-autoscaler/node-template/resources/ephemeral-storage"
    assert {name: each["Tags"][tag] for name, each in groups.items()} == {
        pool.name: f"{pool.pod_disk_gib}Gi" for pool in pools_of(account)
    }


def test_nodes_are_in_private_subnets(templates):
    network = templates["network"]
    private = {
        name
        for name, each in of_type(network, "AWS::EC2::Subnet").items()
        if {"Key": "aws-cdk:subnet-type", "Value": "Private"} in each["Tags"]
    }
    shared = {f"{output['Export']['Name']}": output["Value"].get("Ref") for output in network["Outputs"].values()}
    for group in of_type(templates["cluster"], "AWS::EKS::Nodegroup").values():
        assert {shared[each["Fn::ImportValue"]] for each in group["Subnets"]} <= private
    assert not [each for each in of_type(network, "AWS::EC2::Subnet").values() if each.get("MapPublicIpOnLaunch")]


def test_the_control_plane_logs_everything_and_encrypts_secrets(templates, account):
    (cluster,) = of_type(templates["cluster"], "AWS::EKS::Cluster").values()
    kinds = {each["Type"] for each in cluster["Logging"]["ClusterLogging"]["EnabledTypes"]}
    assert kinds == {"api", "audit", "authenticator", "controllerManager", "scheduler"}
    assert cluster["EncryptionConfig"][0]["Resources"] == ["secrets"]
    assert cluster["AccessConfig"] == {"AuthenticationMode": "API", "BootstrapClusterCreatorAdminPermissions": False}
    assert cluster["ResourcesVpcConfig"]["PublicAccessCidrs"] == list(account.cluster.public_access)
    (log,) = of_type(templates["cluster"], "AWS::Logs::LogGroup").values()
    assert (log["LogGroupName"], log["RetentionInDays"]) == ("/aws/eks/rayml/cluster", 90)


def test_network_policies_are_switched_on(templates):
    addons = {each["AddonName"]: each for each in of_type(templates["cluster"], "AWS::EKS::Addon").values()}
    assert set(addons) == {"vpc-cni", "kube-proxy", "coredns", "eks-pod-identity-agent"}
    assert json.loads(addons["vpc-cni"]["ConfigurationValues"]) == {"enableNetworkPolicy": "true"}


def test_roles_of_pods_are_for_one_service_account_of_one_cluster(templates):
    for name, role in of_type(templates["cluster"], "AWS::IAM::Role").items():
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        if statement["Principal"] == {"Service": "pods.eks.amazonaws.com"}:
            tags = statement["Condition"]["StringEquals"]
            assert tags["aws:RequestTag/eks-cluster-arn"] == "arn:aws:eks:us-east-1:111122223333:cluster/rayml", name
            assert tags["aws:RequestTag/kubernetes-namespace"], name
            assert tags["aws:RequestTag/kubernetes-service-account"], name


def test_a_team_reaches_its_own_folder_and_no_other(synthesize, account):
    two = account.model_copy(update={"teams": (*account.teams, TeamSpec(namespace="vision", prefix="labs/vision"))})
    cluster = read_templates(synthesize(two))["cluster"]
    reach = {}
    for name, policy in of_type(cluster, "AWS::IAM::Policy").items():
        if name.startswith("Team"):
            listing, objects, _ = policy["PolicyDocument"]["Statement"]
            reach[name] = (listing["Condition"], objects["Resource"])
    bucket = f"arn:aws:s3:::{account.bucket}"
    assert sorted(reach.values(), key=str) == [
        ({"StringLike": {"s3:prefix": ["labs/vision", "labs/vision/*"]}}, f"{bucket}/labs/vision/*"),
        ({"StringLike": {"s3:prefix": ["rayml", "rayml/*"]}}, f"{bucket}/rayml/*"),
    ]
    bound = {
        (each["Namespace"], each["ServiceAccount"])
        for each in of_type(cluster, "AWS::EKS::PodIdentityAssociation").values()
    }
    assert bound == {
        ("kube-system", "cluster-autoscaler"),
        ("rayml", "rayml-worker"),
        ("rayml", "rayml-head"),
        ("vision", "rayml-worker"),
        ("vision", "rayml-head"),
    }


def test_data_of_others_is_read_and_never_written(synthesize, account):
    reading = account.model_copy(update={"teams": (TeamSpec(namespace="rayml", reads=("our-data/images", "public")),)})
    cluster = read_templates(synthesize(reading))["cluster"]  # which cdk-nag has seen
    [policy] = [each for name, each in of_type(cluster, "AWS::IAM::Policy").items() if name.startswith("Team")]
    added = policy["PolicyDocument"]["Statement"][3:]
    listing = [(each["Resource"], each.get("Condition")) for each in added if each["Action"] == "s3:ListBucket"]
    assert listing == [
        ("arn:aws:s3:::our-data", {"StringLike": {"s3:prefix": ["images", "images/*"]}}),
        ("arn:aws:s3:::public", None),
    ]
    [reading] = [each["Resource"] for each in added if each["Action"] == "s3:GetObject"]
    assert reading == ["arn:aws:s3:::our-data/images/*", "arn:aws:s3:::public/*"]
    assert {each["Action"] for each in added} == {"s3:ListBucket", "s3:GetObject"}


def test_without_addresses_the_api_server_is_private(synthesize, account):
    private = account.model_copy(update={"cluster": account.cluster.model_copy(update={"public_access": ()})})
    (cluster,) = of_type(read_templates(synthesize(private))["cluster"], "AWS::EKS::Cluster").values()
    assert cluster["ResourcesVpcConfig"]["EndpointPublicAccess"] is False
    assert "PublicAccessCidrs" not in cluster["ResourcesVpcConfig"]


@pytest.mark.parametrize("ways", ["one", "per_zone"])
def test_three_zones_and_as_few_pools_as_there_can_be(synthesize, account, ways):
    zones = tuple(f"us-east-1{letter}" for letter in "abc")
    pools = account.pools.model_copy(update={"gpu": None, "gpu_spot": None})
    network = account.network.model_copy(update={"zones": zones, "nat": ways, "endpoints": ()})
    made = read_templates(synthesize(account.model_copy(update={"network": network, "pools": pools})))
    assert len(of_type(made["network"], "AWS::EC2::NatGateway")) == (1 if ways == "one" else 3)
    assert len(of_type(made["network"], "AWS::EC2::VPCEndpoint")) == 1
    assert len(of_type(made["cluster"], "AWS::EKS::Nodegroup")) == 2


def test_everything_that_is_sent_can_be_sent(templates):
    (topic,) = of_type(templates["watch"], "AWS::SNS::TopicPolicy").values()
    kinds = {(each["Effect"], each["Action"]) for each in topic["PolicyDocument"]["Statement"]}
    assert kinds == {("Deny", "sns:Publish"), ("Allow", "sns:Publish")}
    for alarm in of_type(templates["watch"], "AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"] and alarm["AlarmDescription"]
    (budget,) = of_type(templates["watch"], "AWS::Budgets::Budget").values()
    assert budget["Budget"]["BudgetLimit"] == {"Amount": 5000, "Unit": "USD"}
    assert len(budget["NotificationsWithSubscribers"]) == 4


def test_the_cost_table_counts_what_the_templates_have(templates, account):
    def count(kind: str) -> int:
        return sum(len(of_type(template, kind)) for template in templates.values())

    prices = read_prices().of(account.region)
    rows = {row.name: row.least for row in monthly(account, prices)}
    assert count("AWS::KMS::Key") == KEYS
    alarms = count("AWS::CloudWatch::Alarm")
    assert rows["alarms"] == pytest.approx(alarms * prices.alarm_month)
    assert alarms > CONTROL_PLANE_ALARMS
    assert rows["ways out (NAT)"] == pytest.approx(count("AWS::EC2::NatGateway") * 36.5)
    doors = [each for each in of_type(templates["network"], "AWS::EC2::VPCEndpoint").values() if "SubnetIds" in each]
    assert rows["endpoints"] == pytest.approx(sum(len(each["SubnetIds"]) for each in doors) * 7.3)
