"""The overlap of test clips with the clips that a model was trained on, by digests, along its chain of runs."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bevt_core.console.terminal import note, warn
from bevt_core.storage.contained import readable_source
from bevt_core.storage.objects import as_path
from bevt_core.weights.packaged import name_of
from schemas.errors import UserError
from schemas.frames import SourceItem
from schemas.runs import Use
from trainer.clips.lists import CLIPS, ClipLists, Digests, read_lists
from trainer.clips.same_pictures import show_same_video
from trainer.clips.sources import ClipSource, FileClips, StoreClips

TRAINING, PRETRAINING = "overlap_with_training", "overlap_with_pretraining"  # keys of a result
SHOWN = 5  # names in a result

Overlap = dict[str, Any]


def overlaps(run: Path, data: ClipSource, digests: Digests) -> dict[str, Overlap]:
    """Return the overlaps of `data` with the clips of fine-tuning, and of pretraining without labels.

    `run` contains the tested model. An overlap has `count` (None if `run` has no list) and `share` of the items, and,
    unless empty: `by_run`, the count for each run that used such clips, oldest first; `first`, some names; `unchecked`,
    the number of items with the name of a used clip that is gone, so that they cannot be compared; `unlisted`, the runs
    whose clips are not known.
    """
    lists = read_lists(run)
    if lists is None:
        unknown = {"count": None, "share": None, "unlisted": [name_of(run)]}
        return {TRAINING: unknown, PRETRAINING: unknown}
    return {
        TRAINING: overlap_with(lists, "train", data, digests, run),
        PRETRAINING: overlap_with(lists, "pretrain", data, digests, run),
    }


def overlap_with(lists: ClipLists, use: Use, data: ClipSource, digests: Digests, run: Path) -> Overlap:
    """Return the overlap of `data` with the clips in `lists` that have this `use`; `run` owns these lists."""
    rows = lists.table.filter(pc.equal(lists.table["use"], use))
    found, unchecked = _found(rows, data, digests)
    names = [data.items[at].source for at in sorted(found)]
    counts = Counter(name for runs in found.values() for name in runs)
    chain = rows["run"].unique().to_pylist()[::-1]  # a run's own clips come first, those of its first stage last
    details: Overlap = {
        "by_run": {name or str(run): counts[name] for name in chain if counts[name]},
        "first": names[:SHOWN],
        "unchecked": unchecked,
        "unlisted": list(lists.unlisted[use]),
    }
    share = len(found) / max(1, len(data.items))
    return {"count": len(found), "share": share} | {key: value for key, value in details.items() if value}


def _found(rows: pa.Table, data: ClipSource, digests: Digests) -> tuple[dict[int, set[str]], int]:
    """The items of `data` that are among `rows`, with the runs of the rows, and how many items could not be compared.

    Files are compared by content, samples of one frame store by name. If digests cannot be compared, as between files
    and a store made from them, clips of the same name count if a few of them show the same pictures.
    """
    names = [os.fsencode(item.source) for item in data.items]
    same_name = pc.is_in(rows["source"], value_set=pa.array(sorted(set(names)), pa.binary()))
    contents = pa.array(sorted({digest for digest in digests if digest}), pa.string())
    same_content = pc.and_(pc.equal(rows["place"], "files"), pc.is_in(rows["digest"], value_set=contents))
    near = rows.filter(pc.or_(same_name, same_content)).to_pylist()
    by_key: dict[tuple[str, bytes], set[str]] = {}
    for row in near:
        if row["digest"]:
            by_key.setdefault(_key(row["place"], row["digest"], row["source"]), set()).add(row["run"])
    found: dict[int, set[str]] = {}
    for at, (digest, name) in enumerate(zip(digests, names, strict=True)):
        if digest and (runs := by_key.get(_key(data.storage, digest, name))):
            found[at] = set(runs)
    unchecked: set[int] = set()
    for (storage, path), group in _by_location(near).items():
        if storage == data.storage == "files":
            continue  # already compared by digest
        users: dict[bytes, set[str]] = {}
        for row in group:
            users.setdefault(row["source"], set()).add(row["run"])
        unmatched: dict[bytes, list[int]] = {}
        for at, name in enumerate(names):
            if users.get(name, set()) - found.get(at, set()):
                unmatched.setdefault(name, []).append(at)
        candidates = {row["source"]: row for row in group if row["source"] in unmatched}
        same = _same(candidates, storage, path, unmatched, data) if candidates else False
        if same is None:
            unchecked |= {at for name in candidates for at in unmatched[name]}
        elif same:
            for name in candidates:
                for at in unmatched[name]:
                    found.setdefault(at, set()).update(users[name])
    return found, len(unchecked - found.keys())


def _key(storage: str, digest: str, source: bytes) -> tuple[str, bytes]:
    """The key by which equal clips match: files by content, samples by store and name."""
    return digest, b"" if storage == "files" else source


def _by_location(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["place"], row["path"]), []).append(row)
    return groups


def _same(
    rows: dict[bytes, dict[str, Any]], storage: str, path: str, unmatched: dict[bytes, list[int]], data: ClipSource
) -> bool | None:
    """Whether clips of the same names in `rows` and `data` show the same videos; None if those of `rows` are gone.

    `unmatched` are the positions in `data` by name.
    """
    names = {os.fsdecode(name): row["kind"] or "video" for name, row in rows.items()}
    try:
        if storage == "frames":
            other: ClipSource = StoreClips.of_sources(as_path(path), names)
        else:
            for name in names:
                readable_source(Path(path), name, allow_outside=False)
            other = FileClips(Path(path), tuple(SourceItem(source=name, kind=kind) for name, kind in names.items()), ())
        pairs = [(unmatched[os.fsencode(item.source)][0], at) for at, item in enumerate(other.items)]
        return show_same_video(pairs, data, other)
    except (UserError, OSError):
        return None


def warn_of_overlap(result: Mapping[str, Overlap]) -> None:
    """Print warnings and notes about the overlaps of tested clips to stderr."""
    training, pretraining = result[TRAINING], result[PRETRAINING]
    if training["count"]:
        warn(
            f"{overlap_text(training, 'tested')} were trained on: this accuracy is not a test result, and reports and "
            "model cards omit it; test on held-out clips with --split val, or on other clips with --list"
        )
    if training.get("unchecked"):
        warn(
            f"{training['unchecked']} of the tested clips have the names of training clips that no longer exist, so "
            "it is unknown whether they are the same"
        )
    if training.get("unlisted"):
        note(f"unknown whether tested clips were trained on: {', '.join(training['unlisted'])} has no {CLIPS}")
    if pretraining["count"]:
        note(f"{overlap_text(pretraining, 'tested')} were used in pretraining, without labels")


def overlap_text(overlap: Overlap, kind: str) -> str:
    """Return the start of a message about clips of a `kind`: `3 of 10 tested clips (by RUN; a.mp4, ...)`."""
    total, runs = round(overlap["count"] / overlap["share"]), ", ".join(overlap["by_run"])
    some = "such as " if overlap["count"] > len(overlap["first"]) else ""
    return f"{overlap['count']} of {total} {kind} clips (by {runs}; {some}{', '.join(overlap['first'])})"
