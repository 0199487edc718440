"""Requests to object stores: retries, errors, and this process's client.

A request that fails for a temporary reason (throttling, a 5xx response, a lost connection) is retried for RETRY_S
seconds and then raises a StorageError.
"""

import errno
import functools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bevt_core.console.installation import install_command
from schemas.errors import StorageError, UserError

R = TypeVar("R")

RETRY_S = 120.0  # default of $BEVT_RETRY_S: how long a request may keep failing
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 15.0  # between attempts: doubled each time, then scaled by a random 0.5 to 1
CONNECT_TIMEOUT_S = 10
CONNECTIONS = 32  # per process
_LOCAL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# errors of a request that no retry can fix
_REFUSED = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.EREMCHG)


def retry_s() -> float:
    """Seconds for which a failing request is retried."""
    return float(os.environ.get("BEVT_RETRY_S", RETRY_S))


def request(url: str, what: str, call: Callable[[Any], R]) -> R:
    """Return `call(file_system)`, retried while it fails for a temporary reason.

    `what` is the verb for messages, such as "read". Raises FileNotFoundError, FileExistsError, and a StorageError that
    names `url`.
    """
    limit_s = retry_s()
    began, wait_s, tries = time.monotonic(), FIRST_WAIT_S, 0
    store = _file_system()
    while True:
        tries += 1
        try:
            return call(store)
        except (FileNotFoundError, FileExistsError):
            raise
        except PermissionError as error:
            fix = "check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...) and the bucket's policy"
            raise StorageError(errno.EACCES, f"{url}: no permission to {what} it ({error}); {fix}") from error
        except _no_credentials() as error:
            fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise StorageError(errno.EACCES, f"{url}: no credentials; {fix}") from error
        except _temporary_errors() as error:
            if isinstance(error, OSError) and error.errno in _LOCAL_DISK:
                raise
            if isinstance(error, OSError) and error.errno in _REFUSED:
                raise StorageError(error.errno, f"{url}: cannot {what} it: {_one_line(error)}") from error
            spent_s = time.monotonic() - began
            if spent_s + wait_s > limit_s:
                spent = f"{tries} attempts in {spent_s:.0f} s"
                raise StorageError(
                    errno.EIO,
                    f"{url}: cannot {what} it ({spent}, last error: {_one_line(error)}). "
                    f"Check the network and the object store ({_endpoint()}), then run the same command again: "
                    "finished work is kept",
                ) from error
        except _client_errors() as error:
            raise StorageError(errno.EINVAL, f"{url}: cannot {what} it: {_one_line(error)}") from error
        time.sleep(wait_s * random.uniform(0.5, 1.0))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


_lock = threading.Lock()


def _file_system() -> Any:
    """The s3fs file system of this process, shared by its threads; a forked child makes its own."""
    with _lock:
        return _new_file_system(os.getpid())


@functools.lru_cache(maxsize=1)
def _new_file_system(pid: int) -> Any:
    """Credentials, region and endpoint come from the environment, as for AWS's own tools."""
    try:
        import s3fs
    except ImportError:
        raise UserError(f"paths like s3://... need the package s3fs: `{install_command('s3')}`") from None
    store = s3fs.S3FileSystem(
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={"connect_timeout": CONNECT_TIMEOUT_S, "max_pool_connections": CONNECTIONS},
    )
    store.retries = 1  # `request` retries, on top of botocore's own few attempts
    return store


def _no_credentials() -> tuple[type[Exception], ...]:
    from botocore.exceptions import CredentialRetrievalError, NoCredentialsError, PartialCredentialsError

    return (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)


def _temporary_errors() -> tuple[type[Exception], ...]:
    """Errors after which a request is retried, unless their errno is in _LOCAL_DISK or _REFUSED."""
    from aiohttp import ClientError
    from botocore.exceptions import ConnectionError as NotConnected
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError

    return (OSError, ClientError, NotConnected, HTTPClientError, IncompleteReadError, ResponseParserError)


def _client_errors() -> type[Exception]:
    """All other botocore errors, such as invalid bucket names and settings."""
    from botocore.exceptions import BotoCoreError

    unusable: type[Exception] = BotoCoreError
    return unusable


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
