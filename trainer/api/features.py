"""Compute features of clips in memory or of files with the encoder of any run.

Legend: N files, B clips, T H W frames and pixels, C channels (RGB), D width of the encoder's last stage.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bevt_core.models.stems import normalise
from schemas.errors import UserError
from schemas.recipes import DECODE_TIMEOUT_S, FinetuneRecipe
from trainer.api.runs import LoadedRun
from trainer.clips.multi_view import map_parts
from trainer.clips.sources import FileClips
from trainer.testing.extract import features as features_of_views
from trainer.testing.frozen import views_of
from trainer.testing.predict import item_of


@torch.no_grad()
def features(run: LoadedRun, clips_BTHWC: Tensor) -> Tensor:
    """Return the encoder's normed last stage, averaged over time and space: float32 (B, D) on the run's device.

    `clips_BTHWC` are uint8 RGB frames, scaled and cropped like the clips of the run; T is a multiple of the encoder's
    tubelet (2 for Video Swin). Raises UserError for another type or shape.
    """
    tubelet = run.encoder.config["patch"][0]
    is_clip = clips_BTHWC.ndim == 5 and clips_BTHWC.shape[-1] == 3 and clips_BTHWC.shape[1] % tubelet == 0
    if clips_BTHWC.dtype != torch.uint8 or not is_clip:
        raise UserError(
            f"clips are {str(clips_BTHWC.dtype).removeprefix('torch.')} {list(clips_BTHWC.shape)}, expected uint8 "
            f"[B, T, H, W, 3] with T a multiple of {tubelet}"
        )
    return run.encoder.features(normalise(clips_BTHWC.to(run.device))).float()


def file_features(
    run: LoadedRun,
    files: Sequence[str | Path],
    *,
    recipe: FinetuneRecipe | None = None,
    clips: int | None = None,
    crops: int | None = None,
    decode_timeout_s: float = DECODE_TIMEOUT_S,
) -> Tensor:
    """Return the features of videos and images in the order of `files`: float32 (N, D) on the CPU.

    They are averaged over `clips` x `crops` views, sampled as in the run: by default a classifier's test views, or the
    centre crop of one clip for a pretrained encoder. A fine-tuning `recipe` gives a pretrained encoder other views.
    Raises UserError for a file that cannot be read, and for a run that does not record its clips. For many files use
    `bevt extract`, which writes features to disk and records unreadable files.
    """
    plan = views_of(run.weights, run.encoder, recipe, clips, crops)
    data = FileClips(Path(), tuple(item_of(Path(file)) for file in files), (), decode_timeout_s)
    work = functools.partial(features_of_views, run.encoder, "pooled")
    parts = range(len(plan.parts(data)))
    found = []
    for _, rows in map_parts(work, data, plan, parts, device=run.device, precision="fp32", num_workers=0):
        for row in rows:
            if row["error"] is not None:
                raise UserError(f"{row['video']}: {row['error']}")
            found.append(row["features"][0])
    width = run.encoder.fc.in_features
    return torch.from_numpy(np.stack(found)) if found else torch.empty(0, width)
