"""The clips that a run trains on and holds out, and those of the runs before it: `clips.parquet` in its directory.

The file is written once, before the first step. It includes the rows of the runs that the run started from, so that a
test can find every clip that a model has seen, even after those runs are deleted.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.models.bevt import Bevt
from bevt_core.storage.contained import readable_source
from bevt_core.storage.descriptions import RECORD
from bevt_core.storage.files import write_atomic
from bevt_core.storage.objects import as_path
from bevt_core.untrusted.parquet_file import read_table
from bevt_core.weights.model_files import load_weights
from bevt_core.weights.packaged import name_of
from schemas.errors import UserError
from schemas.frames import SourceItem
from schemas.recipes import DECODE_TIMEOUT_S, FinetuneRecipe, PretrainRecipe
from schemas.runs import CLIPS_SCHEMA, Use
from schemas.text.json_text import json_text, parse_json
from trainer.clips.sources import ClipSource, FileClips, StoreClips
from trainer.distributed.world import World
from trainer.runs.directory import read_run, weights_of

CLIPS = "clips.parquet"
FACTS = b"bevt"  # schema metadata: the other fields of ClipLists, as JSON
DIGEST_THREADS = 16  # digests mostly wait for the disk

Digests = Sequence[str | None]


class ClipLists(NamedTuple):
    """The clips of a run and of the runs before it."""

    table: pa.Table  # rows of CLIPS_SCHEMA
    unlisted: Mapping[Use, Sequence[str]]  # earlier runs that have no list, by how they used their clips
    val_trained_on: int = 0  # number of validation clips on which this run, or one before it, was fine-tuned


def no_lists() -> ClipLists:
    """Return no clips. Not a constant: pyarrow imports pandas for its first table, which takes 0.4 s."""
    return ClipLists(CLIPS_SCHEMA.empty_table(), {"train": (), "pretrain": ()})


def digests_of(data: ClipSource, world: World) -> list[str | None]:
    """Return the digest of every item, None for a missing file. Every rank calls this and computes some of them."""
    by_rank = world.gather(_digests(data, range(world.rank, len(data.items), world.size)))
    return [by_rank[at % world.size][at // world.size] for at in range(len(data.items))]


def _digests(data: ClipSource, positions: range) -> list[str | None]:
    if data.storage == "frames":  # the store's digest
        return [data.digest_of(at) for at in positions]
    with ThreadPoolExecutor(DIGEST_THREADS, thread_name_prefix="digests") as pool:
        return list(pool.map(data.digest_of, positions))


def clip_rows(data: ClipSource, use: Use, digests: Digests) -> pa.Table:
    """Return one row per labelled clip of `data`."""
    items, count = data.items, len(data.items)
    columns: dict[str, Any] = {
        "use": [use] * count,
        "run": [""] * count,
        "place": [data.storage] * count,
        "path": [data.path] * count,
        "source": [os.fsencode(item.source) for item in items],
        "kind": [item.kind for item in items],
        "label": [item.label for item in items],
        "digest": list(digests),
    }
    return pa.table(columns, schema=CLIPS_SCHEMA)


def store_rows(store: FrameStore) -> pa.Table:
    """Return the rows of a frame store used for pretraining, one per source."""
    sources = store.samples["source"].unique()
    constant = {"use": "pretrain", "run": "", "place": "frames", "path": str(store.path), "digest": store.digest}
    columns: dict[str, Any] = {name: [value] * len(sources) for name, value in constant.items()}
    nothing = [None] * len(sources)
    return pa.table(
        {**columns, "source": sources.cast(pa.binary()), "kind": nothing, "label": nothing}, schema=CLIPS_SCHEMA
    )


def make_lists(tables: Sequence[pa.Table], init: str | None) -> ClipLists:
    """Return a run's own rows, followed by those of `init`, which it starts from, and of the runs before `init`."""
    before = lists_before(init)
    return before._replace(table=pa.concat_tables([*tables, before.table]))


def write_lists(run: Path, lists: ClipLists) -> None:
    """Write `clips.parquet`, atomically."""
    facts = {"unlisted": lists.unlisted, "val_trained_on": lists.val_trained_on}
    sink = pa.BufferOutputStream()
    table = lists.table.replace_schema_metadata({FACTS: json_text(facts).encode()})
    pq.write_table(table, sink, compression="zstd")
    write_atomic(run / CLIPS, sink.getvalue().to_pybytes())


def read_lists(run: Path) -> ClipLists | None:
    """Return what `write_lists` wrote, or None if there is no file. Raises UserError for a damaged file."""
    path = run / CLIPS
    if not path.is_file():
        return None
    try:
        table = read_table(path)
        facts = parse_json((table.schema.metadata or {})[FACTS].decode(), dict, path)
        return ClipLists(table.replace_schema_metadata(None).cast(CLIPS_SCHEMA), **facts)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not the list of a run's clips ({error}); restore the file, or remove it to continue without it"
        ) from None


def lists_before(init: str | None) -> ClipLists:
    """Return the clips that the run or the weights `init`, and the runs before them, were trained on."""
    if init is None:
        return no_lists()
    weights = weights_of(init)
    folder = weights.parent
    lists = read_lists(folder)
    if lists is not None:
        table = lists.table.filter(pc.not_equal(lists.table["use"], "val"))
        run = pc.if_else(pc.equal(table["run"], ""), name_of(folder), table["run"])
        at = CLIPS_SCHEMA.get_field_index("run")
        return ClipLists(table.set_column(at, CLIPS_SCHEMA.field("run"), run), lists.unlisted)
    recipe = read_run(folder)[0] if (folder / RECORD).is_file() else None
    before, own = no_lists(), {"train", "pretrain"}
    if isinstance(recipe, PretrainRecipe | FinetuneRecipe):
        before, own = lists_before(recipe.init), {"pretrain" if isinstance(recipe, PretrainRecipe) else "train"}
    elif weights.is_file() and isinstance(load_weights(weights), Bevt):
        own = {"pretrain"}  # a Bevt has no classes: it was never fine-tuned
    return before._replace(unlisted={use: [*names, *([init] * (use in own))] for use, names in before.unlisted.items()})


def held_out_clips(
    run: Path,
    root: Path | None,
    frames: str | None,
    classes: tuple[str, ...],
    decode_timeout_s: float | None,
    allow_outside: bool = False,
) -> ClipSource:
    """Return exactly the clips that the fine-tuning run `run` held out.

    They are read from `root` or `frames`, by default from where the run read them. Raises UserError for a run without
    lists, for clips that are missing or have changed since the run began, and, unless `allow_outside`, for clips whose
    paths lead out of the root.
    """
    lists, others = read_lists(run), "give the clips to test as `root`, `frames` or `list_file`"
    if lists is None:
        raise UserError(
            f"`split` val: {run} has no {CLIPS}, the list of its held-out clips (older versions did not write it); "
            f"{others}"
        )
    rows = lists.table.filter(pc.equal(lists.table["use"], "val")).to_pylist()
    if not rows:
        raise UserError(f"`split` val: {run} held out no clips; {others}")
    in_store = rows[0]["place"] == "frames"
    if (root is not None and in_store) or (frames is not None and not in_store):
        kind, option = ("a frame store", "`frames`") if in_store else ("files", "`root`")
        raise UserError(f"`split` val: {run} held out clips of {kind}, {rows[0]['path']}; give {option}, or neither")
    location = frames or str(root or rows[0]["path"])
    if in_store:
        data: ClipSource = StoreClips.of_sources(as_path(location), {os.fsdecode(row["source"]) for row in rows})
    else:
        items = tuple(
            SourceItem(source=os.fsdecode(row["source"]), kind=row["kind"], label=row["label"]) for row in rows
        )
        for item in items:
            readable_source(Path(location), item.source, allow_outside)
        data = FileClips(Path(location), items, classes, decode_timeout_s or DECODE_TIMEOUT_S)
    now = dict(
        zip((os.fsencode(item.source) for item in data.items), _digests(data, range(len(data.items))), strict=True)
    )
    changed = [os.fsdecode(row["source"]) for row in rows if now.get(row["source"]) != row["digest"]]
    if changed:
        raise UserError(
            f"`split` val: {len(changed)} of the {len(rows)} clips that {run} held out are missing in {location} or "
            f"have changed since the run began, first {changed[0]}; restore them, or {others}"
        )
    return data
