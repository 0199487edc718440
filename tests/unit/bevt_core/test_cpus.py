"""The CPUs that a process may use."""

import os
from pathlib import Path

import pytest

from bevt_core import cpus
from bevt_core.cpus import cpu_quota, usable_cpus


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


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
        monkeypatch.setattr(cpus, "cpu_quota", lambda root, file, quota=quota: quota)
        assert usable_cpus() == expected
