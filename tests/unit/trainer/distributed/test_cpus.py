"""Loader processes: a rank's share of the CPUs that it may use."""

import os
from pathlib import Path

import pytest
import torch

from trainer.distributed import cpus as workers
from trainer.distributed.cpus import MAX_WORKERS, cpu_quota, describe_workers, loader_workers, usable_cpus


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


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


def test_quotas_of_both_kinds_of_cgroups_are_found(tmp_path: Path) -> None:
    write(tmp_path, cgroup="1:cpu:/\n0::/jobs/7\n")
    none, v2, v1 = tmp_path / "none", tmp_path / "v2", tmp_path / "v1"
    assert cpu_quota(none, tmp_path / "cgroup") is None
    write(v2 / "jobs" / "7", cpu__max="max 100000\n")
    assert cpu_quota(v2, tmp_path / "cgroup") is None
    write(v2 / "jobs", cpu__max="600000 100000\n")
    assert cpu_quota(v2, tmp_path / "cgroup") == 6.0
    write(v2 / "jobs" / "7", cpu__max="150000 50000\n")
    assert cpu_quota(v2, tmp_path / "cgroup") == 3.0
    write(v1 / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert cpu_quota(v1, tmp_path / "cgroup") is None
    write(v1 / "cpu", cpu__cfs_quota_us="250000\n")
    assert cpu_quota(v1, tmp_path / "cgroup") == 2.5


def test_a_quota_is_rounded_down_and_never_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for quota, expected in ((None, 8), (2.5, 2), (0.5, 1), (64.0, 8)):
        monkeypatch.setattr(workers, "cpu_quota", lambda root, file, quota=quota: quota)
        assert usable_cpus() == expected
