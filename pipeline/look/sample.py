"""`bevt inspect`: describe a dataset or one sample, with a picture of frame | view | decoded tokens."""

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from bevt_core.console.terminal import note
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet, token_set_folders
from bevt_core.reporting.pictures import fitted, save_png
from bevt_core.storage.descriptions import dataset_around, what_is
from bevt_core.storage.objects import AnyPath
from bevt_core.views.replay import apply_view
from schemas.errors import UserError
from schemas.recipes.loading import nearest

COLUMNS = 4  # frames of the sample in a picture, spread evenly
CELL_PX = 112
NEIGHBOURS = 100  # sorted sample ids before and after an unknown one that are searched for a similar one
REJECTED = "frames/part-*/rejected.parquet"


def inspect_dataset(
    dataset_dir: AnyPath, *, sample_id: str | None = None, picture: Path | None = None, tokenizer: str | None = None
) -> dict[str, Any]:
    """Describe a dataset; with `sample_id` also that sample, or the first one if only `picture` is given.

    The picture has a row for each view of each token set: the stored frames, their views, and the decoded tokens if the
    tokenizer is found. Raises UserError for an unknown sample.
    """
    if not (dataset_dir / "frames").is_dir():
        raise UserError(f"{dataset_dir}: no frames/ in it ({what_is(dataset_dir)}); give {dataset_around(dataset_dir)}")
    store = FrameStore(dataset_dir / "frames")
    sets = [TokenSet(folder) for folder in token_set_folders(dataset_dir, "dataset.json")]
    report: dict[str, Any] = {
        "frames": store.manifest.model_dump(mode="json", exclude={"classes"}),
        "classes": len(store.manifest.classes),
        "token_sets": {token_set.path.name: token_set.manifest.model_dump(mode="json") for token_set in sets},
    }
    if sample_id is None and picture is None:
        return report
    ids = store.samples["sample_id"]
    if not len(ids):
        raise UserError(f"{dataset_dir}: it has no samples, since all its sources were rejected; see {REJECTED}")
    number = 0 if sample_id is None else pc.index(ids, sample_id).as_py()
    if number < 0:
        assert sample_id is not None
        similar = _did_you_mean(sample_id, ids.to_pylist())
        raise UserError(
            f"{dataset_dir}: no sample {sample_id!r}; {similar}it has {len(ids)} samples, e.g. {ids[0].as_py()}"
        )
    row = store.row(number)
    label = row["label"]
    report["sample"] = {**row, "class": None if label is None else store.manifest.classes[label]}
    if picture is not None:
        save_png(picture, sample_picture(store, sets, number, tokenizer))
        report["picture"] = str(picture)
    return report


def set_facts(token_sets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The facts of each token set to show in a table, from `token_sets` of `inspect_dataset`."""
    return {
        name: {
            "tokenizer": manifest["tokenizer"]["name"],
            "vocab_size": manifest["tokenizer"]["vocab_size"],
            "grid": "x".join(map(str, manifest["tokenizer"]["grid"])),
            "dtype": manifest["tokenizer"]["dtype"],
            "views": manifest["views"]["num_views"],
        }
        for name, manifest in token_sets.items()
    }


def _did_you_mean(wanted: str, ids: Sequence[str]) -> str:
    """Suggest the first sample whose id contains `wanted`, such as a source's or a video's, else a similar one."""
    first = min((other for other in ids if wanted and wanted in other), default=None)
    return f"did you mean {first!r}? " if first is not None else nearest(wanted, _alike(wanted, ids))


def _alike(wanted: str, ids: Sequence[str]) -> list[str]:
    """A few ids that `wanted` may be a typo of: its neighbours in sorted order, and equal file names elsewhere."""
    ordered = sorted(ids)
    at = bisect.bisect(ordered, wanted)
    name = wanted.rpartition("/")[2]
    return [
        *ordered[max(0, at - NEIGHBOURS) : at + NEIGHBOURS],
        *(other for other in ids if other.endswith(f"/{name}")),
    ]


def sample_picture(store: FrameStore, sets: list[TokenSet], number: int, tokenizer: str | None) -> np.ndarray:
    """Draw the sample in row `number`, uint8 (H, W, 3): a line per view, with frames, views, and decoded tokens."""
    sample = store.samples.slice(number, 1).to_pylist()[0]
    part, count = sample["part"], sample["num_frames"]
    row = number - int(np.searchsorted(store.samples["part"].to_numpy(), part))  # position in the part
    chosen = np.linspace(0, count - 1, min(COLUMNS, count)).round().astype(int)
    frames = [store.read_frames(part, sample["frame_start"] + int(i), 1)[0] for i in chosen]
    lines = []
    for token_set in sets:
        decoder = decoder_of(token_set, tokenizer)
        for view in range(token_set.manifest.views.num_views):
            stored = token_set.read_view(part, view)
            cells = [*frames, *(apply_view(frame, stored.views[row]) for frame in frames)]
            if decoder is not None:
                import torch

                ids_Nhw = torch.from_numpy(stored.tokens[row][chosen].astype(np.int64))
                cells += list(decoder.decode(ids_Nhw).cpu().numpy())
            lines.append(np.concatenate([fitted(cell, CELL_PX) for cell in cells], axis=1))
    return np.concatenate(lines or [np.concatenate([fitted(frame, CELL_PX) for frame in frames], axis=1)])


def decoder_of(token_set: TokenSet, tokenizer: str | None) -> Any:
    """Load what draws the set's tokens: its tokenizer, or a mosaic if that has no decoder. None, with a note, if it is
    not found.
    """
    from bevt_core.tokenizers import load_tokenizer, tokenizer_of
    from bevt_core.tokenizers.mosaics import decoder_for

    identity = token_set.manifest.tokenizer
    try:
        loaded = load_tokenizer(tokenizer_of(token_set.path, identity, tokenizer))
    except UserError as error:
        note(f"{token_set.path}: no decoded tokens are drawn: {error}")
        return None
    if not loaded.can_decode:
        note(f"{token_set.path}: tokenizer {identity.name} has no decoder; a token is drawn as the mean of its patches")
    return decoder_for(loaded, token_set)
