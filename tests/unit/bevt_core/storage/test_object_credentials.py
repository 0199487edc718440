"""Credentials and settings of object stores: where they are found, errors without them, and no secret in a message."""

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from bevt_core.storage.clouds import clients
from bevt_core.storage.clouds.failures import Kind, failure_of
from bevt_core.storage.clouds.schemes import CLOUDS
from bevt_core.storage.objects import ObjectPath, as_path
from schemas.errors import StorageError, UserError
from tests.support.object_servers import SERVERS
from tests.support.s3_server import s3_server

SECRET = "c2VjcmV0LWtleS1vZi10aGlzLXRlc3Q="
UNSIGNED = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CA_BUNDLE")


@pytest.mark.parametrize("scheme", CLOUDS)
def test_credentials_are_in_no_message(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that nobody listens at, with each kind of secret that the environment may have."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "AKIA" + "TESTTESTTESTTEST",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "GOOGLE_BASE_URL": "http://127.0.0.1:9",
        "GOOGLE_BEARER_TOKEN": SECRET,
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:9/account",
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_STORAGE_SAS_TOKEN": f"sv=2021&sig={SECRET}",
        "BEVT_RETRY_S": "0",
    }.items():
        monkeypatch.setenv(name, value)
    clients.forget_clients()
    path = ObjectPath(f"{scheme}://data/x")
    for request in (path.read_bytes, path.sizes, path.size, lambda: path.write_bytes(b"x")):
        with pytest.raises(StorageError, match=r"Connection refused.*127.0.0.1:9") as caught:
            request()
        assert SECRET.rstrip("=") not in str(caught.value) and "AKIA" not in str(caught.value)
    clients.forget_clients()


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*UNSIGNED, "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing.json"))
    for url, says in {
        "s3://data/x": "no credentials.*set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        "gs://data/x": "unusable settings .*nothing.json.*set GOOGLE_APPLICATION_CREDENTIALS",
        "az://data/x": "unusable settings .*Account must be specified.*set AZURE_STORAGE_ACCOUNT_NAME",
    }.items():
        clients.forget_clients()
        with pytest.raises((StorageError, UserError), match=f"{url[:9]}.*{says}"):
            as_path(url).read_bytes()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_IDENTITY_ENDPOINT", "http://127.0.0.1:9")
    clients.forget_clients()
    with pytest.raises(StorageError, match=r"az://data/x: no credentials .*set AZURE_STORAGE_ACCOUNT_NAME, and"):
        as_path("az://data/x").read_bytes()
    clients.forget_clients()


def test_a_profile_gives_key_region_and_endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3_server() as server:
        import boto3

        boto3.client("s3").put_object(Bucket="data", Key="profile", Body=b"x", ACL="public-read")
        for name in (*UNSIGNED, "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "config").write_text(f"[profile lab]\nregion = eu-west-1\nendpoint_url = {server.url}\n")
        (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = of-lab\naws_secret_access_key = s\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_PROFILE", "lab")
        clients.forget_clients()
        signed: list[str] = []
        app = server._app
        server._app = lambda environ, start: signed.append(environ.get("HTTP_AUTHORIZATION", "")) or app(environ, start)
        assert server.path("profile").read_bytes() == b"x"
        assert re.search(r"Credential=of-lab/\d+/eu-west-1/s3", signed[0])
        monkeypatch.delenv("AWS_PROFILE")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        clients.forget_clients()
        assert server.path("profile").read_bytes() == b"x" and signed[1] == ""


def test_temporary_credentials_are_read_again_before_they_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes after they were read, not at each request: a role's are read from a metadata service."""
    import botocore.session
    from botocore.credentials import RefreshableCredentials

    asked: list[datetime] = []

    def renew() -> dict[str, str]:
        asked.append(datetime.now(UTC))
        expiry = (asked[-1] + timedelta(hours=1)).isoformat()
        return {"access_key": "role", "secret_key": "s", "token": "t", "expiry_time": expiry}

    with s3_server() as server:
        found = RefreshableCredentials.create_from_metadata(renew(), renew, "role")
        read: list[object] = []
        frozen = found.get_frozen_credentials
        monkeypatch.setattr(found, "get_frozen_credentials", lambda: read.append(1) or frozen())
        monkeypatch.setattr(botocore.session.Session, "get_credentials", lambda self: found)
        clients.forget_clients()
        for _ in range(4):
            server.path("role").write_bytes(b"x")
        assert len(read) == 1


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        (
            "AWS_ENDPOINT_URL",
            "not a url",
            "Amazon S3: 'not a url' is no address; set AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT",
        ),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:99999", "is no address"),
        ("GOOGLE_BASE_URL", "http://é", "is no address; set GOOGLE_BASE_URL"),
        ("AZURE_STORAGE_ENDPOINT", "minio:9000", "is no address; set AZURE_STORAGE_ENDPOINT"),
        ("AWS_DEFAULT_REGION", "us east", "'us east' is no region; set AWS_DEFAULT_REGION"),
        ("BEVT_RETRY_S", "long", "BEVT_RETRY_S is 'long'; expected a number of seconds"),
    ],
)
def test_a_setting_that_is_none_is_one_line(
    variable: str, value: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some would make obstore's threads panic."""
    for cloud in CLOUDS.values():
        monkeypatch.setenv(cloud.unsigned, "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv(variable, value)
    clients.forget_clients()
    scheme = {"GOOGL": "gs", "AZURE": "az"}.get(variable[:5], "s3")
    with pytest.raises(UserError, match=error):
        as_path(f"{scheme}://data/x").read_bytes()
    clients.forget_clients()


def test_every_cloud_has_settings() -> None:
    assert clients.SETTINGS.keys() == CLOUDS.keys()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    clients.forget_clients()
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(UserError, match=r"paths like gs://... need the package obstore.*\[gs\]"):
        as_path("gs://data/x").read_bytes()


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_public_data_are_read_unsigned(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look for credentials. The servers of the tests refuse it."""
    with SERVERS[scheme]() as server:
        monkeypatch.setenv(CLOUDS[scheme].unsigned, "true")
        for name in ("GOOGLE_BEARER_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY"):
            monkeypatch.delenv(name, raising=False)
        clients.forget_clients()
        with pytest.raises(StorageError, match=r"no permission to read it \(40[13].*uthenticat"):
            server.path("x").read_bytes()
        assert server.requests == ["GET /data/x?"]


TOKEN = "Generic GCS error: Error performing token request: Error performing GET http://metadata/token?a=b in 7ms - "
ANSWER = "Server returned non-2xx status code: "


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        (f"{TOKEN}HTTP error: error sending request", Kind.NO_CREDENTIALS, "HTTP error: error sending request"),
        (f"{TOKEN}{ANSWER}404 Not Found: no", Kind.NO_CREDENTIALS, "404 Not Found"),
        (f"{TOKEN}{ANSWER}503 Service Unavailable: busy", Kind.TEMPORARY, "503 Service Unavailable"),
        (f"{TOKEN}{ANSWER}400 Bad Request: not in a reasonable timeframe", Kind.CLOCK, "400 Bad Request"),
        (f"x {ANSWER}400 Bad Request: <Code>ExpiredToken</Code>", Kind.DENIED, "400 Bad Request: ExpiredToken"),
        (f"x {ANSWER}400 Bad Request: <Code>RequestTimeout</Code>", Kind.TEMPORARY, "400 Bad Request: RequestTimeout"),
        (f"x {ANSWER}409 Conflict: <Code>BlobAlreadyExists</Code>", Kind.EXISTS, "409 Conflict: BlobAlreadyExists"),
        (f"x {ANSWER}409 Conflict: <Code>OperationAborted</Code>", Kind.TEMPORARY, "409 Conflict: OperationAborted"),
        ("Generic S3 error: Got invalid list response: x", Kind.TEMPORARY, "Got invalid list response: x"),
        ("Requested 0..10, got 0..3\n\nDebug source:\nUnexpectedRange {", Kind.REFUSED, "Requested 0..10, got 0..3"),
    ],
)
def test_what_an_error_means(text: str, kind: Kind, line: str) -> None:
    failure = failure_of(GenericError(text))
    assert failure.kind is kind and failure.text.endswith(line) and "http://" not in failure.text
