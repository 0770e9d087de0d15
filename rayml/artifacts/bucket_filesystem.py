"""A bucket as a pyarrow file system, for libraries that read and write through one."""

from __future__ import annotations

from typing import Any

from rayml.artifacts.bucket import ATTEMPTS, CONNECT_TIMEOUT_S, Bucket


def filesystem(bucket: Bucket) -> Any:
    """A `pyarrow.fs.S3FileSystem` for a bucket, in its own region. What is below its prefix may be listed.

    The server is the one that boto3 finds. Credentials are found by Arrow's own chain, which renews those that end.

    Raises:
        BackendError: the bucket cannot be reached.
    """
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        endpoint_override=bucket.server(),
        region=bucket.region(),
        connect_timeout=CONNECT_TIMEOUT_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
