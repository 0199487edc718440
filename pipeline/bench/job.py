"""`bevt bench tokenize`: the job's CPU time against a bare loop, the tokenizers' busy share, and peak memory."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevt_core.dataset.frame_store import write_frame_manifest
from pipeline.bench.processes import usage_of_family
from pipeline.cluster.watch import sigterm_exits
from pipeline.job.decode_part import load_source
from pipeline.job.part_size import entries_of_part
from pipeline.job.plan import make_plan, make_token_plan, with_resolved_tokenizer
from schemas.errors import UserError
from schemas.recipes import TokenizeRecipe

_JOB = """
from bevt_core.console.command_line import App
app = App("The job")
@app.command()
def job(recipe: str, num_cpus: int):
    from pipeline.job.run import tokenize
    from schemas.text.json_text import json_text
    from schemas.recipes import TokenizeRecipe
    print(json_text(tokenize(TokenizeRecipe.model_validate_json(recipe), num_cpus=num_cpus, progress="off")))
app()
"""
_LOOP = """
from bevt_core.console.command_line import App
app = App("The bare loop")
@app.command()
def loop(recipe: str):
    from pipeline.bench.job import bare_loop
    from schemas.recipes import TokenizeRecipe
    bare_loop(TokenizeRecipe.model_validate_json(recipe))
app()
"""

VIDEOS = (".mp4", ".webm", ".mkv", ".avi")


@dataclass(frozen=True)
class Usage:
    """The resources used by a command and its descendants."""

    cpu_s: float
    peak_rss_bytes: int
    wall_s: float
    output: str


def bench_tokenize(recipe: TokenizeRecipe, work: Path, sizes: tuple[int, int], num_cpus: int) -> dict[str, Any]:
    """Tokenize `sizes[0]`, then `sizes[1]` of the recipe's videos, each with the job and with a bare loop.

    CPU times are differences between the two sizes, so that starting Ray and loading libraries cancel out. Videos are
    repeated if there are too few. All files are written to `work`, which should be empty, and stay there.
    """
    recipe = with_resolved_tokenizer(recipe)
    used: dict[tuple[str, int], Usage] = {}
    for size in sizes:
        for name, code, extra in (("job", _JOB, [str(num_cpus)]), ("loop", _LOOP, [])):
            root = copy_videos(Path(recipe.root), work / f"root-{size}", size)
            update = {"root": str(root), "out": str(work / f"{name}-{size}")}
            text = recipe.model_copy(update=update).model_dump_json()
            used[name, size] = measure([sys.executable, "-c", code, text, *extra])
    small, large = sizes
    spent = {name: used[name, large].cpu_s - used[name, small].cpu_s for name in ("job", "loop")}
    summary = json.loads(used["job", large].output.splitlines()[-1])
    return {
        "cpu_ratio_vs_bare_loop": spent["job"] / spent["loop"],
        "job_cpu_s_per_source": spent["job"] / (large - small),
        "loop_cpu_s_per_source": spent["loop"] / (large - small),
        "actor_busy_share": summary["actor_busy_share"],
        "bottleneck": summary["bottleneck"],
        f"rss_ratio_{large / small:.3g}x": used["job", large].peak_rss_bytes / used["job", small].peak_rss_bytes,
        "peak_rss_bytes": used["job", large].peak_rss_bytes,
        "videos_per_s": summary["videos_per_s"],
        "wall_s": used["job", large].wall_s,
    }


def bare_loop(recipe: TokenizeRecipe) -> None:
    """Do the job's work in one process, without Ray, decoding child, re-reading of commits, or overlap."""
    import torch

    from bevt_core.dataset.frame_store import write_frame_part
    from bevt_core.dataset.source_list import write_plan
    from bevt_core.dataset.token_set import write_token_manifest, write_token_plan
    from bevt_core.tokenizers import load_tokenizer
    from pipeline.job.tokenize_part import PartTokenizer

    torch.set_num_threads(1)
    plan, items = make_plan(recipe, None, allow_outside=False)
    token_plan = make_token_plan(recipe, plan)
    frames_dir, tokens_dir = Path(recipe.out) / "frames", Path(recipe.out) / "tokens" / token_plan.name
    write_plan(frames_dir, plan, items)
    write_token_plan(tokens_dir, token_plan)
    loaded = load_tokenizer(recipe.tokenizer, "cpu", recipe.tokenizer_dtype, recipe.tokenizer_pass_frames)
    tokenizer = PartTokenizer(loaded, recipe.batch_frames, threads=1)
    frames, tokens = [], []
    for part in range(plan.num_parts):
        sources = entries_of_part(items, plan, part)
        root, decoder = Path(recipe.root), recipe.decoder
        decoded = (load_source(root, item, plan.pool, plan.seed, decoder) for item in sources)
        samples = [sample for source in decoded for sample in source]
        frames.append(write_frame_part(frames_dir, part, samples, [], plan))
        tokens.append(tokenizer.make_token_part(frames_dir, tokens_dir, frames[-1], token_plan)[0])
    write_token_manifest(tokens_dir, token_plan, write_frame_manifest(frames_dir, plan, frames), tokens)


def copy_videos(root: Path, target: Path, count: int) -> Path:
    """Fill the folder `target` with `count` copies of videos of `root`, repeating them if there are too few."""
    videos = sorted(path for path in root.rglob("*") if path.suffix in VIDEOS)
    if not videos:
        raise UserError(f"{root}: no videos ({', '.join(VIDEOS)}) to measure with; give a folder of videos as `root`")
    target.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        video = videos[number % len(videos)]
        link = target / f"{number:06d}{video.suffix}"
        if not link.exists():
            shutil.copyfile(video, link)
    return target


def measure(command: Sequence[str]) -> Usage:
    """Run a command; sum the CPU time and memory of its process and all descendants, sampled every 50 ms.

    Raises SystemExit with the command's exit status if it fails; it has printed the reason. Ctrl-C and SIGTERM also end
    the command.
    """
    began = time.perf_counter()
    cpu_s: dict[int, float] = {}
    peak = 0
    with (
        sigterm_exits(),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process,
    ):
        try:
            while process.poll() is None:
                now = usage_of_family(process.pid)
                cpu_s.update({pid: spent for pid, (spent, _) in now.items()})
                peak = max(peak, sum(rss for _, rss in now.values()))
                time.sleep(0.05)
        except BaseException:
            process.terminate()
            raise
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode:
        raise SystemExit(process.returncode)
    return Usage(sum(cpu_s.values()), peak, time.perf_counter() - began, output)
