"""Pictures of a pretraining model's predictions: a clip, its visible part, its predicted and true tokens decoded.

Legend: T frames, H W pixels or token grid, C channels. Masks are at tubelet resolution in time.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bevt_core.console.disk_errors import explaining
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.models.bevt import Bevt, Stream
from bevt_core.models.stems import normalise
from bevt_core.reporting.pictures import hide, sheet
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.mosaics import Decoder
from schemas.errors import UserError
from schemas.recipes import Precision
from trainer.data.online import tokens_in_step
from trainer.engine.precision import autocast
from trainer.pretrain.streams import Source, StoredSource, Streams

Row = list[np.ndarray]


def prediction_rows(
    model: Bevt,
    decoder: Decoder,
    clip_THWC: Tensor,
    tokens_THW: Tensor,
    mask_THW: Tensor,
    stream: Stream,
    target: str | None = None,
) -> tuple[list[Row], list[str]]:
    """Return the rows of a picture for one sample, and their labels; `target` is by default the first.

    The rows are the clip, its visible part, the decoded tokens with predictions at hidden positions, and the decoded
    true tokens.
    """
    device = model.mask_token.device
    clip_1CTHW, mask_1THW = normalise(clip_THWC[None].to(device)), mask_THW[None].to(device)
    predicted_THW = model.predict(clip_1CTHW, mask_1THW, stream, target)[0].cpu()
    hidden_THW = mask_THW.repeat_interleave(len(tokens_THW) // len(mask_THW), dim=0)
    correct = (predicted_THW == tokens_THW)[hidden_THW].float().mean()
    clip, mask = clip_THWC.numpy(), mask_THW.numpy()
    rows = [
        list(clip),
        list(hide(clip, mask)),
        list(decoder.decode(torch.where(hidden_THW, predicted_THW, tokens_THW)).cpu().numpy()),
        list(decoder.decode(tokens_THW).cpu().numpy()),
    ]
    return rows, ["clip", "masked", f"predicted ({correct:.0%} of hidden tokens correct)", "true tokens"]


class PictureEvaluation:
    """An evaluation that writes the model's predictions for the first sample of each stream to TensorBoard."""

    def __init__(
        self,
        model: Bevt,
        tokenizer: Tokenizer,
        decoder: Decoder,
        streams: Streams,
        run_dir: Path,
        precision: Precision = "fp32",
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second to import

        self.model, self.decoder, self.precision = model, decoder, precision
        self.samples = {name: dataset[0, 0] for name, (dataset, _) in streams.items()}
        for sample in self.samples.values():
            if "frames" in sample:
                sample["tokens"] = tokens_in_step(tokenizer, sample["frames"][None])[0].cpu()
        self.folder = run_dir / "tensorboard"
        self.writer = SummaryWriter(str(self.folder))

    def __call__(self, steps_done: int) -> dict[str, float]:
        self.model.eval()  # the loop restores training mode
        for name, sample in self.samples.items():
            with autocast(self.model.mask_token.device, self.precision):
                rows, labels = prediction_rows(
                    self.model,
                    self.decoder,
                    sample["clip"],
                    sample["tokens"],
                    sample["mask"],
                    name,  # type: ignore[arg-type]
                )
            with explaining(self.folder):
                self.writer.add_image(f"prediction/{name}", sheet(rows, labels), steps_done, dataformats="HWC")
        with explaining(self.folder):
            self.writer.flush()
        return {}


def check_tokenizer(tokenizer: Tokenizer, name: str, sources: Mapping[str, Source]) -> None:
    """Raise UserError if `tokenizer`, which is to draw the streams' tokens, did not make them."""
    for stream, source in sources.items():
        wanted = source.identity
        if tokenizer.weights_sha256 != wanted.weights_sha256:
            raise UserError(
                f"{stream} stream, {source.path}: its tokens were made by {wanted.name} with weights "
                f"{wanted.weights_sha256[:12]}, but tokenizer {name} has weights {tokenizer.weights_sha256[:12]}; set "
                "the recipe's tokenizer to the one that made them, or loop.picture_every=0"
            )


def picture_data(source: Source) -> TokenSet | FrameStore:
    """Return the data whose frames show what a stream's tokens look like: its token set, or its frame store."""
    return source.tokens if isinstance(source, StoredSource) else source.frames
