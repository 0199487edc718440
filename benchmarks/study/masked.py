"""Masked loss on views that no run has seen: `python benchmarks/study/masked.py DIR`, after `run.py --out DIR`.

Every pretrained model predicts the tokens of the same clips, those of test photographs, under the same views and masks,
drawn from a fixed seed. So models that were trained with other masks, views or JPEG qualities are compared on the same
targets; only the VQ-VAE's model has targets of its own. DIR/masked.json has the loss in nats and the accuracy of every
run; finished runs are kept.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bevt_core.dataset.token_set import TokenSet
from bevt_core.masking import draw_mask, hidden_positions
from bevt_core.models.bevt import Bevt
from bevt_core.models.stems import normalise
from bevt_core.rng import rng_for
from bevt_core.storage.files import write_atomic
from bevt_core.views.replay import apply_view
from bevt_core.weights.model_files import load_weights
from schemas.models import MaskConfig, RandomFrameMask, TubeMask
from schemas.text.json_text import json_text

BATCH = 32
MASKS: dict[str, MaskConfig] = {
    "random_frame": RandomFrameMask(kind="random_frame", ratio=0.5),
    "tube": TubeMask(kind="tube", ratio=0.5, min_block=4, length_share=(0.5, 1.0)),
}


class Clips(NamedTuple):
    """Clips with their tokens, each under every stored view: uint8 (N, T, H, W, 3), int64 (N, T, h, w)."""

    pixels: np.ndarray
    tokens: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path)
    out = parser.parse_args().dir
    torch.set_num_threads(1)
    path = out / "masked.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    clips: dict[str, Clips] = {}
    for weights in sorted(out.glob("pretrain/*/weights.safetensors")):
        name = weights.parent.name
        if name in found:
            continue
        token_set = "peco-v2" if name.startswith("peco_") else "dvae-v2"
        place = out / "test" / "tokens" / token_set
        model = load_weights(weights)
        if not isinstance(model, Bevt) or "video" not in model.stems:
            found[name] = {"skipped": "no video stream"}
        elif not (place / "dataset.json").is_file():
            print(f"{name}: no {place}, left for later")
            continue
        else:
            if token_set not in clips:
                clips[token_set] = read_clips(TokenSet(place))
            found[name] = {"tokens": token_set} | {mask: masked(model, clips[token_set], mask) for mask in MASKS}
            print(json_text({name: found[name]}), flush=True)
        write_atomic(path, json_text(found, indent=1).encode())


def read_clips(tokens: TokenSet) -> Clips:
    """Read all samples of a token set under all its views."""
    samples = tokens.frames.samples
    starts, counts, parts = (samples[name].to_numpy() for name in ("frame_start", "num_frames", "part"))
    pixels, ids = [], []
    for part in range(tokens.manifest.num_parts):
        (rows,) = np.nonzero(parts == part)
        clips = [tokens.frames.read_frames(part, int(starts[row]), int(counts[row])) for row in rows]
        for number in range(tokens.manifest.views.num_views):
            stored = tokens.read_view(part, number)
            for frames, view, tokens_THW in zip(clips, stored.views, stored.tokens, strict=True):
                pixels.append(np.stack([apply_view(frame_HWC, view) for frame_HWC in frames]))
                ids.append(torch.from_numpy(tokens_THW.astype(np.int64)))
    return Clips(np.stack(pixels), torch.stack(ids))


@torch.no_grad()
def masked(model: Bevt, clips: Clips, mask: str) -> Mapping[str, float]:
    """Return the mean loss in nats over the masked positions, the share predicted exactly, and their number."""
    loss, positions, correct = 0.0, 0, 0
    count, T, H, W = clips.tokens.shape
    grid_THW = (T // model.config["patch"][0], H, W)
    masks_BTHW = torch.from_numpy(
        np.stack([draw_mask(MASKS[mask], rng_for("masked", mask, i), grid_THW) for i in range(count)])
    )
    model.eval()
    for first in range(0, count, BATCH):
        part = slice(first, first + BATCH)
        clip_BCTHW, mask_BTHW = normalise(torch.from_numpy(clips.pixels[part])), masks_BTHW[part]
        found = model.masked_loss_sum(
            clip_BCTHW, clips.tokens[part], mask_BTHW, hidden_positions(mask_BTHW, T), "video"
        )
        loss, positions = loss + float(found.loss_sum), positions + int(found.num_masked)
        correct += int(found.num_correct)
    return {"loss": round(loss / positions, 4), "accuracy": round(correct / positions, 4), "positions": positions}


if __name__ == "__main__":
    main()
