"""Plan a job and write its plan before the first part, so that another job with the same output is refused."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bevt_core.console.terminal import warn
from bevt_core.dataset.commits import FramePart, TokenPart
from bevt_core.dataset.extensions import Planned, check_prefix, finished_extensions, read_extensions
from bevt_core.dataset.source_list import SourceTable, plan_path, read_plan, read_sources, sources_digest, write_plan
from bevt_core.dataset.token_set import read_token_plan, write_token_plan
from bevt_core.media.video.decoders import check_decoder
from bevt_core.rng import rng_for
from bevt_core.storage.files import clean_staging, read_record, remove, write_record
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.storage.one_writer import removing
from bevt_core.tokenizers import find_tokenizer, resolve_default
from bevt_core.tokenizers.description import read_description
from bevt_core.tokenizers.published.set_names import default_set_name
from pipeline.job.commits import journal_frame_commits, journal_token_commits
from pipeline.job.decode_part import check_root
from pipeline.job.part_size import check_grid, items_of_part, sources_per_part, with_stored_part_size
from pipeline.sources import SourceListing, check_found, list_sources, with_prefix
from pipeline.sources.archives.packed_file import write_packed
from schemas.base import Record, differing_fields
from schemas.errors import UserError
from schemas.frames import LEFT_OUT, FrameStoreManifest, LeftOut, Plan, SourceItem
from schemas.recipes import TokenizeRecipe
from schemas.text.plain import short
from schemas.tokens import TOKENIZER_PLACE, TokenizerIdentity, TokenizerPlace, TokenPlan

OVERWRITE = "bevt tokenize --overwrite"


@dataclass(frozen=True)
class Job:
    """A planned job, and its parts that were committed before it started."""

    recipe: TokenizeRecipe
    allow_outside: bool  # sources may lead out of the root
    frames_dir: AnyPath
    tokens_dir: AnyPath | None  # None: frames only
    plan: Plan
    items: Sequence[SourceItem]
    extensions: Sequence[Planned]  # of the store, by the plan and the sources of each
    token_plan: TokenPlan | None  # None: frames only, or a new set (the kind of device is not known yet)
    frames_done: Mapping[int, FramePart]
    tokens_done: Mapping[int, TokenPart]

    @property
    def plans(self) -> list[Plan]:
        """The plan of the store, and those of its extensions."""
        return [self.plan, *(extension.plan for extension in self.extensions)]

    @property
    def num_parts(self) -> int:
        return self.plans[-1].num_parts

    @property
    def todo(self) -> list[int]:
        """The parts that are not committed yet."""
        done: Collection[int] = self.frames_done if self.tokens_dir is None else self.tokens_done
        return [part for part in range(self.num_parts) if part not in done]

    def items_of(self, part: int) -> Sequence[SourceItem]:
        """The sources of a part."""
        return items_of_part((Planned(self.plan, self.items), *self.extensions), part)


def plan_job(
    recipe: TokenizeRecipe,
    list_file: str | AnyPath | None,
    allow_outside: bool,
    planned: tuple[Plan, Sequence[SourceItem]] | None,
    overwrite: bool,
    frames_only: bool,
) -> Job:
    """Plan the job, check that it can run, and write its plan; arguments as in `tokenize`.

    Raises UserError for bad input, and for another job's output in the same folder unless `overwrite`.
    """
    check_decoder(recipe.decoder)
    frames_dir = as_path(recipe.out).absolute() / "frames"
    root = as_path(recipe.root)
    listing = None
    if planned is None:
        listing = list_or_read_sources(recipe, list_file, allow_outside, overwrite)
        planned = plan_of(recipe, listing), listing.items
        for warning in listing.warnings:
            warn(warning)
    plan, items = planned
    if not frames_only:
        recipe = with_resolved_tokenizer(recipe)
    tokens_dir = None if frames_only else frames_dir.parent / "tokens" / token_set_name(recipe)
    extensions = (read_extensions if listing is None else finished_extensions)(frames_dir, plan)
    plans = [plan, *(extension.plan for extension in extensions)]
    frames_done = {part: commit for each in plans for part, commit in journal_frame_commits(frames_dir, each).items()}
    check_root(root.absolute(), plans[-1], frames_done)
    check_prefix(plans, frames_done, [recipe.prefix] if listing is not None else None)
    if listing is not None and len(frames_done) < plan.num_parts:
        check_found(listing, root, list_file)
    if tokens_dir is not None and read_token_plan(tokens_dir) is None:
        check_grid(recipe)
    write_or_check_plan(frames_dir, plan, items, overwrite)
    if listing is not None:
        record_left_out(frames_dir, listing)
        if root.is_dir() and not plan_path(frames_dir, 1).is_file():  # then the sources were listed
            write_packed(frames_dir, (item.source for item in listing.items), listing.packed)
    tokens_done: dict[int, TokenPart] = {}
    token_plan = None if tokens_dir is None else find_token_plan(tokens_dir, recipe, plan, overwrite)
    if tokens_dir is not None and token_plan is not None:
        tokens_done = journal_token_commits(tokens_dir, frames_done.values(), token_plan)
    return Job(
        recipe, allow_outside, frames_dir, tokens_dir, plan, items, extensions, token_plan, frames_done, tokens_done
    )


def make_plan(
    recipe: TokenizeRecipe, list_file: str | AnyPath | None, allow_outside: bool
) -> tuple[Plan, Sequence[SourceItem]]:
    """The plan of a job, and its sources in the order in which they are cut into parts."""
    listing = list_or_read_sources(recipe, list_file, allow_outside)
    return plan_of(recipe, listing), listing.items


def list_or_read_sources(
    recipe: TokenizeRecipe, list_file: str | AnyPath | None, allow_outside: bool, overwrite: bool = False
) -> SourceListing:
    """The sources in the order in which they are cut into parts: shuffled, so that classes mix.

    If the root no longer exists, they are read from the finished frame store, so that tokens can still be added. So are
    those of a store that was extended, whose root has more files, unless `overwrite`.
    """
    frames_dir = as_path(recipe.out) / "frames"
    root = as_path(recipe.root)
    is_extended = not overwrite and plan_path(frames_dir, 1).is_file()
    stored = read_plan(frames_dir) if is_extended or not root.is_dir() else None
    if stored is not None and (is_extended or read_record(frames_dir / "dataset.json", FrameStoreManifest)):
        left_out = read_left_out(frames_dir)
        return SourceListing(
            read_sources(frames_dir), stored.classes, ignored=left_out.by_suffix, warnings=list(left_out.warnings)
        )
    listing = with_prefix(list_sources(recipe.dataset, root, recipe.split, list_file, allow_outside), recipe.prefix)
    order = rng_for(recipe.seed, "plan").permutation(len(listing.items))
    return replace(listing, items=SourceTable.of(listing.items).take(order))


def plan_of(recipe: TokenizeRecipe, listing: SourceListing) -> Plan:
    """The plan of a job for the sources of `listing`, in their order."""
    plan = Plan(
        dataset=recipe.dataset,
        split=recipe.split,
        classes=listing.classes,
        pool=recipe.pool,
        seed=recipe.seed,
        sources_per_part=sources_per_part(
            len(listing.items), recipe.sources_per_part, recipe.min_parts, recipe.max_parts
        ),
        num_sources=len(listing.items),
        sources_digest=sources_digest(listing.items),
        prefix=recipe.prefix,
        weight=recipe.weight,
    )
    return with_stored_part_size(as_path(recipe.out) / "frames", plan, recipe.sources_per_part)


def record_left_out(frames_dir: AnyPath, listing: SourceListing) -> None:
    """Write left-out.json: the files that the listing left out."""
    write_record(frames_dir / LEFT_OUT, LeftOut(by_suffix=listing.ignored, warnings=tuple(listing.warnings)))


def read_left_out(frames_dir: AnyPath) -> LeftOut:
    """Read the record of `record_left_out`, or return an empty one."""
    return read_record(frames_dir / LEFT_OUT, LeftOut) or LeftOut()


def write_or_check_plan(frames_dir: AnyPath, plan: Plan, items: Sequence[SourceItem], overwrite: bool) -> None:
    """Write the plan, unless it exists.

    A different plan raises UserError; with `overwrite` it is removed, together with its frames and token sets.
    """
    stored = read_plan(frames_dir)
    if stored is not None and stored.digest() != plan.digest():
        if not overwrite:
            is_grown = differing_fields(stored, plan).keys() <= {
                "num_sources",
                "sources_digest",
                "sources_per_part",
                "classes",
            }
            fix = (
                "give another `out`"
                if not is_grown
                else "to add files to it, use `bevt extend`; else give another `out`"
            )
            raise UserError(_refusal(frames_dir / "plan.json", stored, plan, fix))
        remove_output(frames_dir)
    stored = write_plan(frames_dir, plan, items)
    if stored.digest() != plan.digest():  # another job wrote its plan in the meantime
        raise UserError(_refusal(frames_dir / "plan.json", stored, plan, "give another `out`"))
    clean_staging(frames_dir.parent)
    clean_staging(frames_dir)


def remove_output(frames_dir: AnyPath) -> None:
    """Remove a frame store and the token sets made from it. Raises UserError while another process reads them."""
    tokens = frames_dir.parent / "tokens"
    with removing([frames_dir, *(path.parent for path in tokens.glob("*/plan.json"))], OVERWRITE):
        remove(tokens)  # tokens first: while the old plan exists, a rerun after an interrupt removes both
        remove(frames_dir)


def with_resolved_tokenizer(recipe: TokenizeRecipe) -> TokenizeRecipe:
    """The recipe with the tokenizer `default` replaced by the one found; warns if that is the bundled one."""
    resolved = resolve_default(recipe.tokenizer, warn)
    return recipe.model_copy(update={"tokenizer": resolved})


def token_set_name(recipe: TokenizeRecipe) -> str:
    """The name of the recipe's token set below tokens/."""
    description = read_description(find_tokenizer(recipe.tokenizer))
    return recipe.token_set or default_set_name(description, recipe.views.num_views, as_path(recipe.out) / "tokens")


def make_token_plan(recipe: TokenizeRecipe, plan: Plan, device_kind: str = "cpu") -> TokenPlan:
    """The plan of the recipe's token set on that kind of device, with the description in the tokenizer's folder."""
    description = read_description(find_tokenizer(recipe.tokenizer))
    identity = TokenizerIdentity(
        name=description.kind,
        weights_sha256=description.encoder_sha256,
        vocab_size=description.sizes.vocab_size,
        grid=description.grid,
        input_px=description.input_px,
        dtype=recipe.tokenizer_dtype,
        device_kind=device_kind,
        compiled=recipe.tokenizer_compiled,
        frames_per_pass=recipe.tokenizer_pass_frames or description.pass_frames(device_kind),
    )
    name = token_set_name(recipe)
    return TokenPlan(name=name, tokenizer=identity, views=recipe.views, frames_plan=plan.digest())


def find_token_plan(tokens_dir: AnyPath, recipe: TokenizeRecipe, plan: Plan, overwrite: bool) -> TokenPlan | None:
    """The stored plan of the token set, or None if it has none.

    A plan that differs from the recipe's in more than the device raises UserError; with `overwrite`, the set is removed
    and None returned.
    """
    stored = read_token_plan(tokens_dir)
    if stored is None:
        return None
    wanted = make_token_plan(recipe, plan, stored.by_kind().tokenizer.device_kind)
    if stored.by_kind() == wanted:
        return stored
    if not overwrite:
        fix = "give `token_set=NAME` to keep both token sets, on the same frames"
        raise UserError(_refusal(tokens_dir / "plan.json", stored.by_kind(), wanted, fix))
    with removing([tokens_dir], OVERWRITE):
        remove(tokens_dir)
    return None


def write_or_check_token_plan(tokens_dir: AnyPath, plan: TokenPlan) -> TokenPlan:
    """Write the plan, unless it exists, and return the stored one. Raises UserError, naming both, for another plan."""
    stored = read_token_plan(tokens_dir) or write_token_plan(tokens_dir, plan)
    if stored.by_kind() != plan:
        raise UserError(_refusal(tokens_dir / "plan.json", stored.by_kind(), plan, "give another `out`"))
    clean_staging(tokens_dir)
    return stored


def record_tokenizer_folder(tokens_dir: AnyPath, folder: Path) -> None:
    """Write the tokenizer's folder beside the token set, for later checks; it is excluded from every digest."""
    write_record(tokens_dir / TOKENIZER_PLACE, TokenizerPlace(folder=str(folder.absolute())))


def _refusal(path: AnyPath, stored: Record, planned: Record, fix: str) -> str:
    differences = [
        f"{key} {_short(old)} there, {_short(new)} here"
        for key, (old, new) in differing_fields(stored, planned).items()
    ]
    return (
        f"{path.parent} contains another job's output: {'; '.join(differences)}. "
        f"{fix[0].upper()}{fix[1:]}, or give `overwrite` to delete that output"
    )


def _short(value: Any) -> str:
    text = repr(short(value))
    return text if len(text) <= 40 else f"{text[:37]}..."
