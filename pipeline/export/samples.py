"""The samples of a dataset as they are exported: stored JPEG bytes, and the tokens and views of every token set.

Legend: T frames of a sample, h w token grid.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet, token_set_folders
from bevt_core.storage.descriptions import dataset_around, what_is
from bevt_core.storage.objects import AnyPath
from schemas.errors import UserError
from schemas.recipes.loading import nearest
from schemas.views import View

FACTS = ("sample_id", "source", "label", "num_frames", "frame_indices", "times_s", "height", "width")


@dataclass(frozen=True)
class Sample:
    """A sample to export. `views` and `tokens` have an entry per token set, with an item per view."""

    key: str  # part and row, such as 00003-000017
    facts: dict[str, Any]  # the columns FACTS of the index, and `class_name`
    jpegs: list[bytes]
    views: dict[str, list[View]]
    tokens: dict[str, list[np.ndarray]]  # uint16 (T, h, w)


@dataclass(frozen=True)
class Dataset:
    """A frame store and those of its token sets that are exported, by name."""

    frames: FrameStore
    token_sets: Mapping[str, TokenSet]

    def samples(self, part: int, index: pa.Table) -> Iterator[Sample]:
        """Read the samples of a part, in the order of its `index`. Raises BadRow for rows that do not fit together."""
        ids = index["sample_id"].to_pylist()
        sizes = list(zip(*(index[name].to_pylist() for name in ("num_frames", "height", "width")), strict=True))
        stored = {
            name: [tokens.read_checked_view(part, view, ids, sizes) for view in range(tokens.manifest.views.num_views)]
            for name, tokens in self.token_sets.items()
        }
        classes = self.frames.manifest.classes
        for number, row in enumerate(index.to_pylist()):
            facts = {name: row[name] for name in FACTS}
            jpegs = self.frames.read_jpegs(part, row["frame_start"], row["num_frames"])
            yield Sample(
                key=f"{part:05d}-{number:06d}",
                facts=facts | {"class_name": None if row["label"] is None else classes[row["label"]]},
                jpegs=[jpeg.tobytes() for jpeg in jpegs],
                views={name: [view.views[number] for view in views] for name, views in stored.items()},
                tokens={name: [view.tokens[number] for view in views] for name, views in stored.items()},
            )


def open_dataset(dataset_dir: AnyPath, names: list[str] | None) -> Dataset:
    """Open a finished dataset and its token sets `names`, by default all. Raises UserError for an unknown name."""
    if not (dataset_dir / "frames").is_dir():
        raise UserError(f"{dataset_dir}: no frames/ in it ({what_is(dataset_dir)}); give {dataset_around(dataset_dir)}")
    found = {folder.name: folder for folder in token_set_folders(dataset_dir, "dataset.json")}
    for name in names or ():
        if name not in found:
            known = ", ".join(found) or "none"
            raise UserError(f"{dataset_dir}: no token set {name!r}; {nearest(name, list(found))}it has {known}")
    chosen = list(found) if names is None else [name for name in found if name in names]
    return Dataset(FrameStore(dataset_dir / "frames"), {name: TokenSet(found[name]) for name in chosen})
