"""The app: which stacks there are, and what each gets from another."""

from __future__ import annotations

from pathlib import Path

from aws_cdk import App, Environment, Tags, Validations
from cdk_nag import AwsSolutionsChecks

from infra.account import AccountSpec
from infra.stacks.cluster import ClusterStack
from infra.stacks.network import NetworkStack
from infra.stacks.storage import StorageStack
from infra.stacks.watch import WatchStack

FLAGS = {
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,  # access lists are off
    "@aws-cdk/core:defaultCrossStackReferences": "strong",  # a network that a cluster stands in cannot be deleted
    "@aws-cdk/core:enablePartitionLiterals": True,
    "@aws-cdk/aws-iam:minimizePolicies": True,
}


def build(account: AccountSpec, folder: Path) -> App:
    """The stacks, of which `synth()` writes the templates into a folder. It fails where cdk-nag finds something."""
    zones = f"availability-zones:account={account.account}:region={account.region}"
    app = App(outdir=str(folder), analytics_reporting=False, context={**FLAGS, zones: list(account.network.zones)})
    env = Environment(account=account.account, region=account.region)
    network = NetworkStack(app, account, env)
    storage = StorageStack(app, account, env)
    ClusterStack(app, account, env, network.vpc, storage.data_key)
    WatchStack(app, account, env, network.vpc)
    Tags.of(app).add("app", account.name)
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app
