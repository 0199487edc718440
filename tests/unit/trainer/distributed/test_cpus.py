"""Loader processes: a rank's share of the CPUs that it may use."""

import pytest
import torch

from trainer.distributed import cpus as workers
from trainer.distributed.cpus import MAX_WORKERS, describe_workers, loader_workers


def machine(monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: int, **env: str) -> None:
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(workers, "usable_cpus", lambda: cpus)


def test_a_gpu_gets_its_share_of_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, gpus, env, expected in (
        (96, 8, {"LOCAL_WORLD_SIZE": "8"}, 11),
        (256, 8, {"LOCAL_WORLD_SIZE": "8"}, MAX_WORKERS),
        (16, 1, {}, MAX_WORKERS),
        (2, 1, {}, 1),
        (8, 8, {"LOCAL_WORLD_SIZE": "8"}, 1),
        (64, 8, {"WORLD_SIZE": "32"}, 7),  # a launcher that does not report the local processes: one per GPU
        (64, 0, {}, 0),
    ):
        machine(monkeypatch, cpus, gpus, **env)
        assert loader_workers(None) == expected, (cpus, gpus, env)
        assert loader_workers(3) == 3
    machine(monkeypatch, 64, 8)
    assert loader_workers(None, 8) == 7  # before the processes are started
    assert "7 processes per rank; 8 ranks on 64 CPUs here" in described(monkeypatch, 64, LOCAL_WORLD_SIZE="8")
    assert describe_workers(2) == "2 processes per rank (loop.num_workers)"
    machine(monkeypatch, 64, 0)
    assert "in the training process" in describe_workers(None)


def described(monkeypatch: pytest.MonkeyPatch, cpus: int, **env: str) -> str:
    machine(monkeypatch, cpus, 8, **env)
    return describe_workers(None)
