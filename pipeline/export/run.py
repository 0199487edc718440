"""`bevt export-data`: write a dataset in another project's format, part by part; a killed export goes on.

<out>/export-plan.json     written first: which data are exported
<out>/part-00000.tar       webdataset: a shard per part
<out>/samples.lance/       lance: one dataset
<out>/commits/part-*.json  a part is exported, and was read back, if it has a commit
<out>/export.json          written last
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bevt_core.console.progress import ProgressLine
from bevt_core.dataset.commits import digest_of, part_name
from bevt_core.storage.files import create_record, read_record, size_of, write_record
from bevt_core.storage.local import content_of
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.one_writer import hold, reading
from pipeline.export import lance_rows, tar_shards
from pipeline.export.samples import Dataset, Sample, open_dataset
from schemas.errors import UserError
from schemas.exports import ExportCommit, ExportedTokens, ExportFormat, ExportManifest, ExportPlan
from schemas.frames import FileDigest

COMMAND = "bevt export-data"
PLAN, MANIFEST, COMMITS = "export-plan.json", "export.json", "commits"

Written = tuple[dict[str, FileDigest], tuple[str, ...]]  # files, and metadata of Lance fragments


def export_data(
    dataset_dir: AnyPath, out: Path, to: ExportFormat, token_sets: list[str] | None = None
) -> dict[str, Any]:
    """Write the frames of a finished dataset, with the token sets named (default: all), to the folder `out`.

    Each part is read back before it counts as exported, and a part that was exported before is kept. Raises UserError
    for an unfinished dataset, and if `out` has other files or an export of other data.
    """
    dataset = open_dataset(dataset_dir, token_sets)
    write = WRITERS[to](dataset)
    stores = [dataset.frames.path, *(tokens.path for tokens in dataset.token_sets.values())]
    with hold(out, COMMAND), reading(stores, COMMAND):
        plan = write_or_check_plan(out, plan_of(dataset, to))
        commits, new = [], 0
        with ProgressLine("export-data", dataset.frames.manifest.num_parts, unit="parts") as line:
            for part in range(dataset.frames.manifest.num_parts):
                commit = read_commit(out, part, plan)
                if commit is None:
                    commit = export_part(dataset, out, part, plan, write)
                    new += 1
                commits.append(commit)
                line.add(1)
        manifest = manifest_of(dataset, plan, commits)
        if read_record(out / MANIFEST, ExportManifest) != manifest:
            if to == "lance":
                lance_rows.publish(out, commits, lance_rows.schema_of(dataset))
            write_record(out / MANIFEST, manifest)
    return {
        "out": str(out),
        "to": to,
        "token_sets": list(dataset.token_sets),
        "parts": len(commits),
        "parts_done_before": len(commits) - new,
        "samples": manifest.num_samples,
        "frames": manifest.num_frames,
        "bytes": manifest.num_bytes,
    }


def _tar_writer(dataset: Dataset) -> "Writer":
    return lambda out, part, samples: (tar_shards.write_shard(out, part, samples), ())


def _lance_writer(dataset: Dataset) -> "Writer":
    lance_rows.require_lance()
    schema = lance_rows.schema_of(dataset)
    return lambda out, part, samples: lance_rows.write_part(out, samples, schema)


Writer = Callable[[Path, int, Iterable[Sample]], Written]
WRITERS: dict[ExportFormat, Callable[[Dataset], Writer]] = {"webdataset": _tar_writer, "lance": _lance_writer}


def plan_of(dataset: Dataset, to: ExportFormat) -> ExportPlan:
    sets = {
        name: ExportedTokens(set_digest=tokens.digest, tokenizer=tokens.manifest.tokenizer, views=tokens.manifest.views)
        for name, tokens in dataset.token_sets.items()
    }
    return ExportPlan(to=to, frames_digest=dataset.frames.digest, token_sets=sets)


def write_or_check_plan(out: Path, plan: ExportPlan) -> ExportPlan:
    """Write the plan, unless it exists. Raises UserError for the plan of another export, or for other files."""
    if not (out / PLAN).is_file() and (found := content_of(out)):
        raise UserError(f"{out}: contains {found[0]} and no export; give another `out`")
    stored = create_record(out / PLAN, plan)
    if stored != plan:
        raise UserError(
            f"{out}: an export to {stored.to} of frames {stored.frames_digest[:12]} with {_sets(stored)}, not to "
            f"{plan.to} of frames {plan.frames_digest[:12]} with {_sets(plan)}; give another `out`"
        )
    return stored


def _sets(plan: ExportPlan) -> str:
    sets = (f"{name} ({tokens.set_digest[:12]})" for name, tokens in plan.token_sets.items())
    return ", ".join(sets) or "no token sets"


def read_commit(out: Path, part: int, plan: ExportPlan) -> ExportCommit | None:
    """Return the commit of a part if it was made for this plan and its files have their sizes, else None."""
    commit = read_record(_commit_path(out, part), ExportCommit)
    if commit is None or commit.plan_digest != plan.digest():
        return None
    whole = all(size_of(out / name) == digest.num_bytes for name, digest in commit.files.items())
    return commit if whole else None


def export_part(dataset: Dataset, out: Path, part: int, plan: ExportPlan, write: Writer) -> ExportCommit:
    """Export a part, then write its commit; a part without samples has no files."""
    index = dataset.frames.read_index(part)
    files, fragments = write(out, part, dataset.samples(part, index)) if len(index) else ({}, ())
    commit = ExportCommit(
        part=part,
        num_samples=len(index),
        num_frames=sum(index["num_frames"].to_pylist()),
        plan_digest=plan.digest(),
        files=files,
        fragments=fragments,
    )
    write_record(_commit_path(out, part), commit)
    return commit


def manifest_of(dataset: Dataset, plan: ExportPlan, commits: list[ExportCommit]) -> ExportManifest:
    return ExportManifest(
        plan=plan,
        classes=dataset.frames.manifest.classes,
        num_parts=len(commits),
        num_samples=sum(commit.num_samples for commit in commits),
        num_frames=sum(commit.num_frames for commit in commits),
        num_bytes=sum(digest.num_bytes for commit in commits for digest in commit.files.values()),
        parts_digest=digest_of([commit.digest() for commit in commits]),
    )


def _commit_path(out: Path, part: int) -> Path:
    return out / COMMITS / f"{part_name(part)}.json"
