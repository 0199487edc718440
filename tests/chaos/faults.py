"""What happens to a command: signals, deaths and stops of its processes, a full disk, a second copy of itself."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

MARK = "BEVT_CHAOS"  # environment variable that all processes of a trial inherit
PAUSE_S = 3.0


class Victim:
    """A running command, with all that it started, found by the mark in their environment."""

    def __init__(self, argv: list[str], cwd: Path, mark: str, tmp: Path, log: Path) -> None:
        self.argv, self.cwd, self.mark, self.tmp, self.log = argv, cwd, mark, tmp, log
        environment = os.environ | {MARK: mark, "TMPDIR": str(tmp), "OMP_NUM_THREADS": "1"}
        with log.open("ab") as file:
            self.process = subprocess.Popen(argv, cwd=cwd, env=environment, stdout=file, stderr=file)

    def copy(self) -> "Victim":
        return Victim(self.argv, self.cwd, self.mark, self.tmp, self.log.with_suffix(".second"))

    def send(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signum)

    def helpers(self) -> list[int]:
        """The command's other processes."""
        return [pid for pid in marked(self.mark) if pid != self.process.pid]

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit status, None where it has not ended after `timeout_s`."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None


def marked(mark: str) -> list[int]:
    """Return the living processes whose environment has the mark, zombies left out."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                found += [int(entry.name)] if state != "Z" else []
    return found


Fault = Callable[[Victim, random.Random], None]


def kill(victim: Victim, rng: random.Random) -> None:
    victim.send(signal.SIGKILL)


def terminate(victim: Victim, rng: random.Random) -> None:
    victim.send(signal.SIGTERM)


def interrupt(victim: Victim, rng: random.Random) -> None:
    victim.send(signal.SIGINT)


def kill_helper(victim: Victim, rng: random.Random) -> None:
    _signal_one(victim, rng, signal.SIGKILL)


def pause_helper(victim: Victim, rng: random.Random) -> None:
    pid = _signal_one(victim, rng, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    if pid is not None:
        send(pid, signal.SIGCONT)


def stop_helper_and_terminate(victim: Victim, rng: random.Random) -> None:
    """A helper that never answers again must not keep the command from ending."""
    _signal_one(victim, rng, signal.SIGSTOP)
    time.sleep(PAUSE_S)
    victim.send(signal.SIGTERM)


def pause_all(victim: Victim, rng: random.Random) -> None:
    """As a laptop that sleeps."""
    everyone = marked(victim.mark)
    for signum in (signal.SIGSTOP, signal.SIGCONT):
        for pid in everyone:
            send(pid, signum)
        time.sleep(PAUSE_S)


def fill_disk(victim: Victim, rng: random.Random) -> None:
    """From now on no process of the command can make a file longer than a few bytes."""
    limit = rng.choice([0, 64, 4096])
    for pid in marked(victim.mark):
        with contextlib.suppress(OSError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, limit))


def start_again_beside(victim: Victim, rng: random.Random) -> None:
    """The same command a second time: it is refused, or shares the work."""
    second = victim.copy()
    if second.wait(timeout_s=240) is None:
        second.send(signal.SIGKILL)


FAULTS: dict[str, Fault] = {
    "kill -9": kill,
    "SIGTERM": terminate,
    "Ctrl-C": interrupt,
    "kill -9 of a helper": kill_helper,
    "a helper paused": pause_helper,
    "a helper stopped, SIGTERM": stop_helper_and_terminate,
    "everything paused": pause_all,
    "a full disk": fill_disk,
    "a second copy": start_again_beside,
}
MAY_LEAVE_FILES = {"kill -9"}  # temporary ones: nobody is left who could remove them


def _signal_one(victim: Victim, rng: random.Random, signum: int) -> int | None:
    helpers = sorted(victim.helpers())
    if not helpers:
        return None
    pid = rng.choice(helpers)
    send(pid, signum)
    return pid


def send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
