"""Extensions of a frame store: new sources become new parts after the old ones, whose files stay as they are.

    <dataset>/frames/{plan-0001.json, sources-0001.parquet}   a plan and a list of sources per extension

A plan names the plan before it, so the digest of the newest one covers all lists of sources.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from bevt_core.dataset.commits import digest_of
from bevt_core.dataset.source_list import plan_path, read_plan, read_sources
from bevt_core.storage.files import read_record
from bevt_core.storage.objects import AnyPath
from schemas.errors import DAMAGED, UserError
from schemas.frames import FrameStoreManifest, Generation, MixedSource, Plan, SourceItem
from schemas.tokens import TokenSetManifest


class Planned(NamedTuple):
    """A plan of a store or of an extension, and its sources in the order of their parts."""

    plan: Plan
    items: Sequence[SourceItem]


def read_extended_plans(frames_dir: AnyPath, plan: Plan) -> list[Plan]:
    """The plans of the extensions of a store with the first plan `plan`, in order. Raises UserError."""
    plans = [plan]
    while (extension := _read_extension(frames_dir, len(plans))) is not None:
        if (extension.extends, extension.first_part) != (plans[-1].digest(), plans[-1].num_parts):
            raise UserError(
                f"{plan_path(frames_dir, len(plans))}: extends another plan than "
                f"{plan_path(frames_dir, len(plans) - 1).name}; {DAMAGED}"
            )
        plans.append(extension)
    return plans[1:]


def _read_extension(frames_dir: AnyPath, number: int) -> Plan | None:
    try:
        return read_plan(frames_dir, number)
    except UserError as error:
        raise UserError(
            f"{error}. The plan of an extension cannot be made again: restore it from a copy of the dataset, or make "
            "the dataset again in another folder"
        ) from None


def read_extensions(frames_dir: AnyPath, plan: Plan) -> list[Planned]:
    """The extensions of the store that has the plan `plan`; none if it has another one, or none."""
    stored = read_plan(frames_dir)
    if stored is None or stored.digest() != plan.digest():
        return []
    plans = read_extended_plans(frames_dir, plan)
    return [Planned(each, read_sources(frames_dir, number)) for number, each in enumerate(plans, 1)]


def finished_extensions(frames_dir: AnyPath, plan: Plan) -> list[Planned]:
    """Those of `read_extensions` whose parts are in the store's manifest: another one may have another root."""
    extensions = read_extensions(frames_dir, plan)
    manifest = read_record(frames_dir / "dataset.json", FrameStoreManifest) if extensions else None
    return [] if manifest is None else extensions[: len(manifest.generations)]


def check_prefix(plans: Sequence[Plan], done: Collection[int], allowed: list[str | None] | None) -> None:
    """Raise UserError if parts that are not `done` have files below several roots, or below another one.

    `allowed` are the prefixes whose files the root has; None for any one.
    """
    lacking = {plan.prefix for plan in plans if any(part not in done for part in plan.parts)}
    if len(lacking) > 1 or (allowed is not None and not lacking <= {*allowed}):
        names = ", ".join(sorted(map(str, lacking)))
        raise UserError(
            f"parts of {names} still have to be decoded, which have roots of their own; run `bevt repair --root ROOT` "
            "for each of them, or the command that added them"
        )


def plan_of_part(plans: Sequence[Plan], part: int) -> Plan:
    """The plan of a part. `plans` are all plans of the store."""
    return next(plan for plan in plans if part in plan.parts)


def generation_of(manifest: FrameStoreManifest | TokenSetManifest) -> Generation:
    return Generation(
        manifest_digest=manifest.digest(),
        num_parts=manifest.num_parts,
        num_samples=manifest.num_samples,
        num_frames=manifest.num_frames,
    )


def mix_of(plans: Sequence[Plan]) -> tuple[MixedSource, ...]:
    """The data sets that a store with these plans mixes; empty if it has only one."""
    return tuple(
        MixedSource(
            prefix=plan.prefix,
            dataset=plan.dataset,
            split=plan.split,
            weight=plan.weight,
            first_part=plan.first_part,
            num_parts=len(plan.parts),
        )
        for plan in plans
        if plan.prefix is not None
    )


def with_generations(manifest: TokenSetManifest, frames: FrameStoreManifest, parts: Sequence[str]) -> TokenSetManifest:
    """`manifest` with a generation per generation of its frame store; `parts` are the digests of its commits.

    Each is what the manifest of the set was, or would have been, before the extension.
    """
    generations: list[Generation] = []
    for frames_before in frames.generations:
        facts = {
            "frames_digest": frames_before.manifest_digest,
            "parts_digest": digest_of(parts[: frames_before.num_parts]),
            "generations": tuple(generations),
            **frames_before.model_dump(include={"num_parts", "num_samples", "num_frames"}),
        }
        generations.append(generation_of(manifest.model_copy(update=facts)))
    return manifest.model_copy(update={"generations": tuple(generations)})
