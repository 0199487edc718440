"""Machines without room or rights, processes that are killed or stopped: a finished job or one error, nothing left.

A run has several oddities at once: it takes seconds to start.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.evaluation import ClassifierCard
from tests.support.builders import make_token_set
from tests.support.children import children_of, command_of, descendants, is_running, wait_until
from tests.support.media import moving_frames, write_video

REPO = Path(__file__).resolve().parents[2]
ODD = 'it\'s "odd", 50% 🐈 $HOME ' + "x" * 170  # a folder's name
TINY = ["model.vocab_size=64", "model.encoder.embed_dim=16", "model.encoder.depths=[1,1,1]", "loop.num_workers=1"]
TINY += ["model.encoder.num_heads=[1,2,4]", "streams.image.global_batch=4", "loop.epochs=10000"]
PROGRESS = "step "
HARMLESS = ("Grad strides", "grad.sizes", "bucket_view", "run_backward")  # DDP's warning of a model so small


def odd_environment(place: Path) -> dict[str, str]:
    """A long TMPDIR, in which no socket's path fits, no home, and a checkout that may lie anywhere."""
    scratch = place / ("t" * 150)
    scratch.mkdir(exist_ok=True)
    odd = {"TMPDIR": str(scratch), "HOME": "/nonexistent", "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **odd}


def bevt(place: Path, *arguments: object, shell: str = "ulimit -n 256", wrapper: Sequence[str] = ()) -> str:
    """Run a command there, after a line of shell; return its stderr."""
    command = [*wrapper, "bash", "-c", f'{shell}; exec "$@"', "bash", sys.executable, "-m", "cli", *map(str, arguments)]
    environment = odd_environment(place)
    ended = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stderr


def complaints(errors: str) -> list[str]:
    """The lines of stderr that are neither progress nor that warning."""
    lines = [line for line in errors.splitlines() if not line.startswith(PROGRESS)]
    return [line for line in lines if not any(part in line for part in HARMLESS)]


def options(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def training(place: Path, *settings: str) -> list[str]:
    images = place / "images" / "tokens" / "test-v2"
    if not images.exists():
        make_token_set(place / "images", kind="image", num_samples=8)
    command = ["train", "image", "--recipe", "nano_image", "--image-tokens", str(images), "--out", str(place / "run")]
    return [*command, *options(*TINY, *settings)]


def names_in_shm() -> set[str]:
    return {file.name for file in Path("/dev/shm").glob("*")}


def test_training_where_everything_is_odd(tmp_path: Path) -> None:
    """Quotes, emoji and 200 characters in each path; few descriptors; nowhere to write but the run."""
    place = tmp_path / ODD
    place.mkdir()
    assert complaints(bevt(place, *training(place, "loop.max_steps=1"))) == []
    assert (place / "run" / "weights.safetensors").is_file()


def namespace() -> list[str]:
    """A command's prefix that lets it mount; the test is skipped where this user may not."""
    prefix = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*prefix, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    return prefix


@pytest.mark.slow
@pytest.mark.parametrize(
    "mounts",
    [
        "mount -t tmpfs -o size=64k none /dev/shm",
        "mount -t tmpfs -o size=16k none $TMPDIR; head -c 99999 /dev/zero > $TMPDIR/x 2> /dev/null",
        "mount -t tmpfs -o ro none $TMPDIR; mount -t tmpfs -o ro none /var/tmp",
    ],
    ids=["/dev/shm of 64 kB", "TMPDIR full", "TMPDIR read-only"],
)
def test_two_ranks_without_room(tmp_path: Path, mounts: str) -> None:
    bevt(tmp_path, *training(tmp_path, "loop.max_steps=2"), "--nproc", 2, shell=mounts, wrapper=namespace())
    assert (tmp_path / "run" / "weights.safetensors").is_file()


@pytest.mark.slow
def test_the_commands_after_pretraining_where_everything_is_odd(tmp_path: Path) -> None:
    place = tmp_path / ODD
    for i in range(8):
        write_video(place / "videos" / ("left", "right")[i % 2] / f"{i} 'x' 🐈.mp4", moving_frames(10, 64, 80, seed=i))
    model = ["encoder.embed_dim=16", "encoder.depths=[1,1,1]", "encoder.num_heads=[1,2,4]", "global_batch=4"]
    root, run = ["--root", place / "videos"], place / "run"
    bevt(place, "finetune", "folder", *root, "--out", run, *options(*model, "loop.max_steps=1"))
    bevt(place, "evaluate", run, *root, "--num-workers", 2, "--out", place / "evaluation")
    bevt(place, "extract", run, *root, "--num-workers", 2, "--out", place / "features.parquet")
    bevt(place, "probe", run, *root, "--num-workers", 1, "--out", place / "probe")
    bevt(place, "predict", run, place / "videos", "--num-workers", 1)
    assert ClassifierCard.model_validate_json((run / "classifier.json").read_bytes()).classes == ("left", "right")
    for file in ("evaluation/evaluation.json", "features.parquet", "probe/probe.json"):
        assert (place / file).is_file()


# ---- processes that are killed or stopped ----------------------------------------------------------


class Job:
    """A training of two ranks, a loader each, that has logged a few steps."""

    def __init__(self, place: Path) -> None:
        (place / "tmp").mkdir()
        environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "TMPDIR": str(place / "tmp")}
        command = [sys.executable, "-m", "cli", *training(place, "loop.checkpoint_every=1000"), "--nproc", "2"]
        self.process = subprocess.Popen(
            command, cwd=REPO, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.log = place / "run" / "metrics.jsonl"
        self.all: list[int] = []

    def wait(self) -> None:
        """Wait for its third step."""
        wait_until(lambda: self.log.exists() and self.log.read_bytes().count(b"\n") > 2, 280)
        self.all = descendants(self.process.pid)
        self.ranks = [pid for pid in children_of(self.process.pid) if "spawn_main" in command_of(pid)]
        self.servers = [pid for rank in self.ranks for pid in children_of(rank) if "loader_server" in command_of(pid)]
        self.workers = [pid for server in self.servers for pid in children_of(server)]
        assert len(self.ranks) == len(self.servers) == len(self.workers) == 2

    def wait_until_blocked(self) -> None:
        """Wait until no step has ended for five seconds: batches that are ready are used up."""
        seen = -1
        while seen != (seen := self.log.stat().st_size):
            time.sleep(5)

    def end(self) -> tuple[int, list[str]]:
        """Wait for it; return its exit status and its lines on stderr."""
        _, errors = self.process.communicate(timeout=200)
        return self.process.returncode, complaints(errors)


@contextmanager
def job(place: Path) -> Iterator[Job]:
    """Nothing of it may be left: no process, no semaphore, nothing but torch's cache in TMPDIR."""
    before = names_in_shm()
    running = Job(place)
    try:
        running.wait()
        yield running
        wait_until(lambda: not any(is_running(pid) for pid in running.all))
        assert not {name for name in names_in_shm() - before if name.startswith(("sem.", "torch_"))}
        assert [file.name for file in (place / "tmp").iterdir() if not file.name.startswith("torchinductor")] == []
    finally:
        running.process.kill()
        for pid in filter(is_running, running.all):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (lambda job: job.ranks[1], "error: process 1 of 2 was killed by SIGKILL"),
        (lambda job: job.workers[1], "was killed by SIGKILL while it made the batch of step"),
        (lambda job: job.servers[0], "ended for an unknown reason while it made the batch of step"),
    ],
    ids=["rank", "worker", "server"],
)
def test_a_killed_process_ends_the_job_with_one_line(
    tmp_path: Path, chosen: Callable[[Job], int], message: str
) -> None:
    with job(tmp_path) as running:
        os.kill(chosen(running), signal.SIGKILL)
        status, lines = running.end()
    assert status == 2 and len(lines) == 1 and message in lines[0] and "--resume" in lines[0]


@pytest.mark.slow
def test_a_killed_job_leaves_nothing(tmp_path: Path) -> None:
    with job(tmp_path) as running:
        for pid in [running.ranks[0], running.workers[1]]:
            os.kill(pid, signal.SIGSTOP)
        running.process.kill()
        running.process.communicate()


@pytest.mark.slow
def test_sigterm_reaches_a_stopped_rank(tmp_path: Path) -> None:
    with job(tmp_path) as running:
        os.kill(running.ranks[1], signal.SIGSTOP)
        running.process.terminate()
        status, lines = running.end()
    assert status == 0 and len(lines) == 1 and lines[0].startswith("stopped at step")


@pytest.mark.slow
def test_sigterm_ends_a_job_whose_loader_is_stopped(tmp_path: Path) -> None:
    with job(tmp_path) as running:
        os.kill(running.workers[0], signal.SIGSTOP)
        running.wait_until_blocked()
        running.process.terminate()
        status, lines = running.end()
    assert status == 143 and len(lines) == 1 and "SIGTERM: no step has ended for 20 s" in lines[0]


@pytest.mark.slow
def test_a_stopped_rank_ends_the_job_with_one_line(tmp_path: Path) -> None:
    with job(tmp_path) as running:
        os.kill(running.ranks[1], signal.SIGSTOP)
        status, lines = running.end()
    assert status == 2 and len(lines) == 1 and "process 1 (process id" in lines[0] and "SIGSTOP" in lines[0]
