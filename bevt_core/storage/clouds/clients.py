"""This process's clients of object stores.

Addresses and credentials come from the environment, as for each cloud's own tools. Clients retry by themselves
only where asked: see `requests`.
"""

import errno
import functools
import os
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bevt_core.console.installation import install_command
from bevt_core.storage.clouds.failures import one_line
from bevt_core.storage.clouds.regions import region_header
from bevt_core.storage.clouds.schemes import CLOUDS, Cloud
from schemas.errors import StorageError, UserError
from schemas.text.credentials import masked

CONNECT_TIMEOUT_S = 10
SILENCE_TIMEOUT_S = 120  # without a byte from the server; a sent piece of an upload must be confirmed in this time
REQUEST_TIMEOUT_S = 24 * 3600  # obstore's default of 30 s would end long downloads
PIECE_RETRIES = PAGE_RETRIES = 5  # of one piece of an upload in pieces, and of one page of a long listing
CONNECTIONS = 32  # per process: threads that make requests
CREDENTIALS_LAST = timedelta(minutes=10)  # botocore renews those that expire at least so long before
REGION = re.compile(r"[a-zA-Z0-9-]+")  # obstore panics for some others

_lock = threading.Lock()
_used_by: set[int] = set()  # process ids
_regions: dict[str, str] = {}  # of S3 buckets that are not in the configured one


def client(cloud: Cloud, bucket: str, retries: int = 0) -> Any:
    """The obstore store of a bucket, shared by the threads of this process.

    Raises UserError without the packages, with unusable settings, and in a process that was forked after its parent
    made a client: the client's threads do not survive a fork, and a request would never end.
    """
    pid = os.getpid()
    if _used_by - {pid}:  # before the lock, which a thread of the parent may have had
        raise UserError(
            f"{cloud.prefix}{bucket}: this process was forked from one that used an object store, and cannot use one "
            "itself; start it by `spawn` or `forkserver`"
        )
    with _lock:
        _used_by.add(pid)
        return _open(cloud, bucket, retries)


def forget_clients() -> None:
    """Make new clients from now on, because the environment has changed."""
    _open.cache_clear()
    _regions.clear()


def learn_region(cloud: Cloud, bucket: str, tried: Any) -> bool:
    """Ask S3 for the region of a bucket, once; returns whether there is another one than that of the client `tried`."""
    if cloud.scheme != "s3":
        return False
    with _lock:
        if bucket not in _regions:
            settings = _s3(cloud, bucket)
            address = settings.get("endpoint") or f"https://s3.{settings['region']}.amazonaws.com"
            found = region_header(f"{address}/{bucket}", CONNECT_TIMEOUT_S)
            _regions[bucket] = found or settings["region"]
            _open.cache_clear()
        return bool(_regions[bucket] != tried.config.get("region"))


@functools.lru_cache(maxsize=32)
def _open(cloud: Cloud, bucket: str, retries: int) -> Any:
    try:
        import obstore.exceptions
        import obstore.store

        settings = SETTINGS[cloud.scheme](cloud, bucket)
    except ImportError as error:
        install = install_command(cloud.scheme)
        raise UserError(f"paths like {cloud.prefix}... need the package {error.name}: `{install}`") from None
    stores = {"s3": obstore.store.S3Store, "gs": obstore.store.GCSStore, "az": obstore.store.AzureStore}
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=SILENCE_TIMEOUT_S),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
        "allow_http": settings.pop("allow_http"),
    }
    try:
        if cloud.scheme == "s3" and os.environ.get("AWS_CA_BUNDLE"):
            options["root_certificate"] = Path(os.environ["AWS_CA_BUNDLE"]).read_bytes()
        return stores[cloud.scheme](bucket, client_options=options, retry_config={"max_retries": retries}, **settings)
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        raise UserError(f"{cloud.prefix}{bucket}: unusable settings ({one_line(error)}); {cloud.credentials}") from None


def _s3(cloud: Cloud, bucket: str) -> dict[str, Any]:
    """Credentials, region and endpoint as botocore finds them: environment, profiles, roles, instance metadata."""
    import botocore.session
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session()
    try:
        region = _regions.get(bucket) or session.get_config_variable("region") or "us-east-1"
        endpoint = ConfiguredEndpointProvider(session.full_config, session.get_scoped_config(), "s3").provide()
        if not REGION.fullmatch(region):
            raise UserError(f"{cloud.name}: {region!r} is no region; {cloud.region}, such as us-east-1")
        if endpoint is None and region.startswith("cn-"):
            endpoint = f"https://s3.{region}.amazonaws.com.cn"  # obstore knows the addresses outside China
        settings = {
            "region": region,
            "disable_bulk_delete": True,  # not every store that speaks S3 has it
            **_address(cloud, "endpoint", endpoint),
        }
        if not settings["skip_signature"]:
            settings["credential_provider"] = _aws_credentials(session)
    except BotoCoreError as error:
        raise StorageError(errno.EACCES, f"no credentials for {cloud.name} ({error}); {cloud.credentials}") from error
    return settings


def _aws_credentials(session: Any) -> Callable[[], dict[str, Any]]:
    """What obstore calls for credentials. Raises StorageError without credentials."""
    from botocore.credentials import RefreshableCredentials

    found = session.get_credentials()
    if found is None:
        cloud = CLOUDS["s3"]
        raise StorageError(errno.EACCES, f"no credentials for {cloud.name}; {cloud.credentials}")
    expire = isinstance(found, RefreshableCredentials)

    def credentials() -> dict[str, Any]:
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_LAST if expire else None,
        }

    return credentials


def _gs(cloud: Cloud, bucket: str) -> dict[str, Any]:
    return _address(cloud, "base_url", cloud.endpoint())


def _az(cloud: Cloud, bucket: str) -> dict[str, Any]:
    return _address(cloud, "endpoint", cloud.endpoint())


def _address(cloud: Cloud, name: str, endpoint: str | None) -> dict[str, Any]:
    """Settings that each store has; the endpoint is called `name`."""
    unsigned = os.environ.get(cloud.unsigned, "").lower() in ("1", "true")
    settings: dict[str, Any] = {"skip_signature": unsigned, "allow_http": False}
    if endpoint:
        _check_address(cloud, endpoint)
        settings |= {name: endpoint.rstrip("/"), "allow_http": endpoint.startswith("http://")}
    return settings


def _check_address(cloud: Cloud, endpoint: str) -> None:
    """Raise UserError for an address that is no URL: obstore panics for some."""
    try:
        found = urlsplit(endpoint)
        is_usable = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:  # by `port`
        is_usable = False
    if not is_usable or not endpoint.isascii() or re.search(r"\s", endpoint):
        variables = " or ".join(cloud.endpoint_variables)
        raise UserError(
            f"{cloud.name}: {masked(endpoint)!r} is no address; set {variables} to one such as https://minio.example:9000"
        )


SETTINGS: dict[str, Callable[[Cloud, str], dict[str, Any]]] = {"s3": _s3, "gs": _gs, "az": _az}
