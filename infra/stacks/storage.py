"""What outlives a cluster: the bucket of runs and artifacts, and the registry of images."""

from __future__ import annotations

from aws_cdk import CfnOutput, Duration, Environment, RemovalPolicy, Stack, aws_ecr, aws_kms, aws_s3
from constructs import Construct

from infra.account import AccountSpec
from infra.stacks.keys import key

ACCESS_LOG_DAYS = 365
UNTAGGED_DAYS = 14
UNFINISHED_DAYS = 7
"""After which parts of an upload that was never finished are removed: they are paid for, and seen nowhere."""


class StorageStack(Stack):
    """Kept when the stack is deleted: data is removed by hand, or not at all."""

    def __init__(self, scope: Construct, account: AccountSpec, env: Environment) -> None:
        super().__init__(
            scope,
            f"{account.name}-storage",
            env=env,
            description="rayml: bucket and registry",
            termination_protection=True,
        )
        self.data_key = key(self, "DataKey", f"{account.name}/data", "Encrypts the bucket")
        self.bucket = make_bucket(self, account, self.data_key, make_access_logs(self, account))
        images_key = key(self, "ImagesKey", f"{account.name}/images", "Encrypts images")
        for image in account.images:
            make_repository(self, account, image, images_key)


def make_access_logs(scope: Construct, account: AccountSpec) -> aws_s3.Bucket:
    """Who read and wrote what."""
    return aws_s3.Bucket(
        scope,
        "AccessLogs",
        bucket_name=f"{account.bucket}-logs",
        encryption=aws_s3.BucketEncryption.S3_MANAGED,  # the service that writes them cannot use a key of ours
        block_public_access=aws_s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=aws_s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        enforce_ssl=True,
        minimum_tls_version=1.2,
        versioned=True,
        lifecycle_rules=[
            aws_s3.LifecycleRule(
                id="old",
                expiration=Duration.days(ACCESS_LOG_DAYS),
                noncurrent_version_expiration=Duration.days(UNFINISHED_DAYS),
            )
        ],
        removal_policy=RemovalPolicy.RETAIN,
    )


def make_bucket(scope: Stack, account: AccountSpec, data_key: aws_kms.IKey, logs: aws_s3.Bucket) -> aws_s3.Bucket:
    """Versioned, so that what was written over or deleted comes back for as long as the file says."""
    bucket = aws_s3.Bucket(
        scope,
        "Bucket",
        bucket_name=account.bucket,
        versioned=True,
        encryption=aws_s3.BucketEncryption.KMS,
        encryption_key=data_key,
        bucket_key_enabled=True,
        block_public_access=aws_s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=aws_s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        enforce_ssl=True,
        minimum_tls_version=1.2,
        server_access_logs_bucket=logs,
        server_access_logs_prefix="access/",
        lifecycle_rules=[
            aws_s3.LifecycleRule(
                id="old-versions",
                noncurrent_version_expiration=Duration.days(account.storage.keep_old_versions_days),
                abort_incomplete_multipart_upload_after=Duration.days(UNFINISHED_DAYS),
                expired_object_delete_marker=True,
            )
        ],
        removal_policy=RemovalPolicy.RETAIN,
    )
    for team in account.teams:
        CfnOutput(scope, f"Storage-{team.namespace}", value=f"s3://{account.bucket}/{team.folder}")
    return bucket


def make_repository(scope: Stack, account: AccountSpec, image: str, images_key: aws_kms.IKey) -> None:
    """A tag never changes what it stands for; every image is looked through for known holes as it arrives."""
    repository = aws_ecr.Repository(
        scope,
        f"Image-{image.replace('/', '-')}",
        repository_name=f"{account.name}/{image}",
        image_tag_mutability=aws_ecr.TagMutability.IMMUTABLE,
        image_scan_on_push=True,
        encryption=aws_ecr.RepositoryEncryption.KMS,
        encryption_key=images_key,
        removal_policy=RemovalPolicy.RETAIN,
    )
    repository.add_lifecycle_rule(
        description="untagged images", tag_status=aws_ecr.TagStatus.UNTAGGED, max_image_age=Duration.days(UNTAGGED_DAYS)
    )
    CfnOutput(scope, f"Repository-{image.replace('/', '-')}", value=repository.repository_uri)
