"""Servers of object stores, one for each cloud."""

from collections.abc import Iterator

import pytest

from bevt_core.storage.clouds import requests
from tests.support.object_server import ObjectServer
from tests.support.object_servers import ALL_SERVERS, SERVERS


@pytest.fixture(scope="module", params=ALL_SERVERS)
def each_server(request: pytest.FixtureRequest) -> Iterator[ObjectServer]:
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def store(each_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A server of each cloud, without faults, and short waits."""
    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("BEVT_RETRY_S", "5")
    each_server.requests.clear()
    yield each_server
    each_server.fault = lambda number, request: None
