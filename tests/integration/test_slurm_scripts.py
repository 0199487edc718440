"""The Slurm scripts with stand-ins for Slurm's commands: what they start, and what they do before the time limit."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import REPO

TOKEN = 'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >> tokens.log'
STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then printf "node1\\nnode2\\n"; else echo "$@" >> slurm.log; fi',
    "scancel": 'echo scancel "$@" >> slurm.log; kill -TERM "$(cat running)"',
    # the arguments of srun end where the command begins
    "srun": 'while [[ $1 == -* ]]; do shift; done; SLURM_NODEID=0 exec "$@"',
    "torchrun": 'printf "%s|" "$@" > torchrun.log; echo $$ > running; [ -z "$HANG" ] || exec sleep 60',
    "ray": f'echo "$@" >> ray.log; {TOKEN}',
    "bevt": f'{TOKEN}; printf "%s|" "$RAY_ADDRESS" "$@" > bevt.log; echo $$ > running; [ -z "$HANG" ] || exec sleep 60',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes; its commands write what they were called with into the working folder."""
    for name, body in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    variables = {"JOB_ID": "1234567", "JOB_NODELIST": "node[1-2]", "JOB_NUM_NODES": "2", "CPUS_PER_TASK": "8"}
    job = {f"SLURM_{name}": value for name, value in variables.items()} | {"SLURM_GPUS_ON_NODE": "4", "HANG": ""}
    return {**os.environ, **job, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def submit(script: str, *arguments: str, cwd: Path, slurm: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["bash", REPO / "deploy" / "slurm" / script, *arguments], cwd=cwd, env=slurm)


def test_training_starts_one_torchrun_per_node(tmp_path: Path, slurm: dict[str, str]) -> None:
    job = submit("train.sbatch", "joint", "--out", "my runs/joint", cwd=tmp_path, slurm=slurm)
    assert job.wait(timeout=60) == 0
    called = (tmp_path / "torchrun.log").read_text().split("|")[:-1]
    assert called[:10] == [
        *("--nnodes", "2", "--node-rank", "0", "--nproc-per-node", "4"),
        *("--master-addr", "node1", "--master-port", "24567"),
    ]
    assert called[10:] == ["--no-python", "bevt", "train", "joint", "--out", "my runs/joint", "--resume"]


def test_tokenizing_runs_on_a_ray_cluster_of_all_nodes(tmp_path: Path, slurm: dict[str, str]) -> None:
    job = submit("tokenize.sbatch", "--root", "my videos", cwd=tmp_path, slurm=slurm)
    assert job.wait(timeout=60) == 0
    assert (tmp_path / "bevt.log").read_text() == "node1:24567|tokenize|--root|my videos|"
    deadline = time.monotonic() + 30
    while len(started := starts(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)  # Ray's nodes are started in the background
    node = "start --block --disable-usage-stats --num-cpus=8 --num-gpus=4"
    assert sorted(started) == [f"{node} --address=node1:24567", f"{node} --head --port=24567"]
    (token,) = set((tmp_path / "tokens.log").read_text().splitlines())  # Ray's nodes and the command have the same
    assert re.fullmatch("token [0-9a-f]{64}", token)


def starts(place: Path) -> list[str]:
    log = place / "ray.log"
    return [line for line in log.read_text().splitlines() if line.startswith("start")] if log.exists() else []


def sleeps(pid: int) -> bool:
    """Whether the process waits: bash runs a trap at once only then."""
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "S"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads a process's state from /proc")
@pytest.mark.parametrize("script", ["train.sbatch", "tokenize.sbatch"])
def test_before_the_time_limit_the_job_is_queued_again(script: str, tmp_path: Path, slurm: dict[str, str]) -> None:
    job = submit(script, "joint", "--out", "out", cwd=tmp_path, slurm=slurm | {"HANG": "1"})
    deadline = time.monotonic() + 60
    while not ((tmp_path / "running").is_file() and sleeps(job.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=60) != 0
    stopped = ["scancel --signal=TERM 1234567"] if script == "train.sbatch" else []
    assert (tmp_path / "slurm.log").read_text().splitlines() == [*stopped, "requeue 1234567"]
    if script == "tokenize.sbatch":  # Slurm ends what is left
        os.kill(int((tmp_path / "running").read_text()), signal.SIGKILL)
