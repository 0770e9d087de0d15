"""cfn-lint and cdk-nag find nothing; what they are told to accept is listed here, so that a new one is seen."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CFN_LINT = "import sys; from cfnlint.runner import main; sys.exit(main())"
ACCEPTED = {
    ("rayml-cluster/AutoscalerRole/DefaultPolicy/Resource", "IAM5[Resource::*]"),
    (
        "rayml-cluster/AutoscalerRole/DefaultPolicy/Resource",
        "IAM5[Resource::arn:aws:autoscaling:us-east-1:111122223333:autoScalingGroup:*:autoScalingGroupName/eks-*]",
    ),
    (
        "rayml-cluster/AutoscalerRole/DefaultPolicy/Resource",
        "IAM5[Resource::arn:aws:eks:us-east-1:111122223333:nodegroup/rayml/*/*]",
    ),
    (
        "rayml-cluster/ControlPlaneRole/Resource",
        "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonEKSClusterPolicy]",
    ),
    (
        "rayml-cluster/NetworkPluginRole/Resource",
        "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonEKS_CNI_Policy]",
    ),
    (
        "rayml-cluster/NodeRole/Resource",
        "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonEC2ContainerRegistryPullOnly]",
    ),
    ("rayml-cluster/NodeRole/Resource", "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonEKSWorkerNodePolicy]"),
    (
        "rayml-cluster/Team-rayml/DefaultPolicy/Resource",
        "IAM5[Resource::arn:aws:s3:::rayml-111122223333-us-east-1/rayml/*]",
    ),
}
"""(what, rule) that AWS Solutions' rules find, and are right as they are: infra/stacks has each reason."""


def test_cfn_lint_finds_nothing(assembly):
    paths = sorted(str(path) for path in assembly.glob("*.template.json"))
    done = subprocess.run(
        [sys.executable, "-c", CFN_LINT, *paths], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_cdk_nag_finds_what_is_accepted_and_nothing_else(assembly):
    document = json.loads((assembly / "validation-report.json").read_text())
    reports = {each["pluginName"]: each for each in document["pluginReports"]}
    assert {name: each["violations"] for name, each in reports.items()} == {
        "AwsSolutions": [],
        "CloudFormation Validate": [],
    }
    report = reports["AwsSolutions"]
    found = {
        (where["constructPath"], each["ruleName"].removeprefix("AwsSolutions-"))
        for each in report["suppressedViolations"]
        for where in each["violatingConstructs"]
    }
    assert found == ACCEPTED
    assert all(len(each["reason"]) > 40 for each in report["suppressedViolations"])


def test_cdk_nag_is_at_work(account, tmp_path, assembly):
    """A bucket that may be read without TLS does not get through."""
    from aws_cdk import Stack, aws_s3

    from infra.app import build

    app = build(account, tmp_path)
    aws_s3.Bucket(Stack(app, "careless"), "Bucket")
    with pytest.raises(Exception, match="does not require requests to use SSL"):
        app.synth()
