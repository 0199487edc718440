"""Sessions of Ray: clusters that do not answer, the number of tokenizers, and threads that end with an iteration."""

import _thread
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cluster import private_folder as ray_folder
from pipeline.cluster import session as ray_session_module
from pipeline.cluster.session import IDLE_THREAD, check_reachable, cpus_per_gpu, ray_session, threads_joined
from pipeline.job import actor_pool
from pipeline.job.actor_pool import ActorPool
from schemas.errors import JobError, UserError


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def of(nodes: int, cpus_each: int) -> None:
        monkeypatch.setattr(actor_pool, "cluster_amount", lambda resource: nodes * cpus_each)
        monkeypatch.setattr(actor_pool, "smallest_node_amount", lambda resource: cpus_each)
        monkeypatch.setattr(actor_pool, "cpus_per_gpu", lambda: 3)

    return of


@pytest.mark.parametrize(
    ("nodes", "cpus_each", "gpus", "parts", "pool"),
    [
        (1, 1, 0, 9, (1, 1, 0)),  # half a CPU would leave no whole one to decode on
        (3, 1, 0, 9, (3, 3, 0)),
        (1, 2, 0, 9, (2, 8, 0.5)),
        (4, 16, 0, 99, (8, 8, 0.5)),
        (1, 4, 0, 2, (2, 2, 0.5)),
        (1, 16, 8, 99, (8, 99, 1)),
        (1, 8, 8, 99, (8, 99, 0)),
        (1, 2, 1, 99, (1, 99, 1)),
    ],
)
def test_how_many_tokenizers(
    cluster: Callable[[int, int], None], nodes: int, cpus_each: int, gpus: int, parts: int, pool: tuple[int, int, float]
) -> None:
    cluster(nodes, cpus_each)
    sized = ActorPool.sized(parts, gpus, may_grow=True)
    assert (sized.min_size, sized.max_size, sized.actor_cpus) == pool
    alone = ActorPool.sized(parts, gpus, may_grow=False)
    assert (alone.max_size, alone.decode_cpus) == (pool[0], 1)
    assert sized.decode_cpus == (0.5 if sized.actor_cpus == 0.5 else 1)  # no gap on a node is too small for a decoder
    assert sized.threads == (3 if gpus else max(1, nodes * cpus_each // sized.min_size))
    assert nodes * cpus_each - sized.min_size * sized.actor_cpus >= 1  # CPU that decodes


def test_threads_are_waited_for_after_an_error_too() -> None:
    done: list[str] = []
    idle = threading.Thread(target=threading.Event().wait, name=IDLE_THREAD, daemon=True)
    with pytest.raises(KeyError), threads_joined():
        idle.start()
        threading.Thread(target=lambda: (time.sleep(0.2), done.append("ended"))).start()
        raise KeyError
    assert done == ["ended"]
    assert idle.is_alive()


def test_threads_of_native_code_cannot_be_joined_and_are_left() -> None:
    """They are listed once they have called Python; joining one failed, with an error that hid the first one."""
    seen = threading.Event()

    def native() -> None:
        threading.current_thread()
        seen.set()
        time.sleep(1)

    with pytest.raises(KeyError), threads_joined():
        _thread.start_new_thread(native, ())
        assert seen.wait(10)
        raise KeyError


def test_a_start_that_is_too_slow_is_tried_again(
    private_ray: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session_module, "_start", flaky := Flaky(ray_session_module._start, failures=1))
    with ray_session(None, 1, 0):
        pass
    assert (flaky.calls, len(private_ray)) == (2, 1)
    monkeypatch.setattr(ray_session_module, "_start", Flaky(ray_session_module._start, failures=9))
    with pytest.raises(JobError, match=r"this machine: Ray did not start in time .*--verbose"), ray_session(None, 1, 0):
        pass


class Flaky:
    """Fails a number of times, as Ray does on a busy machine."""

    def __init__(self, start: Callable[..., None], failures: int) -> None:
        self.start, self.failures, self.calls = start, failures, 0

    def __call__(self, *args: Any) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise Exception("The current node timed out during startup. This could happen because")
        self.start(*args)


@pytest.fixture
def private_ray(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options with which Ray would be started; none is started."""
    seen: list[dict[str, Any]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **options: seen.append(options | {"token": token_mode()}))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
    monkeypatch.setattr(ray_folder, "_forget_token", lambda: None)  # of a live Ray that another module has here
    return seen


def token_mode() -> str | None:
    return os.environ.get("RAY_AUTH_TOKEN_PATH")


def test_a_local_ray_is_private(private_ray: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the loopback interface, in a temporary folder, which also contains its store if /dev/shm is small."""
    for suffices in (True, False):
        monkeypatch.setattr(ray_session_module, "shared_memory_suffices", lambda suffices=suffices: suffices)
        with ray_session(None, 1, 0):
            options = private_ray[-1]
            folder = Path(options["_temp_dir"]).parent  # Ray opens the folder that it is given to all users
            assert folder.is_dir()
        assert not folder.exists()
        assert options["token"] == str(folder / "auth_token")
        assert (options["address"], options["_node_ip_address"]) == ("local", "127.0.0.1")
        assert options["_plasma_directory"] == (None if suffices else str(folder))
        assert options["log_to_driver"] is False


def test_an_address_that_means_a_new_ray(private_ray: list[dict[str, Any]]) -> None:
    with ray_session("local", 1, 0) as session:
        assert not session.may_grow
    assert private_ray[0]["_node_ip_address"] == "127.0.0.1"


def test_a_cluster_is_joined_as_it_is(private_ray: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with ray_session(None, 1, 0) as session:
        assert session.may_grow
    (options,) = private_ray
    assert options == {"address": "auto", "log_to_driver": False, "logging_level": 40, "token": None}


def test_a_cluster_that_does_not_answer_is_reported_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_reachable(f"127.0.0.1:{port}")
    for address in (f"127.0.0.1:{port}", f"ray://localhost:{port}", f"[::1]:{port}", "127.0.0.1:99999"):
        with pytest.raises(UserError, match=r"no Ray cluster answers at .*ray start --head") as caught:
            check_reachable(address)
        assert address in str(caught.value)
    for address in ("auto", "local", "head", "http://head"):
        check_reachable(address)


def test_an_address_without_a_cluster_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(**options: object) -> None:
        raise ConnectionError("nobody")

    monkeypatch.setattr("ray.is_initialized", lambda: False)  # another test's session may exist
    monkeypatch.setattr("ray.init", no_answer)
    with pytest.raises(UserError, match=r"at head .*RAY_AUTH_MODE=token"), ray_session("head", None, None):
        pass
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(UserError, match=r"RAY_AUTH_TOKEN or .* must be the cluster's"), ray_session("head", None, None):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"at 127\.0\.0\.1:1 "), ray_session(None, None, None):
        pass


def test_threads_of_a_tokenizer_on_a_gpu_are_those_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    nodes: list[dict[str, float]] = [{"CPU": 640.0, "memory": 1e9}, {"CPU": 96.0, "GPU": 8.0}, {"CPU": 64, "GPU": 4}]
    there = [{"Alive": True, "Resources": node} for node in nodes]
    there.append({"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}})
    monkeypatch.setattr(ray, "nodes", lambda: there)
    assert cpus_per_gpu() == 12
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0, "GPU": 4.0}}])
    assert cpus_per_gpu() == 1


def test_a_port_that_is_not_rays_is_not_waited_for_in_silence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_answer(**options: object) -> None:
        time.sleep(1)
        raise ConnectionError("nobody")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", no_answer)
    monkeypatch.setattr(ray_session_module, "SILENCE_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address} "), ray_session(address, None, None):
            pass
    assert f"warning: no Ray cluster has answered at {address} " in capfd.readouterr().err
