"""What a job does around Ray: how many tokenizers there are, and that no thread outlives an iteration."""

import threading
import time
from collections.abc import Callable

import pytest

from pipeline import job
from pipeline.job import ActorPool
from pipeline.ray_session import IDLE_THREAD, threads_ended


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    def of(nodes: int, cpus_each: int) -> None:
        monkeypatch.setattr(job, "cluster_has", lambda resource: nodes * cpus_each)
        monkeypatch.setattr(job, "smallest_node_has", lambda resource: cpus_each)

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
    assert ActorPool.sized(parts, gpus, may_grow=False).max_size == pool[0]
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
