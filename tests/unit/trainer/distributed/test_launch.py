"""Processes start and end together, and one failure is reported once. Torch is imported only where needed."""

import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe, current_process
from pathlib import Path

import pytest

from schemas.errors import JointError, UserError
from tests.support.children import is_running, wait_for_sigterm, wait_until
from trainer.distributed.launch import ProcessFailedError, _collect, _Outcome, launch

REPO = Path(__file__).parents[4]


def collectives() -> str:
    """Two nested blocks, like evaluations in an analysis; rank 0 is slow to leave the first."""
    import torch

    from trainer.distributed.world import join_world

    with join_world() as world:
        with join_world():
            time.sleep(0.5 if world.is_main else 0)
        with join_world() as inner:
            inner.barrier()
        total = world.sum(torch.tensor([world.rank + 1.0]))
        world.barrier()
        refusals = []
        for work in (lambda: world.rank, _refuse):
            try:
                refusals.append(world.on_main(work))
            except JointError as error:
                refusals.append(str(error))
        return f"{float(total)} {world.gather(world.rank)} {world.from_main(world.rank)} {world.gather(refusals)}"


def _refuse() -> None:
    raise UserError("a run is there")


def misbehave(how: str) -> None:
    """Rank 1 raises or dies while rank 0 waits for it."""
    if os.environ["RANK"] == "0":
        time.sleep(100)
    if how == "user-error":
        raise UserError("rank 1 says no")
    if how == "bug":
        raise KeyError("lost")
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_the_end() -> None:
    Path(os.environ["READY"], os.environ["RANK"]).write_text(str(os.getpid()))
    time.sleep(60)


def test_collectives_and_the_result_of_rank_0():
    assert launch(collectives, 2) == f"3.0 [0, 1] 0 {[[0, 'a run is there']] * 2}"


@pytest.mark.parametrize(
    "how, error, message",
    [
        ("user-error", UserError, "^rank 1 says no$"),
        ("bug", ProcessFailedError, "(?s)process 1 of 2 failed.*KeyError: 'lost'"),
        ("killed", UserError, "^process 1 of 2 was killed by SIGKILL.*memory.*--resume"),
    ],
)
def test_a_failure_ends_all_processes(how, error, message, monkeypatch):
    monkeypatch.setattr("trainer.distributed.launch.CAUSE_TIMEOUT_S", 0.1)
    begun = time.monotonic()
    with pytest.raises(error, match=message):
        launch(misbehave, 2, how)
    assert time.monotonic() - begun < 50


def test_the_cause_is_reported_and_not_its_consequence():
    """Rank 0 fails because of rank 1, and its report arrives first."""
    pipes = [Pipe(duplex=False) for _ in range(2)]
    pipes[0][1].send(_Outcome(12.0, failure="connection closed by peer"))
    pipes[1][1].send(_Outcome(11.5, user_error="the cause"))
    with pytest.raises(UserError, match=r"^the cause$"):
        _collect([current_process(), current_process()], [receive for receive, _ in pipes])


def test_sigterm_is_forwarded_and_the_result_awaited(tmp_path, monkeypatch):
    monkeypatch.setenv("READY", str(tmp_path))

    def terminate() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    assert launch(wait_for_sigterm, 2) == "stopped"
    thread.join()


@pytest.mark.parametrize(("signum", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_that_ends_the_processes_ends_the_parent(signum, error, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("READY", str(tmp_path))

    def stop() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(error) as raised:
        launch(wait_for_the_end, 2)
    thread.join()
    assert signum == signal.SIGINT or raised.value.code == 143
    assert "Traceback" not in capfd.readouterr().err


def test_a_killed_parent_leaves_no_process_behind(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "from tests.support.children import wait_for_sigterm\n"
        "from trainer.distributed.launch import launch\n"
        "if __name__ == '__main__':\n    launch(wait_for_sigterm, 2)\n"
    )
    ready = tmp_path / "ready"
    ready.mkdir()
    environment = os.environ | {"READY": str(ready), "PYTHONPATH": str(REPO)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment)
    wait_until(lambda: len([file for file in ready.iterdir() if file.read_text()]) == 2)
    children = [int(file.read_text()) for file in ready.iterdir()]
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(is_running(pid) for pid in children))


def test_one_process_is_called_in_place(monkeypatch):
    assert launch(os.getpid, 1) == os.getpid()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="under torchrun, which started 4"):
        launch(os.getpid, 2)
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(UserError, match="`nproc` 0"):
        launch(os.getpid, 0)
