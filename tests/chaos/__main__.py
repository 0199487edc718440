"""Disturb commands at random until the time is up; each must then give what an undisturbed run gives.

    make chaos SECONDS=1200 SEED=1

A trial picks a command, a moment and a fault, up to three times in a row, then runs the command to its end. It fails
where that end differs from the undisturbed one in a byte or a loss, and where a command does not end, shows a
traceback, or leaves a process, a semaphore or a temporary file behind. It prints a line per trial, then a summary as
JSON. `--trial N` repeats the Nth trial of a seed: the same command, faults and moments; what they hit depends on the
machine's speed as well. What a failed trial printed and wrote is kept.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.scenes import first_scenes, make_inputs, scenes
from tests.chaos.trial import Undisturbed, disturb, run_alone


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trial", type=int, help="only this trial")
    parser.add_argument("--command", help="only this command: tokenize, train, ...")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="chaos-"))
    known = undisturbed(base)
    names = sorted(known) if options.command is None else [options.command]
    trials = range(1_000_000) if options.trial is None else [options.trial]
    deadline, ran, failed = time.monotonic() + options.seconds, 0, []
    for trial in trials:
        if time.monotonic() > deadline:
            break
        rng = random.Random(f"{options.seed}/{trial}")
        story, wrong = disturb(known[rng.choice(names)], rng, base / f"trial-{trial}")
        print(f"{trial:4d}  {'FAILED' if wrong else 'ok'}  {'; '.join(story)}", flush=True)
        for line in wrong:
            print(f"      {line}", flush=True)
        ran, failed = ran + 1, failed + [trial] * bool(wrong)
    if not failed:
        shutil.rmtree(base)
    print(json.dumps({"seed": options.seed, "trials": ran, "failed": failed, "kept": str(base) if failed else None}))
    return 1 if failed else 0


def undisturbed(base: Path) -> dict[str, Undisturbed]:
    """Make the inputs and run every command once by itself."""
    make_inputs(base)
    found: dict[str, Undisturbed] = {}
    for listed in (first_scenes, scenes):
        for scene in listed(base):
            if scene.name not in found:
                found[scene.name] = run_alone(scene, base)
                print(f"undisturbed: {scene.name}, {found[scene.name].seconds:.1f} s", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
