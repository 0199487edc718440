"""`bevt bench store`: bytes on disk of a stored frame and of its tokens."""

from typing import Any

import numpy as np

from bevt_core.dataset.extensions import read_extended_plans
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.source_list import read_plan
from bevt_core.dataset.token_set import TokenSet, read_token_plan, token_set_folders
from bevt_core.storage.descriptions import dataset_around, what_is
from bevt_core.storage.objects import AnyPath
from pipeline.job.commits import frame_commits, token_commits
from schemas.errors import UserError


def bench_store(dataset_dir: AnyPath) -> dict[str, Any]:
    """Bytes per frame, from the commits of a finished dataset: whole files, with footers and checksums.

    `frame_bytes` is the size of a JPEG frame in `frames.zarr`, `token_bytes_per_frame` the size of its tokens under one
    view: the largest figure, if there are several token sets. Raises UserError for a dataset that is not finished or
    has no frames.
    """
    if not (dataset_dir / "frames").is_dir():
        raise UserError(f"{dataset_dir}: no frames/ in it ({what_is(dataset_dir)}); give {dataset_around(dataset_dir)}")
    store = FrameStore(dataset_dir / "frames")
    frames = store.manifest.num_frames
    if not frames:
        raise UserError(f"{dataset_dir}: it has no frames; all sources were rejected, or none were found")
    plan = read_plan(store.path)
    assert plan is not None, "written before dataset.json"
    plans = [plan, *read_extended_plans(store.path, plan)]
    parts = range(store.manifest.num_parts)  # without those of an extension that is not finished
    commits = {part: commit for each in plans for part, commit in frame_commits(store.path, each, parts).items()}
    stored = sum(part.stored_bytes for part in commits.values())
    sets: dict[str, dict[str, Any]] = {}
    for folder in token_set_folders(dataset_dir, having="dataset.json"):
        manifest, token_plan = TokenSet(folder).manifest, read_token_plan(folder)
        assert token_plan is not None, "written before dataset.json"
        num_bytes = sum(commit.num_bytes for commit in token_commits(folder, commits.values(), token_plan).values())
        grid, views = manifest.tokenizer.grid, manifest.views.num_views
        sets[manifest.name] = {
            "token_bytes_per_frame": num_bytes / (frames * views),
            "bits_per_token": 8 * num_bytes / (frames * views * int(np.prod(grid))),
            "grid": list(grid),
            "vocab_size": manifest.tokenizer.vocab_size,
            "views": views,
            "bytes": num_bytes,
        }
    return {
        "frames": frames,
        "samples": store.manifest.num_samples,
        "frame_bytes": stored / frames,
        "frame_store_bytes": stored,
        "token_bytes_per_frame": max((sizes["token_bytes_per_frame"] for sizes in sets.values()), default=None),
        "token_sets": sets,
    }
