"""The plan of a job. It is written before the first part, so that another job into the same place is refused."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bevt_core.console.terminal import warn
from bevt_core.dataset.frame_store import read_plan, read_sources, sources_digest, write_plan
from bevt_core.dataset.token_set import read_token_plan, write_token_plan
from bevt_core.rng import rng_for
from bevt_core.storage.files import clean_staging, read_record, remove, write_record
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.one_writer import removing
from bevt_core.tokenizers import find_tokenizer, settle_default
from bevt_core.tokenizers.card import read_card
from pipeline.job.commits import frame_commits, token_commits
from pipeline.job.decode_part import root_trouble
from pipeline.job.part_size import as_it_began, check_grid, sources_per_part
from pipeline.sources import SourceListing, check_found, list_sources
from schemas.base import Record
from schemas.errors import UserError
from schemas.frames import LEFT_OUT, FramePartCommit, FrameStoreManifest, LeftOut, Plan, SourceItem
from schemas.recipes import TokenizeRecipe
from schemas.tokens import TOKENIZER_PLACE, TokenizerIdentity, TokenizerPlace, TokenPartCommit, TokenPlan

OVERWRITE = "bevt tokenize --overwrite"


@dataclass(frozen=True)
class Job:
    """A job, and which of its parts were committed when it began."""

    recipe: TokenizeRecipe
    allow_outside: bool  # sources may lead out of the root
    frames_dir: AnyPath
    tokens_dir: AnyPath | None  # None: frames only
    plan: Plan
    items: Sequence[SourceItem]
    token_plan: TokenPlan | None  # None: frames only, or a new set: its plan names the kind of device
    frames_done: Mapping[int, FramePartCommit]
    tokens_done: Mapping[int, TokenPartCommit]

    @property
    def todo(self) -> list[int]:
        """The parts to make."""
        done: Collection[int] = self.frames_done if self.tokens_dir is None else self.tokens_done
        return [part for part in range(self.plan.num_parts) if part not in done]


def settle_job(
    recipe: TokenizeRecipe,
    list_file: str | AnyPath | None,
    allow_outside: bool,
    planned: tuple[Plan, list[SourceItem]] | None,
    overwrite: bool,
    frames_only: bool,
) -> Job:
    """Plan the job, check that it can run, and write its plan; `tokenize` says what the arguments are.

    Raises UserError for bad input, and for another job's output in the same place unless `overwrite`.
    """
    frames_dir = as_path(recipe.out).absolute() / "frames"
    root = as_path(recipe.root)
    listing = None
    if planned is None:
        listing = list_or_recall(recipe, list_file, allow_outside)
        planned = plan_of(recipe, listing), listing.items
        for warning in listing.warnings:
            warn(warning)
    plan, items = planned
    if not frames_only:
        recipe = with_settled_tokenizer(recipe)
    tokens_dir = None if frames_only else frames_dir.parent / "tokens" / token_set_name(recipe)
    frames_done = frame_commits(frames_dir, plan)
    check_root(root.absolute(), plan, frames_done)
    if listing is not None and len(frames_done) < plan.num_parts:
        check_found(listing, root, list_file)
    if tokens_dir is not None and read_token_plan(tokens_dir) is None:
        check_grid(recipe)
    settle_plan(frames_dir, plan, items, overwrite)
    if listing is not None:
        note_left_out(frames_dir, listing)
    tokens_done: dict[int, TokenPartCommit] = {}
    token_plan = None if tokens_dir is None else find_token_plan(tokens_dir, recipe, plan, overwrite)
    if tokens_dir is not None and token_plan is not None:
        tokens_done = token_commits(tokens_dir, frames_done.values(), token_plan)
    return Job(recipe, allow_outside, frames_dir, tokens_dir, plan, items, token_plan, frames_done, tokens_done)


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
    """Record what the listing left out."""
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
    """Record where the tokenizer was, for later checks of the set; it is excluded from every digest."""
    write_record(tokens_dir / TOKENIZER_PLACE, TokenizerPlace(folder=str(folder.absolute())))


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
