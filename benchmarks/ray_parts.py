"""What a part costs in Ray: `python -m benchmarks.ray_parts [--parts 1000] [--tasks 1000 250]`.

Every part is committed already, so a task only reads a commit and the rest is Ray's. CPU time is that of all processes,
and that of the driver alone. Starting Ray does not count.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.scale_data import make_store
from bevt_core.dataset.source_list import read_plan, read_sources
from pipeline.bench.processes import usage_of_family
from pipeline.cluster.session import ray_session
from pipeline.job import stages
from pipeline.job.part_size import entries_of_part
from pipeline.job.rows import PartToMake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=1000)
    parser.add_argument("--per-part", type=int, default=64, help="sources per part")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 250], help="tasks that the parts share")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder, ray_session(None, 2, 0, "hidden"):
        settings, todo = committed_parts(Path(folder) / "frames", options.parts, options.per_part)
        list(stages.run_parts(settings, todo[:4], None))  # imports, and starts the workers
        for tasks in options.tasks:
            stages.MIN_TASKS, stages.TASKS_PER_CPU = tasks, 0
            all_s, driver_s, began = family_cpu_s(), time.process_time(), time.perf_counter()
            made = len(list(stages.run_parts(settings, todo, None)))
            driver_ms = 1000 * (time.process_time() - driver_s) / made
            all_ms = 1000 * (family_cpu_s() - all_s) / made
            shown = (
                f"{made} parts in {min(tasks, made)} tasks: {all_ms:.1f} ms of CPU a part, {driver_ms:.1f} of them in"
            )
            lines.append(f"{shown} the driver; {time.perf_counter() - began:.0f} s of wall time")
    print("\n".join(lines))


def committed_parts(frames_dir: Path, parts: int, per_part: int) -> tuple[stages.WorkerSettings, list[PartToMake]]:
    """The settings of a job without tokens, and all of its parts, which are committed."""
    make_store(frames_dir, parts * per_part, per_part, 2)
    plan, items = read_plan(frames_dir), read_sources(frames_dir)
    assert plan is not None
    settings = stages.WorkerSettings(
        frames_dir, None, frames_dir, [plan], None, None, 0, 10.0, 1, allow_outside=False, decoder="pyav"
    )
    return settings, [PartToMake(part, entries_of_part(items, plan, part)) for part in plan.parts]


def family_cpu_s() -> float:
    """CPU seconds of this process and of all that live below it."""
    return sum(cpu_s for cpu_s, _ in usage_of_family(os.getpid()).values())


if __name__ == "__main__":
    main()
