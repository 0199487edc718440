"""What a job is, written before its first part, so that another job into the same place is refused."""

import errno
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bevt_core.console.terminal import warn
from bevt_core.dataset.commits import part_name
from bevt_core.dataset.frame_store import (
    read_frame_commit,
    read_plan,
    read_sources,
    rejected_reasons,
    sources_digest,
    write_plan,
)
from bevt_core.dataset.token_set import read_token_commit, read_token_plan, write_token_plan
from bevt_core.rng import rng_for
from bevt_core.storage.files import clean_staging, each, read_record, remove, write_record
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.one_writer import removing
from bevt_core.tokenizers import find_tokenizer, settle_default
from bevt_core.tokenizers.card import read_card
from pipeline.job.decode_part import root_trouble
from pipeline.job.part_size import as_it_began, sources_per_part
from pipeline.sources import SourceListing, list_sources
from schemas.base import Record
from schemas.errors import StorageError, UserError
from schemas.frames import LEFT_OUT, FramePartCommit, FrameStoreManifest, LeftOut, Plan, SourceItem
from schemas.recipes import TokenizeRecipe
from schemas.tokens import TOKENIZER_PLACE, TokenizerIdentity, TokenizerPlace, TokenPartCommit, TokenPlan

OVERWRITE = "bevt tokenize --overwrite"


def make_plan(
    recipe: TokenizeRecipe, list_file: str | AnyPath | None, allow_outside: bool
) -> tuple[Plan, list[SourceItem]]:
    """The plan of a job, and its sources in the order in which they are cut into parts."""
    listing = list_or_recall(recipe, list_file, allow_outside)
    return plan_of(recipe, listing), listing.items


def list_or_recall(recipe: TokenizeRecipe, list_file: str | AnyPath | None, allow_outside: bool) -> SourceListing:
    """The sources in the order in which they are cut into parts: shuffled, so that classes mix.

    Where the root is gone, those of the finished store, so that tokens can be added.
    """
    frames_dir = as_path(recipe.out) / "frames"
    root = as_path(recipe.root)
    finished = None if root.is_dir() else read_record(frames_dir / "dataset.json", FrameStoreManifest)
    if finished is not None:
        left_out = read_left_out(frames_dir)
        return SourceListing(
            read_sources(frames_dir), finished.classes, ignored=left_out.by_suffix, warnings=list(left_out.warnings)
        )
    listing = list_sources(recipe.dataset, root, recipe.split, list_file, allow_outside)
    order = rng_for(recipe.seed, "plan").permutation(len(listing.items))
    return replace(listing, items=[listing.items[i] for i in order])


def plan_of(recipe: TokenizeRecipe, listing: SourceListing) -> Plan:
    """The plan of a job on the sources of `listing`, in their order."""
    plan = Plan(
        dataset=recipe.dataset,
        split=recipe.split,
        classes=listing.classes,
        pool=recipe.pool,
        seed=recipe.seed,
        sources_per_part=sources_per_part(len(listing.items), recipe.sources_per_part, recipe.min_parts),
        num_sources=len(listing.items),
        sources_digest=sources_digest(listing.items),
    )
    return as_it_began(as_path(recipe.out) / "frames", plan, recipe.sources_per_part)


def note_left_out(frames_dir: AnyPath, listing: SourceListing) -> None:
    """Write down what the listing left out."""
    write_record(frames_dir / LEFT_OUT, LeftOut(by_suffix=listing.ignored, warnings=tuple(listing.warnings)))


def read_left_out(frames_dir: AnyPath) -> LeftOut:
    """What `note_left_out` wrote; nothing where it did not."""
    return read_record(frames_dir / LEFT_OUT, LeftOut) or LeftOut()


def check_root(root: AnyPath, plan: Plan, frames_done: Mapping[int, FramePartCommit]) -> None:
    """Raise UserError where sources still have to be decoded and there is nothing under the root."""
    lacking = plan.num_parts - len(frames_done)
    trouble = root_trouble(root) if lacking else None
    if trouble is not None:
        raise UserError(
            f"--root {root}: {trouble}, and {lacking} of {plan.num_parts} parts have still to be decoded from it; "
            "mount it, or mend the path"
        )


def settle_plan(frames_dir: AnyPath, plan: Plan, items: Sequence[SourceItem], overwrite: bool) -> None:
    """Write the plan, or find the same one there. Another one is a UserError, or removed with `overwrite`."""
    there = read_plan(frames_dir)
    if there is not None and there.digest() != plan.digest():
        if not overwrite:
            raise UserError(_refusal(frames_dir / "plan.json", there, plan, "give another --out"))
        tokens = frames_dir.parent / "tokens"  # made from those frames
        with removing([frames_dir, *(path.parent for path in tokens.glob("*/plan.json"))], OVERWRITE):
            remove(tokens)  # first: as long as the old plan is there, a rerun goes on here
            remove(frames_dir)
    there = write_plan(frames_dir, plan, items)
    if there.digest() != plan.digest():  # another job was faster by a moment
        raise UserError(_refusal(frames_dir / "plan.json", there, plan, "give another --out"))
    clean_staging(frames_dir.parent)
    clean_staging(frames_dir)


def with_settled_tokenizer(recipe: TokenizeRecipe) -> TokenizeRecipe:
    """The recipe with the tokenizer that `default` stands for here; a warning on stderr for the embedded one."""
    settled = settle_default(recipe.tokenizer, warn)
    return recipe.model_copy(update={"tokenizer": settled})


def token_set_name(recipe: TokenizeRecipe) -> str:
    """The name of the recipe's token set below tokens/."""
    card = read_card(find_tokenizer(recipe.tokenizer))
    return recipe.token_set or f"{card.kind}-v{recipe.views.num_views}"


def make_token_plan(recipe: TokenizeRecipe, plan: Plan, device_kind: str = "cpu") -> TokenPlan:
    """The token set of `recipe` as made on that kind of device, from what the tokenizer's folder says."""
    card = read_card(find_tokenizer(recipe.tokenizer))
    identity = TokenizerIdentity(
        name=card.kind,
        weights_sha256=card.encoder_sha256,
        vocab_size=card.sizes.vocab_size,
        grid=card.grid,
        input_px=card.input_px,
        dtype=recipe.tokenizer_dtype,
        device_kind=device_kind,
        compiled=recipe.tokenizer_compiled,
        frames_per_pass=recipe.tokenizer_pass_frames or card.pass_frames(device_kind),
    )
    name = token_set_name(recipe)
    return TokenPlan(name=name, tokenizer=identity, views=recipe.views, frames_plan=plan.digest())


def find_token_plan(tokens_dir: AnyPath, recipe: TokenizeRecipe, plan: Plan, overwrite: bool) -> TokenPlan | None:
    """The plan that is there, or None. Another one than the recipe's, on any device, is a UserError, or removed."""
    there = read_token_plan(tokens_dir)
    if there is None:
        return None
    wanted = make_token_plan(recipe, plan, there.by_kind().tokenizer.device_kind)
    if there.by_kind() == wanted:
        return there
    if not overwrite:
        name = "name this token set (`--set token_set=NAME`), so that it lies beside that one and shares its frames"
        raise UserError(_refusal(tokens_dir / "plan.json", there.by_kind(), wanted, name))
    with removing([tokens_dir], OVERWRITE):
        remove(tokens_dir)
    return None


def settle_token_plan(tokens_dir: AnyPath, plan: TokenPlan) -> TokenPlan:
    """Write the plan, or find the same one there; returns what is there. Another one is a UserError that names both."""
    there = read_token_plan(tokens_dir) or write_token_plan(tokens_dir, plan)
    if there.by_kind() != plan:
        raise UserError(_refusal(tokens_dir / "plan.json", there.by_kind(), plan, "give another --out"))
    clean_staging(tokens_dir)
    return there


def note_tokenizer(tokens_dir: AnyPath, folder: Path) -> None:
    """Write down where the tokenizer was, for those who check the set later; no digest has it."""
    write_record(tokens_dir / TOKENIZER_PLACE, TokenizerPlace(folder=str(folder.absolute())))


def frame_commits(frames_dir: AnyPath, plan: Plan, parts: Iterable[int] | None = None) -> dict[int, FramePartCommit]:
    """Those of `parts` (all) that are done, in their order."""
    digest = plan.digest()
    wanted = range(plan.num_parts) if parts is None else parts
    found = each(lambda part: read_frame_commit(frames_dir, part, digest), wanted, frames_dir)
    return {commit.part: commit for commit in found if commit is not None}


def token_commits(
    tokens_dir: AnyPath, frames: Iterable[FramePartCommit], plan: TokenPlan
) -> dict[int, TokenPartCommit]:
    """The token parts that are done, of these frame parts, in their order."""
    digest = plan.digest()
    found = each(lambda commit: read_token_commit(tokens_dir, commit, digest), frames, tokens_dir)
    return {commit.part: commit for commit in found if commit is not None}


def check_whole(folder: AnyPath, done: Collection[int], num_parts: int) -> None:
    """Raise StorageError where parts are gone that were committed a moment ago."""
    gone = sorted(set(range(num_parts)) - set(done))
    if gone:
        raise lost_commit(folder, gone[0], f" and {len(gone) - 1} more" if len(gone) > 1 else "")


def lost_commit(folder: AnyPath, part: int, more: str = "") -> StorageError:
    """What to say of a part that was committed a moment ago, and is not any more."""
    return StorageError(
        errno.ENOENT,
        f"{folder / part_name(part)}{more}: gone, or changed, since this job made it; does another one remove parts "
        "here? Run the same command again: what is finished is kept",
    )


def count_missing(frames_dir: AnyPath, commit: FramePartCommit) -> int:
    """How many of a part's rejected sources were not there at all."""
    if not commit.num_rejected:
        return 0
    return rejected_reasons(frames_dir, commit.part).count("missing")


def drop_broken_parts(frames_dir: AnyPath, plan: Plan, done: dict[int, FramePartCommit]) -> None:
    """Remove part folders that are there without a valid commit: writers never replace a folder.

    On an object store they do, and another driver may be at it.
    """
    if storage_of(frames_dir).replaces_folders:
        return
    for part in range(plan.num_parts):
        folder = frames_dir / part_name(part)
        if part not in done and folder.is_dir() and read_frame_commit(frames_dir, part, plan.digest()) is None:
            remove(folder)


def _refusal(path: AnyPath, there: Record, here: Record, mend: str) -> str:
    differences = [
        f"{key} {_short(old)} there, {_short(new)} here" for key, (old, new) in _different(there, here).items()
    ]
    return (
        f"{path.parent} holds another job's output: {'; '.join(differences)}. "
        f"{mend[0].upper()}{mend[1:]}, or --overwrite to throw away what is there"
    )


def _different(old: Record, new: Record, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Both values of every field in which two records of one type differ, by dotted name."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in type(old).model_fields:
        before, after = getattr(old, key), getattr(new, key)
        if isinstance(before, Record) and isinstance(after, Record):
            found |= _different(before, after, f"{prefix}{key}.")
        elif before != after:
            found[prefix + key] = (before, after)
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
