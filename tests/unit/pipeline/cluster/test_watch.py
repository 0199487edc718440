"""A job on Ray ends when Ray's own processes die or cannot run workers, but not when other processes die."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.cluster import watch as ray_watch
from pipeline.cluster.watch import HeadLost, MemoryShort, RayLost, head_watched, ray_watched, sigterm_exits


def sleeper(folder: Path, name: str) -> "subprocess.Popen[bytes]":
    program = folder / name
    program.symlink_to(shutil.which("sleep") or "sleep")
    return subprocess.Popen([program, "60"])


def test_a_dead_raylet_ends_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_watch, "CHECK_INTERVAL_S", 0.02)
    look, others = ray_watch.own_processes, ray_watch.own_processes()  # of a Ray that other tests use
    monkeypatch.setattr(ray_watch, "own_processes", lambda: look() - others)
    other, raylet = sleeper(tmp_path, "other"), sleeper(tmp_path, "raylet")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RayLost), ray_watched():
        while ray_watch.own_processes() != {raylet.pid}:
            time.sleep(0.01)
        time.sleep(0.1)
        other.kill()
        other.wait()
        time.sleep(0.1)
        raylet.kill()
        time.sleep(10)
    raylet.wait()
    assert signal.getsignal(signal.SIGTERM) == before


def test_memory_that_stays_above_rays_limit_ends_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would kill every worker, forever; a job continues if memory falls below the limit for a moment."""
    monkeypatch.setattr(ray_watch, "CHECK_INTERVAL_S", 0.02)
    monkeypatch.setattr(ray_watch, "MEMORY_SHORT_S", 0.5)
    shares = itertools.cycle([0.99, 0.94])
    monkeypatch.setattr(ray_watch.ray_memory, "used_share", lambda: next(shares))
    with ray_watched():
        time.sleep(1.5)
    monkeypatch.setattr(ray_watch.ray_memory, "used_share", lambda: 0.99)
    with pytest.raises(MemoryShort, match="99% in use for"), ray_watched():
        time.sleep(10)


def test_a_lost_head_of_a_cluster_ends_the_block(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray itself would end the whole process, without a message."""
    monkeypatch.setattr(ray_watch, "HEAD_CHECK_INTERVAL_S", 0.02)
    monkeypatch.setattr(ray_watch, "HEAD_SILENT_S", 0.1)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "0.6")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with head_watched(address):
            time.sleep(0.5)
    with pytest.raises(HeadLost, match="no answer for 0 s"), head_watched(address):
        time.sleep(10)
    assert f"warning: the head of the Ray cluster at {address} has not answered for 0 s" in capfd.readouterr().err


@pytest.mark.parametrize("block", [sigterm_exits, ray_watched])
def test_sigterm_ends_with_143_also_by_rays_handler(block: type) -> None:
    for status in (None, int(signal.SIGTERM)):
        with pytest.raises(SystemExit) as ended, block():
            if status is not None:  # what Ray's handler does
                raise SystemExit(status)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        assert ended.value.code == 143
