"""Clusters that change in the middle of a job: the same bytes as on one machine, and a tokenizer for a new node."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.job.progress import Meter
from pipeline.job.rows import PartMade
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import digests, tiny_recipe

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head of two CPUs that other nodes may join."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_is_killed_in_the_middle(cluster: Any, tiny_tokenizer: Path, tmp_path: Path) -> None:
    from pipeline.job.run import tokenize

    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    for i in range(16):
        write_video(tmp_path / "root" / f"{i}.mp4", moving_frames(10 + i, 120, 160, seed=i))
    summaries: list[dict[str, Any]] = []

    def job(out: str) -> None:
        recipe = tiny_recipe(tmp_path / "root", tmp_path / out, tiny_tokenizer, "sources_per_part=2")
        summaries.append(tokenize(recipe, ray_address=cluster.address, progress="off"))

    thread = threading.Thread(target=job, args=["killed"])
    thread.start()
    while not list((tmp_path / "killed").glob("frames/part-*/commit.json")) and thread.is_alive():
        time.sleep(0.02)
    cluster.remove_node(nodes[0], allow_graceful=False)
    thread.join(timeout=300)
    assert not thread.is_alive(), "the job stands still since it lost a node"
    job("whole")
    assert [summary["indexed"] for summary in summaries] == [16, 16]
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_half_a_cpu_that_is_left_is_enough_to_decode_on(cluster: Any, tiny_tokenizer: Path, tmp_path: Path) -> None:
    """As it may be on every node after one was lost, and its tokenizers have started on the others."""
    import ray

    from pipeline.job.run import tokenize

    class Other:
        def ready(self) -> None:
            pass

    for i in range(8):
        write_video(tmp_path / "root" / f"{i}.mp4", moving_frames(6, 120, 160, seed=i))
    ray.init(address=cluster.address, log_to_driver=False)
    other = ray.remote(num_cpus=0.5)(Other).remote()  # with two tokenizers, 1.5 of the head's 2 CPUs
    ray.get(other.ready.remote())
    recipe = tiny_recipe(tmp_path / "root", tmp_path / "out", tiny_tokenizer, "sources_per_part=2")
    summaries: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: summaries.append(tokenize(recipe, progress="off")), daemon=True)
    thread.start()
    thread.join(timeout=120)
    assert [summary["indexed"] for summary in summaries] == [8]


class GrownError(Exception):
    pass


def test_a_node_joins_in_the_middle_and_gets_a_tokenizer(cluster: Any, tiny_tokenizer: Path, tmp_path: Path) -> None:
    """Tokenizing takes most of the time, by 256 views of each frame: parts wait for the two tokenizers of the head."""
    from pipeline.job.run import tokenize

    class JoinAfterFour(Meter):
        def add(self, made: PartMade) -> None:
            super().add(made)
            if self.parts == 4:
                assert self.workers <= 2
                cluster.add_node(num_cpus=2)
            if self.workers > 2:
                raise GrownError

    for i in range(100):
        write_video(tmp_path / "root" / f"{i}.mp4", moving_frames(6, 120, 160, seed=i))
    heavy = ["sources_per_part=1", "views.num_views=256"]
    recipe = tiny_recipe(tmp_path / "root", tmp_path / "out", tiny_tokenizer, *heavy)
    with pytest.raises(GrownError):
        tokenize(recipe, ray_address=cluster.address, progress="off", meter=JoinAfterFour())
