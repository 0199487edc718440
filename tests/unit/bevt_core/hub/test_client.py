"""Requests that fail briefly are tried again after the wait that the Hub asks for."""

import importlib
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session

from bevt_core.hub import client
from bevt_core.hub.client import ATTEMPTS, MAX_WAIT_S, HubUnreachableError, ask

httpx: Any = importlib.import_module(type(get_session()).__module__.partition(".")[0])  # httpx2 since version 2


def failure(status: int, **headers: str) -> HfHubHTTPError:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx.Response(status, headers=given, request=httpx.Request("GET", "http://hub"))
    return HfHubHTTPError("failed", response=response)


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (failure(500), [1, 2, 4]),
        (failure(429, Retry_After="7"), [7, 7, 7]),
        (failure(429, RateLimit='"api";r=0;t=120'), [120, 120, 120]),
        (failure(429, RateLimit='"api";r=5;t=120'), [1, 2, 4]),
        (failure(429, Retry_After="99999"), [MAX_WAIT_S] * 3),
        (httpx.ConnectError("no route"), [1, 2, 4]),
    ],
)
def test_waits(error: Exception, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(client.time, "sleep", waited.append)
    tried: list[int] = []

    def request() -> None:
        tried.append(1)
        raise error

    with pytest.raises(HubUnreachableError):
        ask("hf://a/b", request)
    assert waited == waits and len(tried) == ATTEMPTS


@pytest.mark.parametrize("request_", ["list_repo_tree", "dataset_info", "create_repo"])
def test_a_server_that_never_answers_is_an_error(request_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts connections. The library sends these requests without a time limit."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        no_wait = SimpleNamespace(sleep=lambda seconds: None, time=time.time)
        monkeypatch.setattr("huggingface_hub.utils._http.time", no_wait)
        monkeypatch.setattr(client, "SILENT_S", 0.2)
        api = client.hub_api()
        calls: dict[str, Callable[[], object]] = {
            "list_repo_tree": lambda: list(api.list_repo_tree("a/b", repo_type="dataset")),
            "dataset_info": lambda: api.dataset_info("a/b"),
            "create_repo": lambda: api.create_repo("a/b", token="hf_test"),
        }
        with pytest.raises(HubUnreachableError, match=r"^hf://a/b: no connection to"):
            ask("hf://a/b", calls[request_], attempts=1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412])
def test_other_answers_are_final(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.time, "sleep", lambda seconds: pytest.fail("a wait"))

    def request() -> None:
        raise failure(status)

    with pytest.raises(ValueError, match=r"^hf://a/b: "):
        ask("hf://a/b", request)


def test_a_full_disk_is_named() -> None:
    def request() -> None:
        raise OSError(28, "No space left on device", "/cache/blob")

    with pytest.raises(OSError, match="/cache/blob: "):
        ask("hf://a/b", request)
