"""The end of a job: write the manifests, which complete the dataset, and build the summary of `bevt tokenize`."""

from typing import Any

from bevt_core.dataset.frame_store import write_frame_manifest
from bevt_core.dataset.token_set import write_token_manifest
from bevt_core.storage.files import clean_staging
from pipeline.job.commits import check_complete, journal_frame_commits, journal_token_commits
from pipeline.job.plan import Job, read_left_out
from pipeline.job.progress import Meter
from schemas.frames import FrameStoreManifest


def write_manifests(job: Job) -> FrameStoreManifest:
    """Write the manifests from the commits of all parts; commits that are already in `job` are not read again.

    Returns the frame store's manifest. Raises StorageError if a commit has disappeared.
    """
    clean_staging(job.frames_dir)
    parts = range(job.num_parts)
    new_parts = [part for part in parts if part not in job.frames_done]
    frames = dict(job.frames_done)
    for plan in job.plans:
        frames |= journal_frame_commits(job.frames_dir, plan, new_parts)
    check_complete(job.frames_dir, frames, job.num_parts)
    manifest = write_frame_manifest(job.frames_dir, job.plan, [frames[part] for part in parts], job.plans[1:])
    if job.tokens_dir is not None and job.token_plan is not None:
        clean_staging(job.tokens_dir)  # also stale locks: without parts to make, no writer has removed them
        new = [commit for part, commit in frames.items() if part not in job.tokens_done]
        tokens = {**job.tokens_done, **journal_token_commits(job.tokens_dir, new, job.token_plan)}
        check_complete(job.tokens_dir, tokens, job.num_parts)
        write_token_manifest(job.tokens_dir, job.token_plan, manifest, [tokens[part] for part in parts])
    return manifest


def summarize(job: Job, manifest: FrameStoreManifest, meter: Meter) -> dict[str, Any]:
    """The summary of `bevt tokenize`: what the dataset contains, what this run made, and how fast."""
    busy = meter.busy_share()
    left_out = read_left_out(job.frames_dir)
    return {
        "sources": manifest.num_sources,
        "indexed": manifest.num_sources - sum(manifest.rejected.values()),
        "samples": manifest.num_samples,
        "rejected": sum(manifest.rejected.values()),
        "rejected_by_reason": manifest.rejected,
        "missing": manifest.rejected.get("missing", 0),
        "ignored": left_out.by_suffix,
        "warnings": list(left_out.warnings),
        "parts": job.num_parts,
        "parts_done_before": job.num_parts - len(job.todo),
        "frame_parts_done_before": len(job.frames_done),
        "frames": manifest.num_frames,
        "seconds": round(meter.seconds, 3),
        "videos_per_s": round(meter.sources / meter.seconds, 3) if job.todo else 0.0,
        "first_tokens_s": None if meter.first_tokens_s is None else round(meter.first_tokens_s, 3),
        "tokenizers": meter.workers,
        "actor_busy_share": None if busy is None else busy.busy,
        "bottleneck": meter.bottleneck(),
        "frames_dir": str(job.frames_dir),
        "tokens_dir": None if job.tokens_dir is None else str(job.tokens_dir),
    }


def shown_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """Return `summary` for the terminal: the times keyed by what they include, and no speed if nothing was made."""
    names = {"seconds": "total_s"}
    facts = {names.get(key, key): value for key, value in summary.items() if key != "report_error"}
    return facts | {"videos_per_s": summary["videos_per_s"] or None}
