"""Does pretraining pay? `python benchmarks/study/run.py --out DIR [--tiny] [--only PART ...] [--jobs 2]`.

Runs the commands of `plan.py`, each on one thread, `--jobs` at once. Run it again after an interruption: finished runs
are kept and interrupted ones resumed. DIR/costs.jsonl has the CPU seconds of every run; `tables.py` reads the results.
`--only` selects runs whose name contains one of the given parts, and what these need. `--real NAME=ROOT` adds the label
set "forward against reversed playback" of the videos below ROOT, `--real-classes NAME=ROOT` that of ROOT's folders.
`--leads` adds the runs of `leads.py`.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from label_sets import RealVideos
from leads import leads
from plan import Run, runs_of
from sizes import FULL, TINY, Study

from pipeline.bench.processes import usage_of_family
from schemas.text.json_text import json_text

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, to try the commands")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of runs")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--real", nargs="+", default=[], metavar="NAME=ROOT", help="real videos, for playback")
    parser.add_argument("--real-classes", nargs="+", default=[], metavar="NAME=ROOT", help="folders of real classes")
    parser.add_argument("--leads", action="store_true", help="also the runs that try what else could help")
    options = parser.parse_args()
    real = [*named_roots(parser, options.real, "playback"), *named_roots(parser, options.real_classes, "classes")]
    if len({videos.name for videos in real} - {"pictures"}) < len(real):
        parser.error("each real label set needs its own name, other than pictures")
    study = TINY if options.tiny else FULL
    check_sizes(options.out, study)
    runs = {run.name: run for run in [*runs_of(study, real), *(leads(study) if options.leads else ())]}
    wanted = with_needs(runs, [name for name in runs if any(part in name for part in options.only)])
    return run_all(wanted, options.out.resolve(), options.jobs)


def check_sizes(out: Path, study: Study) -> None:
    """Raise SystemExit if the clips in `out` are those of a study of another size."""
    path = out / "raw" / "camera-motion.json"
    if path.is_file():
        made = json.loads(path.read_text())
        sizes = {"train_clips_per_class": study.labelled, "unlabelled_clips": study.unlabelled, "images": study.images}
        for name, wanted in sizes.items():
            if made[name] != wanted:
                raise SystemExit(
                    f"{path}: {name} is {made[name]}, wanted {wanted}; give another --out, or --tiny again"
                )


def named_roots(parser: argparse.ArgumentParser, values: Sequence[str], use: str) -> list[RealVideos]:
    """Parse NAME=ROOT; the name is a part of the names of runs."""
    found = []
    for value in values:
        name, _, root = value.partition("=")
        if not re.fullmatch(r"[a-z0-9-]+", name) or not Path(root).is_dir():
            parser.error(f"{value!r}: expected NAME=ROOT with a name like ucf-101 and an existing folder")
        found.append(RealVideos(name, str(Path(root).resolve()), use))
    return found


def with_needs(runs: dict[str, Run], names: Sequence[str]) -> list[Run]:
    """Return the named runs and all that they need, in the order of `runs`."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += runs[name].needs
    return [run for name, run in runs.items() if name in found]


def run_all(runs: Sequence[Run], out: Path, jobs: int) -> int:
    """Run what is not done, in order, as soon as its needs are done; return the number of runs that failed."""
    left = [run for run in runs if not (out / run.product).is_file()]
    done = {run.name for run in runs} - {run.name for run in left}
    failed: list[str] = []
    working: dict[Future[int], Run] = {}
    print(f"{len(left)} of {len(runs)} runs to do", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        while left or working:
            ready = [run for run in left if done >= set(run.needs)][: jobs - len(working)]
            for run in ready:
                left.remove(run)
                working[pool.submit(execute, run, out)] = run
            if not working:
                break  # what is left needs a run that failed
            for future in wait(working, return_when=FIRST_COMPLETED).done:
                run = working.pop(future)
                (failed.append if future.result() else done.add)(run.name)
                state = f"failed, see {log_of(run, out)}" if future.result() else "done"
                print(f"{time.strftime('%H:%M:%S')} {run.name}: {state}; {len(left)} left", flush=True)
    return len(failed)


def execute(run: Run, out: Path) -> int:
    """Run one command; return its exit status, or 1 if its product is missing."""
    words = shlex.split(run.command.format(out=out))
    program = [sys.executable] if words[0].endswith(".py") else [sys.executable, "-m", "cli"]
    if words[0] in ("train", "finetune", "tokenizer") and (out / run.name / "run.json").is_file():
        words.append("--resume")
    log = log_of(run, out)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    began, cpu_s = time.monotonic(), dict[int, float]()
    with log.open("w") as file:
        process = subprocess.Popen([*program, *words], cwd=ROOT, stdout=file, stderr=file, env=environment)
        while process.poll() is None:  # what Ray starts is in no process's rusage
            cpu_s.update({pid: spent for pid, (spent, _) in usage_of_family(process.pid).items()})
            time.sleep(0.2)
    cost = {"cpu_s": round(sum(cpu_s.values()), 1), "wall_s": round(time.monotonic() - began, 1)}
    with (out / "costs.jsonl").open("a") as file:
        file.write(json_text({"run": run.name, "exit": process.returncode, **cost}) + "\n")
    return process.returncode or int(not (out / run.product).is_file())


def log_of(run: Run, out: Path) -> Path:
    return out / "logs" / f"{run.name.replace('/', '-')}.log"


if __name__ == "__main__":
    sys.exit(main())
