"""Every server of an object store that tests run against: each cloud's own protocol."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.support.azure_server import azure_server, azurite_server
from tests.support.gcs_server import gcs_server
from tests.support.object_server import ObjectServer
from tests.support.s3_server import s3_server

SERVERS: dict[str, Callable[[], AbstractContextManager[ObjectServer]]] = {
    "s3": s3_server,
    "gs": gcs_server,
    "az": azure_server,
    "azurite": azurite_server,
}
ALL_SERVERS = ["s3", "gs", "az", pytest.param("azurite", marks=pytest.mark.slow)]
