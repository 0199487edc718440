"""`bevt repair`: make again just what `bevt verify` finds broken."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_store import write_plan
from bevt_core.dataset.token_set import write_token_plan
from bevt_core.foreign.parquet_file import read_table
from bevt_core.storage.contained import readable_source
from bevt_core.storage.files import each, read_record, remove, write_record
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.one_writer import removing, writes
from pipeline.check.problems import REPAIRABLE, Problem, below, parts_in, to_remove
from pipeline.check.records import readable
from pipeline.check.repair_jobs import Jobs, check_links, read_jobs, stored_items
from pipeline.check.verify import check_files, check_tokens
from pipeline.cluster.session import cluster_has, ray_session
from pipeline.job.part_size import of_part
from pipeline.job.plan import note_tokenizer
from pipeline.job.run import RunOptions, tokenize
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest
from schemas.tokens import TOKENIZER_PLACE, TokenizerPlace, TokenPlan

COMMAND = "bevt repair"


@writes(lambda out, *_, **__: out, COMMAND)
def repair(
    out: AnyPath,
    root: AnyPath,
    *,
    list_file: str | AnyPath | None = None,
    allow_outside: bool = False,
    tokenizer: str | None = None,
    deep: bool = False,
    sample: int = 32,
    **job: Unpack[RunOptions],
) -> dict[str, Any]:
    """Remove what `verify` finds broken in the dataset `out`, and run its jobs, which make what is missing.

    The jobs are read from the dataset's plans and its list of sources, so the repaired dataset has the bytes of the
    old one. `root` is where the raw files are; `list_file` is the list that the dataset was made with, needed where its
    own is damaged. With `allow_outside` sources may lead out of `root`, and `frames`, `tokens` and token sets may be
    links out of `out`. `tokenizer` says where the tokenizer is now, if it has moved; `deep` and `sample` are those of
    `verify`; `job` goes to `tokenize`.

    Returns `removed`, the paths that were broken, `token_sets`, and the counts. Raises UserError for no dataset, and
    before anything is removed where it could not be made again: for another root, tokenizer or kind of device, and
    while others write or read the dataset. Where the files in `root` have changed, that is seen only when they have
    been read: the broken parts are then left out, and the whole parts are unchanged.
    """
    if not (out / "frames" / "plan.json").is_file():
        raise UserError(f"{out}: no frames/plan.json in it; give the folder that holds frames/ and tokens/")
    if not allow_outside:
        check_links(out)
    _, problems = check_files(out, allow_outside)
    for problem in problems:
        if problem.mend not in REPAIRABLE:
            raise UserError(f"{problem.path}: {problem.problem}; nothing was changed: {problem.mend}")
    jobs = read_jobs(out, root, tokenizer, list_file, allow_outside)
    removed = _make_again(jobs, problems, job)
    _, _, problems = check_tokens(list(jobs.token_sets), deep=deep, sample=sample, tokenizer=tokenizer)
    if problems:
        removed += _make_again(jobs, problems, job)
    manifest = read_record(out / "frames" / "dataset.json", FrameStoreManifest)
    assert manifest is not None
    rejected = sum(manifest.rejected.values())
    return {
        "removed": [below(path, out) for path in removed],
        "token_sets": [folder.name for folder in jobs.token_sets],
        "sources": manifest.num_sources,
        "indexed": manifest.num_sources - rejected,
        "rejected": rejected,
        "parts": manifest.num_parts,
        "frames": manifest.num_frames,
    }


# ---- removing and making again ---------------------------------------------------------------------------------------


def _make_again(jobs: Jobs, problems: Sequence[Problem], job: RunOptions) -> list[AnyPath]:
    """Remove what is broken and run the jobs. Returns what was removed."""
    frames_dir = jobs.out / "frames"
    parts = parts_in(frames_dir, jobs.plan.num_parts, problems)
    broken_sets = [folder for folder in jobs.token_sets if parts_in(folder, jobs.plan.num_parts, problems)]
    _check_root(jobs, parts)
    with contextlib.ExitStack() as stack:
        if problems:  # nobody reads a part while it is made again
            stack.enter_context(removing([frames_dir, *jobs.token_sets], COMMAND))
        if parts or broken_sets:
            on_ray = job.get("ray_address"), job.get("num_cpus"), job.get("num_gpus"), job.get("ray_log", "hidden")
            stack.enter_context(ray_session(*on_ray))
        if broken_sets:
            _check_device(jobs, broken_sets)
        before = readable(frames_dir / "dataset.json", FrameStoreManifest)
        removed = to_remove(problems)
        for path in removed:
            remove(path)
        _restore(jobs)
        # The frames first: a set whose own parts are whole then has nothing to do, wherever it was made.
        planned = (jobs.plan, jobs.items)
        tokenize(jobs.frames, planned=planned, allow_outside=jobs.allow_outside, frames_only=True, **job)
        if before is not None and parts:
            _check_same_frames(jobs, parts, before)
        for _, recipe in jobs.token_sets.values():
            tokenize(recipe, planned=planned, allow_outside=jobs.allow_outside, **job)
    return removed


def _check_same_frames(jobs: Jobs, parts: Iterable[int], before: FrameStoreManifest) -> None:
    """Raise UserError, and take `parts` away again, where the raw files do not give the frames that were there."""
    frames_dir = jobs.out / "frames"
    after = readable(frames_dir / "dataset.json", FrameStoreManifest)
    if after is not None and after.parts_digest == before.parts_digest:
        return
    for part in parts:
        remove(frames_dir / part_name(part))
    write_record(frames_dir / "dataset.json", before)
    raise UserError(
        f"--root {jobs.root}: its files, or the decoder here, do not give the frames that the dataset had, so parts "
        f"{', '.join(map(str, parts))} are left out; give the folder that it was made from, or, to take what is there "
        f"now, remove {frames_dir / 'dataset.json'} and repair again"
    )


def _restore(jobs: Jobs) -> None:
    """Write again what says what the jobs are, where it is damaged."""
    frames_dir = jobs.out / "frames"
    if stored_items(frames_dir, jobs.plan) is None:
        remove(frames_dir / "sources.parquet")
        write_plan(frames_dir, jobs.plan, jobs.items)
    for folder, (token_plan, recipe) in jobs.token_sets.items():
        if readable(folder / "plan.json", TokenPlan) != token_plan:
            remove(folder / "plan.json")
            write_token_plan(folder, token_plan)
        if readable(folder / TOKENIZER_PLACE, TokenizerPlace) is None:
            note_tokenizer(folder, Path(recipe.tokenizer))


def _check_root(jobs: Jobs, parts: Iterable[int]) -> None:
    """Raise UserError where sources of `parts` are not below the root, but were when the dataset was made."""
    wanted = [item.source for part in parts for item in of_part(jobs.items, jobs.plan, part)]
    if wanted and not jobs.root.is_dir():
        raise UserError(f"--root {jobs.root}: no such folder; nothing was changed: give the folder of the raw files")
    there = each(lambda source: _is_there(jobs, source), wanted, jobs.root)
    absent = [source for source, is_there in zip(wanted, there, strict=True) if not is_there]
    if not absent:
        return
    known = _missing_then(jobs)
    unknown = [source for source in absent if source not in known]
    manifest = readable(jobs.out / "frames" / "dataset.json", FrameStoreManifest)
    # Some may be of a part whose own table is damaged. Of a dataset that was never finished nobody knows how many.
    most = len(wanted) - 1 if manifest is None else manifest.rejected.get("missing", 0) - len(known)
    if len(unknown) > most:
        raise UserError(
            f"--root {jobs.root}: {len(unknown)} of the {len(wanted)} sources to be read again are not in it, such as "
            f"{unknown[0]!r}; nothing was changed: give the folder that the dataset was made from"
        )


def _is_there(jobs: Jobs, source: str) -> bool:
    """Raises UserError for a source that leads out of the root, unless that is allowed."""
    path = readable_source(jobs.root, source, jobs.allow_outside)
    return storage_of(path).exists()


def _missing_then(jobs: Jobs) -> set[str]:
    """The sources that were not there when the dataset was made, of the parts that can say so."""
    frames_dir = jobs.out / "frames"

    def missing_of(part: int) -> list[str]:
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            table = read_table(frames_dir / part_name(part) / "rejected.parquet", columns=["source", "reason"])
            return [row["source"] for row in table.to_pylist() if row["reason"] == "missing"]
        return []

    return {source for found in each(missing_of, range(jobs.plan.num_parts), frames_dir) for source in found}


def _check_device(jobs: Jobs, folders: Iterable[AnyPath]) -> None:
    """Raise UserError for token sets that another kind of device has made: ids at near-ties would differ."""
    here = "cuda" if cluster_has("GPU") else "cpu"
    for folder in folders:
        made_by = jobs.token_sets[folder][0].tokenizer
        if made_by.by_kind().device_kind != here:
            raise UserError(
                f"{folder}: made on {made_by.device_kind!r}, here is {here!r}; nothing was changed: repair it on the "
                "same kind of device, or remove it and tokenize again"
            )
