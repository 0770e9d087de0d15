"""A bucket as a pyarrow file system, for libraries that read and write through one."""

from __future__ import annotations

import os
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
        endpoint_override=endpoint(),
        region=bucket.region(),
        connect_timeout=CONNECT_TIMEOUT_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def endpoint() -> str | None:
    """A server that is not AWS's, by boto3's names for it."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
