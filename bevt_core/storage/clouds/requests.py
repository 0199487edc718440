"""Requests to object stores: how long they are retried, and the errors that they end in.

A request that fails for a temporary reason (throttling, a 5xx response, a lost connection) is retried for RETRY_S
seconds and then raises a StorageError.
"""

import errno
import functools
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from bevt_core.storage.clouds.clients import client, learn_region
from bevt_core.storage.clouds.failures import Failure, Kind, failure_of
from bevt_core.storage.clouds.interruptible import interruptible
from bevt_core.storage.clouds.schemes import Cloud
from schemas.errors import StorageError, UserError

R = TypeVar("R")

RETRY_S = 120.0  # default of $BEVT_RETRY_S: how long a request may keep failing
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 15.0  # between attempts: doubled each time, then scaled by a random 0.5 to 1


def retry_s() -> float:
    """Seconds for which a failing request is retried. Raises UserError if $BEVT_RETRY_S is not a number."""
    text = os.environ.get("BEVT_RETRY_S", str(RETRY_S))
    try:
        return float(text)
    except ValueError:
        raise UserError(f"BEVT_RETRY_S is {text!r}; expected a number of seconds, such as 120") from None


def request(url: str, cloud: Cloud, bucket: str, what: str, call: Callable[[Any], R], retries: int = 0) -> R:
    """Return `call(store)`, retried while it fails for a temporary reason.

    `what` is the verb for messages, such as "read"; `retries` is how often obstore itself repeats each HTTP request of
    a call that consists of many. Raises FileNotFoundError, FileExistsError, UserError for a key that cannot be a file,
    and a StorageError that names `url`.
    """
    store = _client(url, cloud, bucket, retries)
    from obstore.exceptions import BaseError

    limit_s = retry_s()
    failing_since, wait_s, tries = None, FIRST_WAIT_S, 0
    while True:
        tries += 1
        try:
            return interruptible(functools.partial(call, store))
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or error.errno is not None:
                raise  # of the local disk
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
        except BaseError as error:
            failure = failure_of(error)
            if failure.kind is Kind.REGION and learn_region(cloud, bucket, store):
                store = _client(url, cloud, bucket, retries)
                continue
            if failure.kind is not Kind.TEMPORARY:
                raise _final(url, cloud, what, failure) from error
            now = time.monotonic()
            failing_since = failing_since if failing_since is not None else now
            if now - failing_since + wait_s > limit_s:
                spent = f"{tries} attempts in {now - failing_since:.0f} s"
                raise StorageError(
                    errno.EIO,
                    f"{url}: cannot {what} it ({spent}, last error: {failure.text}). "
                    f"Check the network and the object store ({cloud.endpoint() or cloud.name}), then run the same "
                    "command again: finished work is kept",
                ) from error
        time.sleep(wait_s * random.uniform(0.5, 1.0))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _client(url: str, cloud: Cloud, bucket: str, retries: int) -> Any:
    try:
        return client(cloud, bucket, retries)
    except StorageError as error:
        raise StorageError(error.errno, f"{url}: {error.strerror}") from error


def _final(url: str, cloud: Cloud, what: str, failure: Failure) -> OSError | UserError:
    """The error for a failure that no retry can fix."""
    cannot = f"{url}: cannot {what} it: {failure.text}"
    match failure.kind:
        case Kind.MISSING:
            return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
        case Kind.EXISTS:
            return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), url)
        case Kind.DENIED:
            fix = f"check the credentials ({cloud.credential_variables}) and the {cloud.bucket}'s policy"
            return StorageError(errno.EACCES, f"{url}: no permission to {what} it ({failure.text}); {fix}")
        case Kind.NO_CREDENTIALS:
            return StorageError(errno.EACCES, f"{url}: no credentials ({failure.text}); {cloud.credentials}")
        case Kind.CLOCK:
            return StorageError(errno.EACCES, f"{cannot}; set this machine's clock, e.g. by NTP")
        case Kind.REGION:
            return StorageError(errno.EREMOTE, f"{cannot}; {cloud.region}")
        case Kind.BAD_NAME:
            return UserError(f"{url}: the object {failure.text!r} below it cannot be a file; rename or remove it")
        case Kind.NOT_SUPPORTED:
            return StorageError(errno.ENOSYS, cannot)
        case _:
            return StorageError(errno.EINVAL, cannot)
