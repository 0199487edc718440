"""moto's S3 as an `ObjectServer`."""

from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import DomainDispatcherApplication, create_backend_app

from tests.support.object_server import DENIED, INTERNAL, SLOW_DOWN, Fault, ObjectServer, running

__all__ = ["DENIED", "INTERNAL", "SLOW_DOWN", "Fault", "S3Server", "s3_server"]


class S3Server(ObjectServer):
    def __init__(self) -> None:
        super().__init__(DomainDispatcherApplication(create_backend_app), "s3")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with the bucket `data`; the environment leads to it, also that of child processes."""
    server = S3Server()
    environment = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with running(server, environment):
        import boto3

        boto3.client("s3").create_bucket(Bucket="data")
        yield server
