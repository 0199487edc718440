"""Loader workers: their batches arrive complete, and a failure of one is reported as a single error."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.errors import StorageError
from tests.support.children import is_running, wait_until
from tests.support.loader_datasets import Failing, Fatal, Numbers, Slow, Unloadable
from trainer.data import loader as loader_module
from trainer.data.errors import LoaderError, SampleError
from trainer.data.loader import make_loader

REPO = Path(__file__).resolve().parents[4]
KILLED = """
import sys
from tests.support.children import is_running, wait_until
from tests.support.loader_datasets import Slow
from trainer.data.loader import _Workers

workers = _Workers(Slow(), 2)
workers.ask(0)
print(workers._server._process.pid, *(worker.pid for worker in workers._workers), flush=True)
sys.stdin.read()
"""


def load(dataset, first=0, stop=4, workers=2):
    return make_loader(dataset, first, stop, num_workers=workers, pin_memory=False)


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_batches_come_whole_and_in_order(workers):
    expected = Numbers()
    steps = []
    for batch in load(Numbers(), 3, 8, workers):
        steps.append(batch["step"])
        for key, value in expected[batch["step"]].items():
            assert torch.equal(batch[key], value) if isinstance(value, Tensor) else batch[key] == value
            assert not isinstance(value, Tensor) or batch[key].dtype == value.dtype
        batch["bytes"] += 1  # writable
    assert steps == [3, 4, 5, 6, 7]
    assert list(load(Numbers(), 3, 3)) == []


def test_nothing_is_stored_in_dev_shm():
    """So its size, 64 MB in a container, is no limit, and a killed run leaves no file in it."""
    before = maps_of_dev_shm()  # those of a Ray session that another test started
    batch = next(iter(load(Numbers())))
    assert batch["step"] == 0 and "/memfd:bevt-batch" in Path("/proc/self/maps").read_text()
    assert maps_of_dev_shm() <= before


def maps_of_dev_shm() -> set[str]:
    return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm/" in line}


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_is_killed_is_one_error(signum):
    batches = iter(load(Fatal(signum)))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(LoaderError, match=rf"was killed by {signum.name} while .* step 2; .*loop\.num_workers"):
        next(batches)
    assert next(iter(load(Numbers())))["step"] == 0  # the next loader works


def test_a_worker_that_is_stopped_is_one_error(monkeypatch):
    monkeypatch.setattr(loader_module, "POLL_S", 0.1)
    monkeypatch.setattr(loader_module, "STOPPED_S", 0.3)
    batches = iter(load(Fatal(signal.SIGSTOP)))
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(LoaderError, match=r"has been stopped \(SIGSTOP\) for 0\.3 s while step 2"):
        next(batches)


def test_a_stopped_server_is_replaced(monkeypatch):
    assert next(iter(load(Numbers())))["step"] == 0
    server = loader_module._running_server()
    os.kill(server._process.pid, signal.SIGSTOP)
    monkeypatch.setattr("trainer.data.loader_server.REPLY_TIMEOUT_S", 0.2)
    with pytest.raises(LoaderError, match="killed or stopped"):
        next(iter(load(Numbers())))
    assert next(iter(load(Numbers())))["step"] == 0


def test_the_error_of_a_worker_is_raised():
    for first, error, message in (
        (1, SampleError, "no such part; fetch it"),
        (2, SampleError, r"ran out of memory; set loop\.num_workers lower"),
        (3, RuntimeError, "(?s)in a loader's process:.*ZeroDivisionError: a bug"),
    ):
        with pytest.raises(error, match=message):
            list(load(Failing(), first, first + 1))
    with pytest.raises(RuntimeError, match="KeyError: 'what was pickled'"):
        list(load(Unloadable()))


def test_a_server_that_cannot_start_is_one_error(monkeypatch):
    monkeypatch.setattr(loader_module, "_server", None)
    monkeypatch.setattr("trainer.data.loader_server._SERVER", "raise SystemExit(7)")
    with pytest.raises(StorageError, match=r"ended with exit status 7; set loop\.num_workers=0"):
        list(load(Numbers()))


def test_closing_the_workers_ends_their_processes():
    batches = loader_module._Workers(Slow(), 2)
    batches.ask(0)
    pids = [worker.pid for worker in batches._workers]
    batches.close()
    assert not any(is_running(pid) for pid in pids)


def test_a_killed_training_process_leaves_no_worker_behind():
    """Not even stopped processes, which cannot react."""
    command, environment = [sys.executable, "-c", KILLED], os.environ | {"PYTHONPATH": str(REPO)}
    parent = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3 and all(is_running(pid) for pid in pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_thread_pins_batches_one_ahead(monkeypatch):
    """As with a GPU, but without one."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    used = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.clone())
    pinned = {"num_workers": 2, "pin_memory": True}
    assert [batch["step"] for batch in make_loader(Numbers(), 0, 5, **pinned)] == [0, 1, 2, 3, 4]
    assert used == [3]
    with pytest.raises(SampleError, match="no such part"):
        list(make_loader(Failing(), 0, 4, **pinned))
    begun, batches = time.monotonic(), iter(make_loader(Numbers(), 0, 50, **pinned))
    assert next(batches)["step"] == 0
    batches.close()
    assert time.monotonic() - begun < 5
