"""A run that is killed and resumed against one that is not: losses and weights, bit for bit (`loop.deterministic`)."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from common import REPO, Options, bevt, joint_recipe, step
from made_shards import photo_shards

from schemas.recipes.loading import to_yaml
from trainer.engine.checkpoint import CHECKPOINTS
from trainer.metrics.log import read_metrics
from trainer.runs.directory import WEIGHTS

STEPS, EVERY = 16, 4  # steps of the run, and from one checkpoint to the next
KILL_AFTER = 6  # steps in the log: a checkpoint lies behind, and work is lost
COMPARED = ("loss", "mim_loss", "mvm_loss", "grad_norm")


def main() -> None:
    with step("resume") as (options, result):
        recipe = options.work / "resume.yaml"
        recipe.write_text(to_yaml(small_recipe(options)))
        whole, killed = options.work / "resume-whole", options.work / "resume-killed"
        uninterrupted = start(recipe, whole)
        killed_after = kill(start(recipe, killed), killed)
        wait_for(uninterrupted)
        wait_for(start(recipe, killed, "--resume"))
        lines = [read_metrics(run) for run in (whole, killed)]
        losses = [[line[key] for line in run for key in COMPARED] for run in lines]
        same_weights = (whole / WEIGHTS).read_bytes() == (killed / WEIGHTS).read_bytes()
        result.set(
            steps=len(lines[0]),
            killed_after=killed_after,
            first_loss=lines[0][0]["loss"],
            last_loss=lines[0][-1]["loss"],
            same_losses=losses[0] == losses[1] and len(lines[0]) == STEPS,
            same_weights=same_weights,
        )


def small_recipe(options: Options) -> Any:
    """Swin-T at the paper's shapes, or the nano model: deterministic, without loader processes."""
    overrides = [*photo_shards(options), "streams.video.global_batch=2", "streams.image.global_batch=4"]
    overrides += ["loop.micro_batches=1", "loop.processes=null", "loop.num_workers=0", "loop.hang_timeout_s=null"]
    overrides += ["loop.epochs=10", "optim.warmup_epochs=0", f"loop.max_steps={STEPS}", "loop.deterministic=true"]
    overrides += [f"loop.checkpoint_every={EVERY}", "loop.activation_checkpointing=false"]
    if options.tiny:
        overrides += ["model.vocab_size=64", "streams.video.clip_frames=8"]
        return joint_recipe(*overrides, name="nano_joint")
    tiny = ["model.encoder.embed_dim=96", "model.encoder.depths=[2,2,6,2]", "model.encoder.num_heads=[3,6,12,24]"]
    return joint_recipe(*overrides, *tiny)


def start(recipe: Path, out: Path, *more: str) -> subprocess.Popen:
    # the start of a process group, so that a kill reaches every process of the run
    command = bevt("train", "joint", "--recipe", recipe, "--out", out, *more)
    return subprocess.Popen(command, cwd=REPO, start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})


def kill(run: subprocess.Popen, out: Path) -> int:
    """Kill a run that has a checkpoint, between two; return the steps in its log."""
    while run.poll() is None:
        checkpoints = list((out / CHECKPOINTS).glob("step-*")) if (out / CHECKPOINTS).is_dir() else []
        if checkpoints and len(read_metrics(out)) >= KILL_AFTER:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            return len(read_metrics(out))
        time.sleep(0.01)
    raise RuntimeError(f"the run to be killed ended by itself, exit code {run.returncode}")


def wait_for(run: subprocess.Popen) -> None:
    if run.wait():
        raise RuntimeError(f"`{' '.join(map(str, run.args))}` ended with exit code {run.returncode}")


if __name__ == "__main__":
    main()
