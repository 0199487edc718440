"""Datasets, trees and logs of any size for `scale.py`, written without decoding or Ray."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bevt_core.dataset.commits import COMMIT, FRAMES_ZARR, digest_file, part_name
from bevt_core.dataset.frame_store import rejected_table, write_frame_manifest
from bevt_core.dataset.jpeg_array import write_jpegs
from bevt_core.dataset.source_list import sources_digest, write_plan
from bevt_core.views.replay import encode_jpeg
from schemas.frames import INDEX_SCHEMA, FileDigest, FramePartCommit, Plan, PoolSpec, SourceItem
from schemas.recipes.loading import load_recipe
from schemas.text.json_text import json_text
from trainer.metrics.log import METRICS_FILE
from trainer.recipes import TRAINER_RECIPES
from trainer.runs.directory import open_run

CLASSES = tuple(f"class-{label:03d}" for label in range(100))
LINKS = 20_000  # hard links to one file; ext4 allows 65,000
SIDE_PX = 16


def source_of(number: int) -> str:
    return f"class-{number % 100:03d}/a-video-with-a-usual-name-{number:09d}.mp4"


def make_store(frames_dir: Path, samples: int, per_part: int, frames: int) -> None:
    """Write a finished frame store. Parts of equal size share their pictures by hard links."""
    items = [SourceItem(source=source_of(n), kind="video", label=n % 100) for n in range(samples)]
    plan = Plan(
        dataset="folder",
        split="train",
        classes=CLASSES,
        pool=PoolSpec(max_frames=max(frames, 2), short_side_px=SIDE_PX),
        seed=0,
        sources_per_part=per_part,
        num_sources=samples,
        sources_digest=sources_digest(items),
    )
    write_plan(frames_dir, plan, items)
    templates: dict[int, tuple[Path, dict[str, FileDigest], int]] = {}
    commits = []
    for part in range(plan.num_parts):
        first = part * per_part
        count = min(per_part, samples - first)
        folder, files, used = templates.get(count, (None, {}, LINKS))
        if used >= LINKS:
            folder = frames_dir.parent / f"template-{count}-{part}"
            files, used = make_template(folder, count * frames), 0
        assert folder is not None
        templates[count] = folder, files, used + 1
        commits.append(make_part(frames_dir, part, range(first, first + count), frames, folder, files, plan))
    for folder, _, _ in templates.values():
        shutil.rmtree(folder)
    write_frame_manifest(frames_dir, plan, commits)


def make_template(folder: Path, num_frames: int) -> dict[str, FileDigest]:
    """Write the files that do not depend on the samples' names, and return their digests."""
    folder.mkdir(parents=True)
    picture = encode_jpeg(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8), 90)
    write_jpegs(folder / FRAMES_ZARR, [picture] * num_frames)
    pq.write_table(rejected_table([]), folder / "rejected.parquet", compression="zstd")
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name: digest_file(folder / name) for name in names}


def make_part(
    frames_dir: Path, part: int, numbers: range, frames: int, template: Path, files: dict[str, FileDigest], plan: Plan
) -> FramePartCommit:
    folder = frames_dir / part_name(part)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(template / name, folder / name)
    sink = pa.BufferOutputStream()
    pq.write_table(index_of(numbers, frames), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    (folder / "index.parquet").write_bytes(data)
    digest = FileDigest(sha256=hashlib.sha256(data).hexdigest(), num_bytes=len(data))
    commit = FramePartCommit(
        part=part,
        num_sources=len(numbers),
        num_samples=len(numbers),
        num_frames=len(numbers) * frames,
        num_rejected=0,
        plan_digest=plan.digest(),
        files=dict(sorted({**files, "index.parquet": digest}.items())),
    )
    (folder / COMMIT).write_text(commit.model_dump_json(indent=1) + "\n")
    return commit


def index_of(numbers: range, frames: int) -> pa.Table:
    count = len(numbers)
    names = pa.array([source_of(n) for n in numbers])
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * frames)
    indices = np.tile(np.arange(frames, dtype=np.int32) * 8, count)
    columns = [
        names,
        names,
        pa.array(np.array(numbers) % 100, pa.int32()),
        pa.array(np.full(count, frames), pa.int32()),
        pa.array(np.arange(count) * frames, pa.int64()),
        pa.ListArray.from_arrays(offsets, pa.array(indices)),
        pa.ListArray.from_arrays(offsets, pa.array(indices / 25.0)),
        pa.array(np.full(count, SIDE_PX), pa.int32()),
        pa.array(np.full(count, SIDE_PX), pa.int32()),
        pa.array(["none"] * count),
        pa.array(["0"] * count),
        pa.array([[]] * count, pa.list_(pa.string())),
    ]
    return pa.Table.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, INDEX_SCHEMA, strict=True)], schema=INDEX_SCHEMA
    )


def make_tree(root: Path, files: int) -> None:
    """Write empty files in a folder per class."""
    for label in CLASSES:
        (root / label).mkdir(parents=True)
    for number in range(files):
        os.mknod(root / source_of(number))


def make_log(run: Path, steps: int) -> None:
    """Write a run directory with a log of `steps` steps, about 300 bytes each."""
    recipe = load_recipe("nano_video", TRAINER_RECIPES, [])
    open_run(run, recipe, {}, resume=False, command="bevt train video", world_size=1, total_steps=steps)
    values = {f"video.metric_{number}": 0.123456789012 * number for number in range(9)}
    with (run / METRICS_FILE).open("w") as file:
        for step in range(steps):
            file.write(json_text({"step": step, "loss": 5.0, "step_s": 0.5, **values}) + "\n")
