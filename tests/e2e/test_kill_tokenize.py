"""Kill the job anywhere, run the same command again: the files are those of an uninterrupted run, byte for byte."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.job.run import tokenize
from tests.support.inline_jobs import without_ray
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import digests, tiny_recipe

COMMAND = """
import json, sys
from pathlib import Path
from pipeline.job import stages
from pipeline.job.run import tokenize
from tests.support.tiny_jobs import tiny_recipe
root, out, tokenizer = map(Path, sys.argv[1:4])
stages.MIN_TASKS, stages.TASKS_PER_CPU = int(sys.argv[4]), 0
summary = tokenize(tiny_recipe(root, out, tokenizer, "sources_per_part=2"), num_cpus=2, progress="off")
print(json.dumps(summary))
"""


class Job:
    """`bevt tokenize` in a process of its own, with its Ray."""

    def __init__(self, root: Path, out: Path, tokenizer: Path, tasks: int = 6) -> None:
        """`tasks` make the job's 6 parts."""
        self.out = out
        command = [sys.executable, "-c", COMMAND, str(root), str(out), str(tokenizer), str(tasks)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_parts(self, count: int) -> None:
        while len(list(self.out.glob("frames/part-*/commit.json"))) < count and self.process.poll() is None:
            time.sleep(0.01)

    def descendants(self) -> dict[int, str]:
        """pid -> command line of the job's processes."""
        parents, commands = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                    commands[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        found: dict[int, str] = {}
        for pid, command in commands.items():
            ancestor = pid
            while ancestor > 1 and ancestor != self.process.pid:
                ancestor = parents.get(ancestor, 0)
            if ancestor == self.process.pid and pid != ancestor:
                found[pid] = command
        return found

    def kill(self) -> None:
        """SIGKILL to the driver; whatever it started must die with it, Ray's two agents after a minute or so."""
        family = self.descendants()
        self.process.kill()
        self.process.communicate()
        agents = {pid for pid, command in family.items() if "Agent" in command}
        deadline = time.monotonic() + 60
        while any(_alive(pid) for pid in family.keys() - agents):
            assert time.monotonic() < deadline, "processes outlive the driver"
            time.sleep(0.05)
        for pid in agents:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def finish(self) -> None:
        _, stderr = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, stderr


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for i in range(11):
        write_video(root / f"{i}.mp4", moving_frames(6 + i, 120, 160, seed=i))
    (root / "stub.mp4").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def uninterrupted(videos: Path, tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("uninterrupted")
    with without_ray():
        tokenize(tiny_recipe(videos, out, tiny_tokenizer, "sources_per_part=2"), progress="off")
    return digests(out)


def test_kill_the_driver_and_run_again(
    videos: Path, uninterrupted: dict[str, str], tiny_tokenizer: Path, tmp_path: Path
) -> None:
    job = Job(videos, tmp_path, tiny_tokenizer)
    job.wait_for_parts(2)
    job.kill()
    assert not (tmp_path / "frames" / "dataset.json").exists()
    assert not (tmp_path / "tokens" / "dvae-v2" / "dataset.json").exists()
    with without_ray():
        summary = tokenize(tiny_recipe(videos, tmp_path, tiny_tokenizer, "sources_per_part=2"), progress="off")
    assert summary["rejected_by_reason"] == {"empty-file": 1}
    assert digests(tmp_path) == uninterrupted


VICTIMS = {
    "driver": "",
    "decode worker": "ray::Map",
    "tokenizer actor": "ray::MapWorker",
    "decoding child": "bevt_core.untrusted.isolation",
    "any worker": "ray::",
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_kill_anything_at_any_time(
    videos: Path, uninterrupted: dict[str, str], tiny_tokenizer: Path, tmp_path: Path, seed: int
) -> None:
    """Whatever dies, the job survives it or is run again; the bytes are the same."""
    rng = random.Random(seed)
    victim = list(VICTIMS)[seed % len(VICTIMS)]
    job = Job(videos, tmp_path, tiny_tokenizer, tasks=2 if seed % 2 else 6)
    job.wait_for_parts(rng.randrange(4))
    time.sleep(rng.random() * 2)
    if victim == "driver":
        job.kill()
    else:
        targets = [pid for pid, command in job.descendants().items() if VICTIMS[victim] in command]
        for pid in rng.sample(targets, min(1, len(targets))):
            os.kill(pid, signal.SIGKILL)
        job.process.communicate(timeout=300)
    Job(videos, tmp_path, tiny_tokenizer).finish()
    assert digests(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("victims", [0, 1])
def test_parts_share_tasks(
    videos: Path, uninterrupted: dict[str, str], tiny_tokenizer: Path, tmp_path: Path, victims: int
) -> None:
    """Two tasks for six parts, also if one loses its worker after its first part: one run makes the same bytes."""
    job = Job(videos, tmp_path, tiny_tokenizer, tasks=2)
    job.wait_for_parts(1)
    targets = [pid for pid, command in job.descendants().items() if VICTIMS["decode worker"] in command]
    for pid in targets[:victims]:
        os.kill(pid, signal.SIGKILL)
    job.finish()
    assert digests(tmp_path) == uninterrupted


@pytest.mark.slow
def test_two_drivers_at_once(videos: Path, uninterrupted: dict[str, str], tiny_tokenizer: Path, tmp_path: Path) -> None:
    """The second one is refused, and the first one makes what it would have made alone."""
    first = Job(videos, tmp_path, tiny_tokenizer)
    first.wait_for_parts(1)
    first.process.send_signal(signal.SIGSTOP)  # or it may have ended before the second one begins
    second = Job(videos, tmp_path, tiny_tokenizer)
    _, stderr = second.process.communicate(timeout=300)
    first.process.send_signal(signal.SIGCONT)
    assert second.process.returncode and f"{tmp_path}: `bevt tokenize` (process {first.process.pid} on" in stderr
    first.finish()
    assert digests(tmp_path) == uninterrupted


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
