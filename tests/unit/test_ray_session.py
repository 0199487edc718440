"""What a job does around Ray: clusters that do not answer, how many tokenizers, and no thread outlives an iteration."""

import socket
import threading
import time
from collections.abc import Callable

import pytest

from pipeline import job
from pipeline import ray_session as ray_session_module
from pipeline.job import ActorPool
from pipeline.ray_session import IDLE_THREAD, check_reachable, cpus_per_gpu, ray_session, threads_ended
from schemas.errors import UserError


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def of(nodes: int, cpus_each: int) -> None:
        monkeypatch.setattr(job, "cluster_has", lambda resource: nodes * cpus_each)
        monkeypatch.setattr(job, "smallest_node_has", lambda resource: cpus_each)
        monkeypatch.setattr(job, "cpus_per_gpu", lambda: 3)

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
    assert (sized.min_size, sized.max_size, sized.cpu_share) == pool
    alone = ActorPool.sized(parts, gpus, may_grow=False)
    assert (alone.max_size, alone.decode_cpus) == (pool[0], 1)
    assert sized.decode_cpus == (0.5 if sized.cpu_share == 0.5 else 1)  # no gap on a node is too small for a decoder
    assert sized.threads == (3 if gpus else max(1, nodes * cpus_each // sized.min_size))
    assert nodes * cpus_each - sized.min_size * sized.cpu_share >= 1  # CPU that decodes


def test_threads_are_waited_for_after_an_error_too() -> None:
    done: list[str] = []
    idle = threading.Thread(target=threading.Event().wait, name=IDLE_THREAD, daemon=True)
    with pytest.raises(KeyError), threads_ended():
        idle.start()
        threading.Thread(target=lambda: (time.sleep(0.2), done.append("ended"))).start()
        raise KeyError
    assert done == ["ended"]
    assert idle.is_alive()


def test_a_cluster_that_does_not_answer_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_reachable(f"127.0.0.1:{port}")
    for address in (f"127.0.0.1:{port}", f"ray://localhost:{port}", f"[::1]:{port}", "127.0.0.1:99999"):
        with pytest.raises(UserError, match=r"no Ray cluster answers at .*ray start --head") as caught:
            check_reachable(address)
        assert address in str(caught.value)
    for address in ("auto", "local", "head", "http://head"):
        check_reachable(address)


def test_a_cluster_that_is_none_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(**options: object) -> None:
        raise ConnectionError("nobody")

    monkeypatch.setattr("ray.is_initialized", lambda: False)  # another test's session may be there
    monkeypatch.setattr("ray.init", no_answer)
    with pytest.raises(UserError, match="at head "), ray_session("head", None, None):
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
