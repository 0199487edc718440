"""The object stores that a path may name, and the words for their settings."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Cloud:
    """What differs between object stores in names and messages."""

    scheme: str  # also the name of the package extra
    name: str
    bucket: str  # the word for what `scheme://X` names
    endpoint_variables: tuple[str, ...]  # environment variables with another address, the first one set counts
    credentials: str  # how to give credentials
    credential_variables: str
    unsigned: str  # environment variable; true: public data, without credentials
    region: str  # how to name the region of a bucket

    @property
    def prefix(self) -> str:
        return f"{self.scheme}://"

    def endpoint(self) -> str | None:
        """The address in the environment; None: the cloud's own."""
        return next((os.environ[name] for name in self.endpoint_variables if os.environ.get(name)), None)


CLOUDS = {
    cloud.scheme: cloud
    for cloud in (
        Cloud(
            scheme="s3",
            name="Amazon S3",
            bucket="bucket",
            endpoint_variables=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            credentials="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            credential_variables="AWS_ACCESS_KEY_ID, AWS_PROFILE, ...",
            unsigned="AWS_SKIP_SIGNATURE",
            region="set AWS_DEFAULT_REGION to the bucket's region",
        ),
        Cloud(
            scheme="gs",
            name="Google Cloud Storage",
            bucket="bucket",
            endpoint_variables=("GOOGLE_BASE_URL",),
            credentials="set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
            credential_variables="GOOGLE_APPLICATION_CREDENTIALS, ...",
            unsigned="GOOGLE_SKIP_SIGNATURE",
            region="check GOOGLE_BASE_URL",
        ),
        Cloud(
            scheme="az",
            name="Azure Blob Storage",
            bucket="container",
            endpoint_variables=("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
            credentials="set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
            credential_variables="AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, ...",
            unsigned="AZURE_SKIP_SIGNATURE",
            region="check AZURE_STORAGE_ENDPOINT",
        ),
    )
}

KNOWN = ", ".join(f"{cloud.prefix}{cloud.bucket}/prefix" for cloud in CLOUDS.values())
EXAMPLES = " or ".join(cloud.prefix for cloud in CLOUDS.values())
