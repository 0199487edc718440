"""The calls to torch.distributed: NCCL is bound to the process's GPU, Gloo to no device."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from trainer.distributed.world import join_world


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The arguments of join_world's call as process 5 of 8, the second on its machine."""
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    calls: list[tuple[str, Any]] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: calls.append((backend, options)))
    monkeypatch.setattr(dist, "barrier", lambda **options: calls.append(("barrier", options)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    return calls


def test_nccl_is_given_its_gpu_at_the_start(asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(("current", device)))
    gpu = torch.device("cuda", 1)
    with join_world() as world:
        world.barrier()
        assert world.device == gpu and world.rank == 5
    assert asked == [
        ("current", gpu),
        ("nccl", {"rank": 5, "world_size": 8, "device_id": gpu}),
        ("barrier", {"device_ids": [1]}),
    ]


def test_gloo_has_no_device(asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with join_world() as world:
        world.barrier()
    assert asked == [("gloo", {"rank": 5, "world_size": 8}), ("barrier", {"device_ids": None})]
