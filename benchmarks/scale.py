"""Costs that grow with a dataset: `python -m benchmarks.scale [--samples 50000 250000] [--per-part 64]`.

Makes frame stores (one tiny picture per sample), trees of empty files and logs of runs at each size, and measures each
operation in a child process: CPU seconds, peak memory above that of the imports, and the anonymous memory that is left,
which is private to the process. The exponent is fitted over the sizes: 1 is linear. Making 10^6 samples takes minutes.
"""

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.scale_data import make_log, make_store, make_tree
from schemas.text.json_text import json_text, parse_json

Result = dict[str, float]


def open_store(work: Path) -> Result:
    from bevt_core.dataset.frame_store import FrameStore

    return {"rows": FrameStore(work / "data" / "frames").samples.num_rows}


def resume(work: Path) -> Result:
    from bevt_core.dataset.source_list import read_plan
    from pipeline.job.commits import journal_frame_commits

    plan = read_plan(work / "data" / "frames")
    assert plan is not None
    return {"rows": len(journal_frame_commits(work / "data" / "frames", plan))}


def sources_and_plan(work: Path) -> Result:
    from bevt_core.dataset.source_list import read_sources, sources_digest
    from bevt_core.rng import rng_for
    from pipeline.job.part_size import entries_of_part
    from schemas.frames import Plan

    items = read_sources(work / "data" / "frames")
    order = rng_for(0, "plan").permutation(len(items))
    items = items.take(order)
    plan = Plan.model_validate_json((work / "data" / "frames" / "plan.json").read_bytes())
    assert sources_digest(items) and entries_of_part(items, plan, 0)
    return {"rows": len(items)}


def listing(work: Path) -> Result:
    from pipeline.sources import forget_folders

    forget_folders(work / "tree")
    return listing_again(work)


def listing_again(work: Path) -> Result:
    from pipeline.sources import list_sources
    from pipeline.sources.walk import kept_folders

    kept_folders.SETTLED_S = 0.0  # the files were made just now
    return {"rows": len(list_sources("folder", work / "tree", "train").items)}


def labelled_clips(work: Path) -> Result:
    from schemas.recipes import ClipSampling
    from trainer.clips.sources import StoreClips, check_labels, interval_of
    from trainer.clips.split import split_items

    source = StoreClips(work / "data" / "frames")
    check_labels(source)
    train_items, _ = split_items(source.items, 0.1, 0, source.classes)
    train = source.subset(train_items)
    interval_of(train, ClipSampling(kind="dense", frames=16, interval=8))
    buffers: list[pickle.PickleBuffer] = []
    private = len(pickle.dumps(train, protocol=5, buffer_callback=buffers.append))
    shared = sum(buffer.raw().nbytes for buffer in buffers)
    return {"rows": len(train.items), "worker_mb": private / 1e6, "shared_mb": shared / 1e6}


def inspect_sample(work: Path) -> Result:
    from pipeline.look.sample import inspect_dataset

    store = work / "data"
    last = inspect_dataset(store, sample_id=None)["frames"]["num_samples"] - 1
    inspect_dataset(store, sample_id=f"class-{last % 100:03d}/a-video-with-a-usual-name-{last:09d}.mp4")
    return {"rows": last + 1}


def runs_list(work: Path) -> Result:
    from trainer.runs.browse import list_runs

    return {"rows": sum(run["step"] for run in list_runs(work / "runs"))}


TREES, LOGS = {"list files", "list files again"}, {"runs list (steps)"}  # operations that need no store
OPERATIONS: dict[str, Callable[[Path], Result]] = {
    "open a store, all samples": open_store,
    "commits at a resume": resume,
    "read_sources and plan": sources_and_plan,
    "list files": listing,
    "list files again": listing_again,
    "labelled clips": labelled_clips,
    "inspect --sample": inspect_sample,
    "runs list (steps)": runs_list,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[20_000, 80_000], help="sizes")
    parser.add_argument("--per-part", type=int, default=64, help="samples per part")
    parser.add_argument("--frames", type=int, default=16, help="stored frames per sample, all of them one tiny JPEG")
    parser.add_argument("--only", nargs="+", choices=list(OPERATIONS), default=list(OPERATIONS))
    parser.add_argument("--work", type=Path, help="folder for the made data, kept and used again (default: temporary)")
    parser.add_argument("--child", nargs=2, metavar=("OPERATION", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = dict.fromkeys(options.only).keys()
    if options.child:
        print(json_text(measured(OPERATIONS[options.child[0]], Path(options.child[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        found: dict[str, list[Result]] = {name: [] for name in options.only}
        for samples in options.samples:
            work = (options.work or Path(temporary)) / f"{samples}-by-{options.per_part}"
            make_all(work, samples, options)
            for name in options.only:
                found[name].append({"samples": samples, **in_child(name, work)})
                print(f"{name:28}", json_text(found[name][-1]), file=sys.stderr)
    show(found)


def make_all(work: Path, samples: int, options: argparse.Namespace) -> None:
    if not options.only <= TREES | LOGS and not (work / "data" / "frames" / "dataset.json").exists():
        make_store(work / "data" / "frames", samples, options.per_part, options.frames)
    if options.only & TREES and not (work / "tree").exists():
        make_tree(work / "tree", samples)
    if options.only & LOGS and not (work / "runs").exists():
        for run in range(4):
            make_log(work / "runs" / f"run-{run}", samples // 4)


def in_child(name: str, work: Path) -> Result:
    command = [sys.executable, "-m", "benchmarks.scale", "--child", name, str(work)]
    environment = os.environ | {"BEVT_LISTINGS": str(work / "listings")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: Result = parse_json(done.stdout.splitlines()[-1], dict, name)
    return result


def measured(operation: Callable[[Path], Result], work: Path) -> Result:
    """Run the operation twice, first on a store of one part, so that imports and caches of code do not count."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder)
        make_store(small / "data" / "frames", 200, 200, 2)
        make_tree(small / "tree", 10)
        make_log(small / "runs" / "run-0", 10)
        operation(small)
    anonymous, peak = anonymous_mb(), reset_peak()
    began, began_wall = time.process_time(), time.perf_counter()
    result = operation(work)
    cpu_s, wall_s = time.process_time() - began, time.perf_counter() - began_wall
    return {
        **result,
        "cpu_s": round(cpu_s, 3),
        "wall_s": round(wall_s, 3),
        "peak_mb": round(peak_mb() - peak, 1),
        "private_mb": round(anonymous_mb() - anonymous, 1),
    }


def reset_peak() -> float:
    """Reset the peak of the resident memory to the present value, and return that, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    return _status("VmHWM")


def anonymous_mb() -> float:
    return _status("RssAnon")


def _status(key: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) / 1e3


def show(found: dict[str, list[Result]]) -> None:
    print(f"| {'operation':28} | {'samples':>10} | {'CPU s':>8} | {'peak MB':>8} | {'private MB':>10} | exponent |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, results in found.items():
        for result in results:
            exponent = fitted(results) if result is results[-1] else ""
            extra = "".join(f", {key} {result[key]:.1f}" for key in ("worker_mb", "shared_mb") if key in result)
            numbers = f"{result['samples']:10} | {result['cpu_s']:8.2f} | {result['peak_mb']:8.0f} | "
            print(f"| {name + extra:28} | {numbers}{result['private_mb']:10.0f} | {exponent:>8} |")


def fitted(results: list[Result]) -> str:
    """The exponent of CPU seconds over samples."""
    if len(results) < 2:
        return ""
    sizes, times = np.log([r["samples"] for r in results]), np.log([max(r["cpu_s"], 1e-3) for r in results])
    return f"{np.polyfit(sizes, times, 1)[0]:.2f}"


if __name__ == "__main__":
    main()
