"""`bevt extend`: add new sources to a finished dataset, as new parts after the old ones, which stay as they are."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Unpack

from pydantic import ValidationError

from bevt_core.console.terminal import note, warn
from bevt_core.dataset.commits import read_manifest
from bevt_core.dataset.extensions import Planned, check_prefix, read_extended_plans
from bevt_core.dataset.source_list import plan_path, read_plan, sources_of, sources_path, write_plan
from bevt_core.storage.files import read_record, remove, size_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.one_writer import writes
from pipeline.check.repair import check_device, exists
from pipeline.check.repair_jobs import Jobs, check_links, read_jobs
from pipeline.cluster.session import ray_session
from pipeline.growth.new_sources import absent_sources, check_labels, new_sources, plan_after
from pipeline.growth.same_content import Found, described, same_content
from pipeline.job.commits import journal_frame_commits
from pipeline.job.run import RunOptions, tokenize
from pipeline.sources import check_found, list_sources, with_prefix
from pipeline.sources.archives.packed_file import PackedFile, read_packed, write_packed
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest, Plan
from schemas.text.validation import describe
from schemas.tokens import TokenSetManifest

COMMAND = "bevt extend"
SHOWN_PAIRS = 20  # of files with the same content, in the summary


class Listed(NamedTuple):
    """What the root adds to the dataset."""

    num_known: int  # its sources that the dataset has
    new: Planned | None  # the plan of the extension, unless nothing is new
    same: Found  # new files with the content of an earlier one
    packed: Mapping[str, tuple[PackedFile, ...]]  # its files in archives, by source
    missing: int  # new sources that a list names but that do not exist


@writes(lambda out, *_, **__: out, COMMAND)
def extend(
    out: AnyPath,
    root: AnyPath,
    *,
    dataset: str | None = None,
    split: str | None = None,
    list_file: str | AnyPath | None = None,
    allow_outside: bool = False,
    tokenizer: str | None = None,
    prefix: str | None = None,
    weight: float = 1.0,
    roots: Mapping[str, AnyPath] = MappingProxyType({}),
    **run_options: Unpack[RunOptions],
) -> dict[str, Any]:
    """Add the sources below `root` that the finished dataset `out` lacks, and tokenize them for each of its token sets.

    `dataset`, `split` and `list_file` say how `root` is listed, by default as the dataset's own was. A source is known
    by its path relative to the root; known ones are skipped, even if their file has changed, except those that did not
    exist before. Pool, seed and views are
    the dataset's. Files, commits and tokens of the old parts are not touched. `tokenizer` is the tokenizer's name or
    folder, if it has moved; `run_options` are passed to `tokenize`.

    `prefix` and `weight` are for stores that mix data sets, as in `TokenizeRecipe`; a store without a prefix accepts
    none. `roots` are those of the other data sets, by prefix, in which files with the same content are looked for.

    An extension that was killed is finished first. Returns a summary. Raises UserError for a dataset that is not
    finished, if the tokens cannot be made here (another tokenizer or kind of device), and while another process writes
    the dataset.
    """
    frames_dir = out / "frames"
    before = read_manifest(frames_dir, FrameStoreManifest, "frame store").num_parts
    if not allow_outside:
        check_links(out)
    _remove_torn_plan(frames_dir)
    jobs = read_jobs(out, root, tokenizer, None, allow_outside)
    _check_mixing(jobs, prefix, weight)
    if before < jobs.num_parts:
        note(f"{frames_dir}: an earlier extension is not finished; finishing it first")
        _check_same_root(jobs, prefix)
        _make(jobs, run_options)
    facts: dict[str, Any] = {"dataset": dataset or jobs.plan.dataset, "split": split or jobs.plan.split}
    facts |= {"prefix": prefix, "weight": weight}
    listed = _list(jobs, facts, list_file, roots)
    if listed.new is not None:
        write_packed(frames_dir, sources_of(listed.new.items), listed.packed, listed.new.plan.first_part)
        write_plan(frames_dir, *listed.new, extension=len(jobs.planned))
        jobs = read_jobs(out, root, tokenizer, None, allow_outside)
    if listed.same:
        name, earlier = listed.same[0]
        warn(f"new files with the content of another file: {len(listed.same)}, e.g. {name} has that of {earlier}")
    made = _make(jobs, run_options) if listed.new is not None or _behind(jobs) else {}
    manifest = read_manifest(frames_dir, FrameStoreManifest, "frame store")
    return {
        "known": listed.num_known,
        "new": 0 if listed.new is None else listed.new.plan.num_sources,
        "missing": listed.missing,
        "same_content": described(listed.same, SHOWN_PAIRS),
        "parts_before": before,
        "parts": manifest.num_parts,
        "sources": manifest.num_sources,
        "samples": manifest.num_samples,
        "frames": manifest.num_frames,
        "rejected": sum(manifest.rejected.values()),
        "classes": len(manifest.classes),
        "token_sets": [folder.name for folder in jobs.token_sets],
        "seconds": made.get("seconds", 0.0),
        "digest": manifest.digest(),
    }


def _check_mixing(jobs: Jobs, prefix: str | None, weight: float) -> None:
    """Raise UserError for a prefix or a weight that the dataset cannot have. Nothing was written yet."""
    if (prefix is None) != (jobs.plan.prefix is None):
        have = "a prefix" if prefix is None else "no prefix"
        raise UserError(f"{jobs.out}: its sample ids have {have}, so those of new sources must have {have} too")
    if prefix is None and weight != 1:
        raise UserError(
            f"`weight` {weight:g}: {jobs.out} does not mix data sets, so its samples have no weights; drop it"
        )
    try:
        Plan.model_validate({**jobs.plan.model_dump(), "prefix": prefix, "weight": weight})
    except ValidationError as error:
        raise UserError(f"new sources of {jobs.out}: {describe(error, Plan)}") from None


def _list(
    jobs: Jobs, facts: Mapping[str, Any], list_file: str | AnyPath | None, roots: Mapping[str, AnyPath]
) -> Listed:
    """List the root; `facts` are keys of the extension's plan. Raises UserError as `list_sources` does."""
    listing = list_sources(facts["dataset"], jobs.root, facts["split"], list_file, jobs.allow_outside)
    check_found(listing, jobs.root, list_file)
    check_labels(listing, jobs.planned[-1].plan.classes, facts["prefix"], list_file)
    listing = with_prefix(listing, facts["prefix"])
    for warning in listing.warnings:
        warn(warning)
    planned = jobs.planned
    absent = absent_sources(jobs.out / "frames", planned)
    found = new_sources(listing, planned, jobs.plan.seed, absent)
    again = len(absent.intersection(found.items.sources()))
    if again:
        note(f"{again} sources that did not exist before are tried again")
    if not len(found.items):
        return Listed(found.num_known, None, [], {}, 0)
    new = Planned(plan_after(planned[-1].plan, found, **facts), found.items)
    known = [file for each in planned for file in _files(each, roots.get(each.plan.prefix or "", jobs.root))]
    same = same_content(known, sorted(_files(new, jobs.root)))
    before = len(planned[-1].plan.classes)
    if added := found.classes[before:]:
        note(f"{len(added)} new classes, such as {added[0]!r}; they get the labels from {before} on")
    num_missing = len(set(found.items.sources()).intersection(listing.missing))
    return Listed(found.num_known, new, same, listing.packed, num_missing)


def _files(planned: Planned, root: AnyPath) -> list[tuple[str, Path]]:
    """The sources and their files; none on an object store, where a request for each would take hours."""
    if not isinstance(root, Path):
        return []
    return [(source, root / planned.plan.raw_source(source)) for source in sources_of(planned.items)]


def _make(jobs: Jobs, run_options: RunOptions) -> dict[str, Any]:
    """Make the parts that are not committed, of the frames and of every token set. Returns the last job's summary."""
    planned = (jobs.plan, jobs.items)
    options: dict[str, Any] = {"planned": planned, "allow_outside": jobs.allow_outside, **run_options}
    with ray_session(
        run_options.get("ray_address"),
        run_options.get("num_cpus"),
        run_options.get("num_gpus"),
        run_options.get("ray_log", "hidden"),
    ):
        check_device(jobs, _behind(jobs))
        if not jobs.token_sets:
            return tokenize(jobs.frames_recipe, frames_only=True, **options)
        return [tokenize(recipe, **options) for _, recipe in jobs.token_sets.values()][-1]


def _behind(jobs: Jobs) -> list[AnyPath]:
    """The token sets without tokens of all parts."""
    manifests = ((folder, read_record(folder / "dataset.json", TokenSetManifest)) for folder in jobs.token_sets)
    return [folder for folder, found in manifests if found is None or found.num_parts < jobs.num_parts]


def _remove_torn_plan(frames_dir: AnyPath) -> None:
    """Remove the newest plan if its list of sources was not written: nothing was made for it."""
    plan = read_plan(frames_dir)
    assert plan is not None, "written before dataset.json"
    number = len(read_extended_plans(frames_dir, plan))
    if number and size_of(sources_path(frames_dir, number)) < 0:
        remove(plan_path(frames_dir, number))


def _check_same_root(jobs: Jobs, prefix: str | None) -> None:
    """Raise UserError if parts of another prefix's data set are lacking, whose files may have the same names as those
    below the root, or if none of the sources of the newest extension exists below the root."""
    plans = [each.plan for each in jobs.planned]
    done = {part for plan in plans for part in journal_frame_commits(jobs.out / "frames", plan)}
    check_prefix(plans, done, [prefix])
    newest = jobs.planned[-1]
    some = [newest.plan.raw_source(source) for source in sources_of(newest.items)]
    packed = read_packed(jobs.out / "frames", 0, len(some), newest.plan.first_part) or [()] * len(some)
    if not any(exists(jobs, name, files) for name, files in zip(some, packed, strict=True)):
        raise UserError(
            f"`root` {jobs.root}: has none of the {len(some)} sources of an extension that is not finished, such as "
            f"{some[0]!r}; run that extension's command again first"
        )
