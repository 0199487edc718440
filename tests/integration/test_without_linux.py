"""Everything but the GPU's and Ray's parts works without Linux's own functions, as on macOS."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.children import is_running, wait_until
from tests.support.without_linux import REPO, run_without_linux

ISOLATED = """
import os, subprocess, sys, tempfile, time
from pathlib import Path
from bevt_core import system
from bevt_core.cpus import usable_cpus
from bevt_core.processes import all_processes, kernel_ends_children, process_of, writers_into
from bevt_core.storage.locks.file_locks import EXCLUSIVE, is_held_here, release, take
from bevt_core.untrusted.isolation import ChildCrash, IsolatedFunction
from tests.support.misbehaviour import misbehave

assert system.PROC is None and not system.LIMITS_ADDRESS_SPACE and not kernel_ends_children()
assert usable_cpus() >= 1 and system.PREFAULTED == 0
lock = take(Path("lock"), EXCLUSIVE)
assert lock is not None and is_held_here(Path("lock"))
other = "from pathlib import Path; from bevt_core.storage.locks import file_locks as f; print(f.take(Path('lock'), 3))"
other = other.replace("3", str(EXCLUSIVE))
assert subprocess.run([sys.executable, "-c", other], capture_output=True, text=True).stdout.strip() == "None"
release(lock)

me = process_of(os.getpid())
assert me is not None and me.parent == os.getppid() and me.resident_bytes > 1 << 20 and me.state in "RSD", me
assert me.pid in {process.pid for process in all_processes()} and process_of(2**22 + 1) is None

small = IsolatedFunction("tests.support.misbehaviour:misbehave", max_bytes=200 << 20)
assert small("a", limit_s=60) == "well: a"
try:
    small("keep memory", limit_s=60)
except ChildCrash as error:
    assert str(error) == "killed, because it used more than 0.2 GB of memory", error
else:
    raise AssertionError("not noticed")
assert small("b", limit_s=60) == "well: b"

with open("output", "w") as output:  # as Ray's processes write into their folder
    sleeper = subprocess.Popen(["sleep", "60"], stdout=output)
assert writers_into(Path.cwd()) == [sleeper.pid]
sleeper.kill()
sleeper.wait()
print("parent of", small.pid, flush=True)
os.kill(os.getpid(), 9)
"""
CHAIN = """
import importlib, pkgutil, sys
from pathlib import Path

import bevt_core, pipeline, schemas, trainer

imported = 0
for package in (schemas, bevt_core, pipeline, trainer):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.rpartition(".")[2] != "triton_kernels":  # for GPUs
            importlib.import_module(module.name)
            imported += 1
import cli
assert imported > 300 and not {"decord", "ray", "triton"} & set(sys.modules)

from bevt_core import load_tokenizer
from pipeline import list_sources
from tests.support.builders import make_token_set
from tests.support.media import moving_frames, write_video
from tests.support.tiny_jobs import save_tiny_tokenizer
from trainer import FileClips, load_finetune_recipe, load_pretrain_recipe
from trainer import predict, run_finetuning, run_pretraining

SMALL = ["encoder.embed_dim=16", "encoder.num_heads=[1,2,4]", "encoder.depths=[1,1,1]", "encoder.window=[2,4,4]"]
LOOP = ["loop.num_workers=1", "loop.max_steps=1"]
if __name__ == "__main__":
    here = Path.cwd()
    tokenizer = load_tokenizer(save_tiny_tokenizer(here / "tokenizer"))
    tokens = make_token_set(here / "data", num_samples=8, sources_per_part=4, frames=6, tokenizer=tokenizer)
    for name in ("no", "yes"):
        for number in range(2):
            write_video(here / "videos" / name / f"{number}.mp4", moving_frames(8, seed=number))
        write_video(here / "videos" / name / "vp9.webm", moving_frames(8), codec="libvpx-vp9")
    sizes = [f"model.{size}" for size in SMALL]
    pretrain = [*sizes, *LOOP, "streams.video.global_batch=4", "streams.video.clip_frames=4"]
    recipe = load_pretrain_recipe("nano_video", [f"streams.video.tokens={tokens.path}", *pretrain])
    run_pretraining(recipe, here / "pretrained")
    listing = list_sources("folder", here / "videos", "train")
    clips = FileClips(here / "videos", tuple(listing.items), listing.classes)
    finetune = [*SMALL, *LOOP, "global_batch=4", "sampling.frames=4"]
    run_finetuning(load_finetune_recipe("nano_finetune", finetune), clips, clips, here / "mine")
    found = predict(here / "mine", [str(here / "videos")])
    print(len([row for row in found if "classes" in row]), "predictions of", len(found))
"""


def test_processes_locks_and_decoding_children_work(tmp_path: Path) -> None:
    ran = run_without_linux(tmp_path, ISOLATED, timeout_s=120)
    assert ran.returncode == -9, ran.stderr
    child = int(ran.stdout.split()[-1])
    wait_until(lambda: not is_running(child), timeout_s=20)  # killed without a word from the parent


@pytest.mark.slow
def test_every_module_is_imported_and_a_small_chain_runs(tmp_path: Path) -> None:
    """Pretraining with loader processes, fine-tuning on video files decoded in children, and prediction."""
    ran = run_without_linux(tmp_path, CHAIN, timeout_s=1200)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "6 predictions of 6"


@pytest.mark.slow
def test_the_loaders_behaviour_is_the_same(tmp_path: Path) -> None:
    """The loader's own tests, but those of its server and of memory files."""
    tests = "tests/unit/trainer/data/test_loader.py"
    program = f"""
import os, sys, pytest
os.chdir({str(REPO)!r})
left_out = "dev_shm or stopped_server or cannot_start or leaves_no_worker"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", {tests!r}, "-k", f"not ({{left_out}})"]))
"""
    ran = run_without_linux(tmp_path, program, timeout_s=1200)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.slow
def test_types_are_right_on_macos(tmp_path: Path) -> None:
    """mypy knows which functions of the standard library are missing there."""
    command = [sys.executable, "-m", "mypy", "--platform", "darwin", "--cache-dir", str(tmp_path)]
    ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
