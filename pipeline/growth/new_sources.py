"""The sources of a root that a dataset does not have yet, with labels by the dataset's class map."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from bevt_core.dataset.commits import part_name, read_manifest
from bevt_core.dataset.extensions import Planned
from bevt_core.dataset.source_list import SourceTable, labels_of, sources_digest, sources_of
from bevt_core.rng import rng_for
from bevt_core.storage.files import map_in_threads
from bevt_core.storage.objects import AnyPath
from bevt_core.untrusted.parquet_file import read_table
from pipeline.sources.class_names import class_index, is_number
from pipeline.sources.listing import SourceListing
from schemas.errors import UserError
from schemas.frames import FrameStoreManifest, Plan


class NewSources(NamedTuple):
    """What a listing adds to a dataset."""

    items: SourceTable
    classes: tuple[str, ...]  # the dataset's, then those that only the listing has
    num_known: int  # items of the listing that the dataset has


def new_sources(
    listing: SourceListing, planned: Sequence[Planned], seed: int, absent: Collection[str] = frozenset()
) -> NewSources:
    """The sources whose names the dataset does not have, in the order in which they are cut into parts.

    Names that it has, but which are `absent` from its samples because they did not exist, are new if they exist now.
    Labels are matched by the name of the class; classes that the dataset lacks get the next labels.
    """
    known = pa.concat_arrays([SourceTable.of(items).rows["source"].cast(pa.large_string()) for _, items in planned])
    listed = SourceTable.of(listing.items)
    is_new = pc.invert(pc.is_in(listed.rows["source"], value_set=known))
    if appeared := set(absent).difference(listing.missing):
        names = pa.array(sorted(appeared), pa.large_string())
        is_new = pc.or_(is_new, pc.is_in(listed.rows["source"], value_set=names))
    items = SourceTable(listed.rows.filter(is_new))
    used = [label for label in items.rows["label"].unique().to_pylist() if label is not None]
    classes = with_classes(planned[-1].plan.classes, (listing.classes[label] for label in sorted(used)))
    to_ours = {label: class_index(listing.classes[label], classes) for label in used}
    labels = pa.array([to_ours.get(label) for label in items.rows["label"].to_pylist()], pa.int32())
    at = items.rows.schema.get_field_index("label")
    items = SourceTable(items.rows.set_column(at, pa.field("label", pa.int32()), labels))
    order = rng_for(seed, "plan", len(planned)).permutation(len(items))
    return NewSources(items.take(order), classes, len(listed) - len(items))


def check_labels(listing: SourceListing, classes: tuple[str, ...], prefix: str | None, list_file: object) -> None:
    """Raise UserError for labels without class names, if the dataset's `classes` (with `prefix` before them) have some.

    Such numbers count the classes of another list, so they cannot be matched.
    """
    ours = [name.removeprefix(f"{prefix}/") for name in classes if prefix is None or name.startswith(f"{prefix}/")]
    labels = labels_of(listing.items).unique().drop_null()
    is_numbered = len(labels) and (not listing.classes or (listing.inferred and all(map(is_number, listing.classes))))
    if list_file is not None and is_numbered and not (listing.classes and all(map(is_number, ours))):
        example = f" such as {ours[0]!r}" if ours else ""
        raise UserError(
            f"`list_file` {list_file}: its labels are numbers without class names, but the dataset has {len(ours)} "
            f"classes{example}; put the class names into a classes.txt beside the list, one per line"
        )


def absent_sources(frames_dir: AnyPath, planned: Sequence[Planned]) -> set[str]:
    """The sources that did not exist each time that a part with them was made."""
    manifest = read_manifest(frames_dir, FrameStoreManifest, "frame store")
    if not manifest.rejected.get("missing"):
        return set()

    def missing_of(part: int) -> list[str]:
        rows = read_table(frames_dir / part_name(part) / "rejected.parquet", columns=["source", "reason"])
        return [row["source"] for row in rows.to_pylist() if row["reason"] == "missing"]

    found = map_in_threads(missing_of, range(manifest.num_parts), frames_dir)
    missing = Counter(itertools.chain.from_iterable(found))
    times = Counter(source for _, items in planned for source in sources_of(items) if source in missing)
    return {source for source, count in missing.items() if count == times[source]}


def with_classes(classes: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    """`classes`, followed by those of `more` that are not among them."""
    for name in more:
        classes = classes if class_index(name, classes) is not None else (*classes, name)
    return classes


def plan_after(plan: Plan, new: NewSources, **facts: Any) -> Plan:
    """The plan of an extension, after `plan`, by the new sources; `facts` are other keys that differ.

    Raises pydantic's ValidationError for facts that a plan cannot have.
    """
    own = {
        "classes": new.classes,
        "num_sources": len(new.items),
        "sources_digest": sources_digest(new.items),
        "first_part": plan.num_parts,
        "extends": plan.digest(),
    }
    return Plan.model_validate({**plan.model_dump(), **own, **facts})
