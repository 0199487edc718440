"""Memory in use, as Ray measures it: of the container if it has a limit, without the file cache."""

from pathlib import Path

import pytest

from pipeline.cluster import memory as ray_memory
from pipeline.cluster.memory import limit, used_share

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    700 kB\nHugePages_Total:       0\n"
V2 = {
    "memory.max": "512000",
    "memory.current": "409600",
    "memory.stat": "anon 1\ninactive_file 51200\nactive_file 102400\nworkingset_refault_file 9\n",
}
V1 = {
    "memory/memory.limit_in_bytes": "512000",
    "memory/memory.usage_in_bytes": "409600",
    "memory/memory.stat": "inactive_file 1\nactive_file 2\ntotal_inactive_file 51200\ntotal_active_file 0\n",
}


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({}, 0.3),
        (V2, 0.5),
        (V1, 0.7),
        (V2 | {"memory.max": "max"}, 0.3),
        (V2 | {"memory.max": str(1 << 40)}, 0.3),
        ({"memory.max": "512000"}, 0.3),
    ],
)
def test_memory_in_use(files: dict[str, str], share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr(ray_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(ray_memory, "CGROUP", tmp_path)
    assert used_share() == pytest.approx(share)


def test_memory_in_use_here_and_where_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < used_share() < 1
    monkeypatch.setattr(ray_memory, "MEMINFO", tmp_path / "absent")
    assert used_share() == 0


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, 0.95),
        ({"RAY_memory_usage_threshold": "0.8"}, 0.8),
        ({"RAY_memory_usage_threshold": "odd"}, 0.95),
        ({"RAY_memory_monitor_refresh_ms": "0"}, float("inf")),
    ],
)
def test_rays_limit(variables: dict[str, str], wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_memory_usage_threshold", "RAY_memory_monitor_refresh_ms"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert limit() == wanted
