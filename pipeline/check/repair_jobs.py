"""The jobs that made a dataset, reconstructed from its plans and manifests. Nothing is written here."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.extensions import Planned, read_extensions
from bevt_core.dataset.source_list import read_plan, read_sources, sources_digest, sources_path
from bevt_core.dataset.token_set import read_token_plan
from bevt_core.media.video.decoders import PREFERRED
from bevt_core.storage.contained import check_sources
from bevt_core.storage.files import map_in_threads
from bevt_core.storage.interface import storage_of
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers import tokenizer_of
from bevt_core.untrusted.parquet_file import read_table
from pipeline.check.token_files import derived_token_plan
from pipeline.check.verify import token_sets_in
from pipeline.job.plan import make_plan, make_token_plan
from pipeline.recipes import PIPELINE_RECIPES
from pipeline.sources import SOURCES
from schemas.errors import UserError
from schemas.frames import Plan, SourceItem, VideoDecoder
from schemas.recipes import TokenizeRecipe
from schemas.recipes.loading import load_recipe_of
from schemas.text.plain import shown
from schemas.tokens import TokenPlan


@dataclass(frozen=True)
class Jobs:
    """The jobs that made a dataset: one for its frames, one for each token set."""

    out: AnyPath
    root: AnyPath
    plan: Plan
    items: Sequence[SourceItem]
    frames_recipe: TokenizeRecipe
    extensions: Sequence[Planned]  # by the plan and the sources of each
    token_sets: dict[AnyPath, tuple[TokenPlan, TokenizeRecipe]]  # by folder
    allow_outside: bool  # sources may lead out of the root

    @property
    def planned(self) -> list[Planned]:
        """The plan of the store and those of its extensions, with their sources."""
        return [Planned(self.plan, self.items), *self.extensions]

    @property
    def num_parts(self) -> int:
        return self.planned[-1].plan.num_parts


def read_jobs(
    out: AnyPath, root: AnyPath, tokenizer: str | None, list_file: str | AnyPath | None, allow_outside: bool
) -> Jobs:
    """Reconstruct the jobs that made the dataset `out`, for the raw files in `root`. Writes nothing.

    Raises UserError if the list of sources cannot be restored, if a tokenizer cannot be found, if a plan names a
    dataset or folder that no job writes, and for sources that lead out of `root` unless `allow_outside`.
    """
    plan = read_plan(out / "frames")
    assert plan is not None
    if plan.dataset not in SOURCES:
        raise UserError(f"{out}/frames/plan.json: dataset {shown(plan.dataset)}, expected one of {', '.join(SOURCES)}")
    recipe = load_recipe_of(TokenizeRecipe, plan.dataset, PIPELINE_RECIPES, []).model_copy(
        update={
            "root": str(root),
            "out": str(out),
            "split": plan.split,
            "pool": plan.pool,
            "seed": plan.seed,
            "sources_per_part": plan.sources_per_part,
            "min_parts": 1,
            "max_parts": plan.num_parts,
            "prefix": plan.prefix,
            "weight": plan.weight,
            "decoder": _decoder_of(out / "frames", plan),
        }
    )
    items = stored_items(out / "frames", plan) or _listed_items(recipe, plan, list_file, allow_outside)
    extensions = read_extensions(out / "frames", plan)
    for number, listed in enumerate([items, *(extension.items for extension in extensions)]):
        if not allow_outside:
            check_sources((item.source for item in listed), sources_path(out / "frames", number))
    token_sets = {}
    for folder in token_sets_in(out):
        token_plan = derived_token_plan(folder, plan) or read_token_plan(folder)
        if token_plan is None:
            raise UserError(
                f"{folder}: its plan.json is lost; remove it and run the same `bevt tokenize` command again"
            )
        if token_plan.name != folder.name:
            raise UserError(
                f"{folder}: its plan names the token set {token_plan.name!r}, which would be written beside it; "
                f"nothing was changed: rename the folder to {token_plan.name}"
            )
        token_sets[folder] = (token_plan, _token_recipe(recipe, plan, folder, token_plan, tokenizer))
    return Jobs(out, root, plan, items, recipe, extensions, token_sets, allow_outside)


def _decoder_of(frames_dir: AnyPath, plan: Plan) -> VideoDecoder:
    """The decoder that the job preferred, from the rows of parts that can be read: it is not part of the plan.

    Rows record the decoder, or, if PyAV had to read the file, a warning that begins with `not` and its name.
    """

    def preferred_in(part: int) -> set[str]:
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            table = read_table(frames_dir / part_name(part) / "index.parquet", columns=["decoder", "warnings"])
            notes = [note for notes in table["warnings"].to_pylist() for note in notes]
            return {*table["decoder"].to_pylist(), *(note.partition(":")[0].removeprefix("not ") for note in notes)}
        return set()

    parts = range(plan.first_part, plan.first_part + plan.num_parts)
    seen = set().union(*map_in_threads(preferred_in, parts, frames_dir))
    return next((decoder for decoder in PREFERRED if decoder in seen), "pyav")


def check_links(out: AnyPath) -> None:
    """Raise UserError if folders of the dataset `out` are links out of it: repair removes and writes files there."""
    for folder in (out / "frames", out / "tokens", *token_sets_in(out)):
        target = storage_of(out).outside(folder)
        if target is not None:
            raise UserError(
                f"{folder}: a link to {target}, out of the dataset; nothing was changed: give `allow_outside` if it "
                "is yours"
            )


def _token_recipe(
    recipe: TokenizeRecipe, plan: Plan, folder: AnyPath, token_plan: TokenPlan, tokenizer: str | None
) -> TokenizeRecipe:
    identity = token_plan.tokenizer
    made_with = recipe.model_copy(
        update={
            "views": token_plan.views,
            "tokenizer": str(tokenizer_of(folder, identity, tokenizer)),
            "tokenizer_dtype": identity.dtype,
            "tokenizer_compiled": identity.compiled,
            "tokenizer_pass_frames": identity.frames_per_pass,
            "token_set": token_plan.name,
        }
    )
    if make_token_plan(made_with, plan, identity.by_kind().device_kind) != token_plan.by_kind():
        raise UserError(f"{made_with.tokenizer} is not the tokenizer of {folder}; give its folder as `tokenizer`")
    return made_with


# ---- the list of sources ---------------------------------------------------------------------------------------------


def stored_items(frames_dir: AnyPath, plan: Plan) -> Sequence[SourceItem] | None:
    """The stored list of sources in the order of their parts, or None if it is damaged."""
    with contextlib.suppress(OSError, ValueError, pa.ArrowException):
        items = read_sources(frames_dir)
        if sources_digest(items) == plan.sources_digest:
            return items
    return None


def _listed_items(
    recipe: TokenizeRecipe, plan: Plan, list_file: str | AnyPath | None, allow_outside: bool
) -> Sequence[SourceItem]:
    """Rebuild the list of sources from the root and the list file. Raises UserError if they have changed."""
    what = f"{recipe.out}/frames/sources.parquet is damaged, and nothing was changed, since it cannot be restored"
    try:
        listed, items = make_plan(recipe, list_file, allow_outside)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
    if listed.sources_digest != plan.sources_digest:
        raise UserError(
            f"{what}: {recipe.root} has {len(items)} sources with classes, which are not the {plan.num_sources} of the "
            "dataset; give its original `root` and `list_file`"
        )
    return items
