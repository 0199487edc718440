"""`bevt repair`: remove the damaged parts of a dataset and make only those again."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

from bevt_core.console.terminal import warn
from bevt_core.dataset.commits import part_name
from bevt_core.dataset.source_list import sources_of, write_plan
from bevt_core.dataset.token_set import write_token_plan
from bevt_core.storage.contained import readable_source
from bevt_core.storage.descriptions import dataset_around
from bevt_core.storage.files import map_in_threads, read_record, remove, write_record
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.one_writer import removing, writes
from bevt_core.untrusted.parquet_file import read_table
from pipeline.check.problems import REPAIRABLE, Problem, below, parts_in, to_remove
from pipeline.check.records import readable
from pipeline.check.repair_jobs import Jobs, check_links, read_jobs, stored_items
from pipeline.check.verify import check_files, check_tokens
from pipeline.cluster.session import cluster_amount, ray_session
from pipeline.job.part_size import raw_sources
from pipeline.job.plan import record_tokenizer_folder
from pipeline.job.run import RunOptions, tokenize
from pipeline.sources import no_folder
from pipeline.sources.archives.packed_file import PackedFile, read_packed
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
    **run_options: Unpack[RunOptions],
) -> dict[str, Any]:
    """Remove what `verify` finds damaged in the dataset `out`, then rerun its jobs to make the missing parts.

    The jobs are read from the dataset's plans and list of sources, so a repaired dataset has the same bytes as before.
    `root` is the folder of the raw files. `list_file` is the list from which the dataset was made, needed only if the
    dataset's own copy is damaged. With `allow_outside`, sources may lead out of `root`, and `frames`, `tokens` and
    token sets may be links out of `out`. `tokenizer` is the tokenizer's name or folder, if it has moved. `deep` and
    `sample` are those of `verify`; `run_options` are passed to `tokenize`.

    Returns `removed` (the damaged paths), `token_sets` and counts. Raises UserError if `out` is not a dataset. Also
    raises it, before removing anything, if the parts could not be made again (another root, tokenizer or kind of
    device), or while another process reads or writes the dataset. Changed files in `root` are noticed only after
    decoding: the damaged parts are then left out, and the intact parts are unchanged.
    """
    if not (out / "frames" / "plan.json").is_file():
        raise UserError(f"{out}: no frames/plan.json in it; give {dataset_around(out)}")
    if not allow_outside:
        check_links(out)
    _, problems = check_files(out, allow_outside)
    for problem in problems:
        if problem.fix not in REPAIRABLE:
            raise UserError(f"{problem.path}: {problem.problem}; nothing was changed: {problem.fix}")
    jobs = read_jobs(out, root, tokenizer, list_file, allow_outside)
    removed = _rebuild(jobs, problems, run_options)
    _, _, problems = check_tokens(list(jobs.token_sets), deep=deep, sample=sample, tokenizer=tokenizer)
    if problems:
        removed += _rebuild(jobs, problems, run_options)
    manifest = read_record(out / "frames" / "dataset.json", FrameStoreManifest)
    assert manifest is not None
    if not removed and not root.is_dir():
        warn(f"root {root}: no such folder; nothing is damaged, so it was not needed")
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


# ---- removing and rebuilding -----------------------------------------------------------------------------------------


def _rebuild(jobs: Jobs, problems: Sequence[Problem], run_options: RunOptions) -> list[AnyPath]:
    """Remove damaged files and run the jobs. Returns the removed paths."""
    frames_dir = jobs.out / "frames"
    parts = parts_in(frames_dir, jobs.num_parts, problems)
    broken_sets = [folder for folder in jobs.token_sets if parts_in(folder, jobs.num_parts, problems)]
    _check_root(jobs, parts)
    with contextlib.ExitStack() as stack:
        if problems:  # no other process may read a part while it is made again
            stack.enter_context(removing([frames_dir, *jobs.token_sets], COMMAND))
        if parts or broken_sets:
            session = ray_session(
                run_options.get("ray_address"),
                run_options.get("num_cpus"),
                run_options.get("num_gpus"),
                run_options.get("ray_log", "hidden"),
            )
            stack.enter_context(session)
        if broken_sets:
            check_device(jobs, broken_sets)
        before = readable(frames_dir / "dataset.json", FrameStoreManifest)
        removed = to_remove(problems)
        for path in removed:
            remove(path)
        _restore(jobs)
        # Frames first: token sets without damage then have nothing to do, even if another kind of device made them.
        planned = (jobs.plan, jobs.items)
        tokenize(jobs.frames_recipe, planned=planned, allow_outside=jobs.allow_outside, frames_only=True, **run_options)
        if before is not None and parts:
            _check_same_frames(jobs, parts, before)
        for _, recipe in jobs.token_sets.values():
            tokenize(recipe, planned=planned, allow_outside=jobs.allow_outside, **run_options)
    return removed


def _check_same_frames(jobs: Jobs, parts: Iterable[int], before: FrameStoreManifest) -> None:
    """Raise UserError, and remove `parts` again, if the raw files did not reproduce the previous frames."""
    frames_dir = jobs.out / "frames"
    after = readable(frames_dir / "dataset.json", FrameStoreManifest)
    if after is not None and after.parts_digest == before.parts_digest:
        return
    for part in parts:
        remove(frames_dir / part_name(part))
    write_record(frames_dir / "dataset.json", before)
    raise UserError(
        f"`root` {jobs.root}: its files, or this machine's decoder, do not reproduce the dataset's frames, so parts "
        f"{', '.join(map(str, parts))} are left out. Give the original folder, or, to accept the new frames, remove "
        f"{frames_dir / 'dataset.json'} and repair again"
    )


def _restore(jobs: Jobs) -> None:
    """Rewrite the damaged plans, list of sources and tokenizer paths, which define the jobs."""
    frames_dir = jobs.out / "frames"
    if stored_items(frames_dir, jobs.plan) is None:
        remove(frames_dir / "sources.parquet")
        write_plan(frames_dir, jobs.plan, jobs.items)
    for folder, (token_plan, recipe) in jobs.token_sets.items():
        if readable(folder / "plan.json", TokenPlan) != token_plan:
            remove(folder / "plan.json")
            write_token_plan(folder, token_plan)
        if readable(folder / TOKENIZER_PLACE, TokenizerPlace) is None:
            record_tokenizer_folder(folder, Path(recipe.tokenizer))


def _check_root(jobs: Jobs, parts: Iterable[int]) -> None:
    """Raise UserError if sources of `parts` are missing below the root, but existed when the dataset was made."""
    raw = {source: path for part in parts for source, path in raw_sources(jobs.planned, part).items()}
    wanted = list(raw)
    if wanted and not jobs.root.is_dir():
        why = no_folder(jobs.root)
        raise UserError(f"`root` {jobs.root}: {why}; nothing was changed: give the folder of the raw files")
    packed: dict[str, tuple[PackedFile, ...]] = {}
    for plan, items in jobs.planned:
        files = read_packed(jobs.out / "frames", 0, len(items), plan.first_part)
        packed |= dict(zip(sources_of(items), files, strict=False))
    present = map_in_threads(lambda source: exists(jobs, raw[source], packed.get(source, ())), wanted, jobs.root)
    absent = [source for source, exists in zip(wanted, present, strict=True) if not exists]
    if not absent:
        return
    known = _recorded_missing(jobs)
    unknown = [source for source in absent if source not in known]
    manifest = readable(jobs.out / "frames" / "dataset.json", FrameStoreManifest)
    # Some of the unknown sources may have been missing before, if the table that recorded them is damaged. The manifest
    # bounds their number; an unfinished dataset has no such bound.
    most = len(wanted) - 1 if manifest is None else manifest.rejected.get("missing", 0) - len(known)
    if len(unknown) > most:
        raise UserError(
            f"`root` {jobs.root}: {len(unknown)} of the {len(wanted)} sources to be read again are not in it, such as "
            f"{unknown[0]!r}; nothing was changed: give the folder from which the dataset was made"
        )


def exists(jobs: Jobs, source: str, files: Sequence[PackedFile]) -> bool:
    """Whether the source, or an archive with it, exists. Raises UserError for one out of the root, unless allowed."""
    paths = {source, *(file.archive for file in files)}
    return any(storage_of(readable_source(jobs.root, path, jobs.allow_outside)).exists() for path in paths)


def _recorded_missing(jobs: Jobs) -> set[str]:
    """The sources recorded as missing when the dataset was made, from the parts whose table can be read."""
    frames_dir = jobs.out / "frames"

    def missing_of(part: int) -> list[str]:
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            table = read_table(frames_dir / part_name(part) / "rejected.parquet", columns=["source", "reason"])
            return [row["source"] for row in table.to_pylist() if row["reason"] == "missing"]
        return []

    return {source for found in map_in_threads(missing_of, range(jobs.num_parts), frames_dir) for source in found}


def check_device(jobs: Jobs, folders: Iterable[AnyPath]) -> None:
    """Raise UserError for token sets made on another kind of device, whose rounding changes some ids."""
    here = "cuda" if cluster_amount("GPU") else "cpu"
    for folder in folders:
        identity = jobs.token_sets[folder][0].tokenizer
        if identity.by_kind().device_kind != here:
            raise UserError(
                f"{folder}: made on {identity.device_kind!r}, this machine has {here!r}; nothing was changed: "
                "repair it on the same kind of device, or remove it and tokenize again"
            )
