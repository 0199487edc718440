"""The model of a pretraining recipe, and the sizes of tokens and frames that it requires."""

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from bevt_core.models.bevt import Bevt
from bevt_core.models.build import build_bevt
from bevt_core.models.swin import VideoSwin
from bevt_core.models.timesformer import TimeSformer
from schemas.models import BevtConfig, EncoderConfig

HALVINGS: dict[str, Callable[[Any], int]] = {  # halvings from the patch grid to the token grid, by kind of encoder
    "swin": lambda encoder: len(encoder.depths) - 2,  # the token grid is the second to last stage's
    "timesformer": lambda encoder: 0,
}


def build_model(config: BevtConfig, streams: tuple[str, ...]) -> Bevt:
    return build_bevt(
        encoder=config.encoder.kind,
        **config.encoder.model_dump(exclude={"kind"}),
        vocab_size=config.vocab_size,
        share_encoder=config.share_encoder,
        streams=streams,  # type: ignore[arg-type]
        more_heads=config.more_heads,
        first_target=config.first_target,
    )


def checkpoint_activations(model: Bevt) -> None:
    """Keep only the inputs of the encoders' blocks, and run the blocks again in the backward pass."""
    for encoder in model.encoders.values():
        checkpoint_encoder(encoder)


def checkpoint_encoder(encoder: nn.Module) -> None:
    """Checkpoint the activations of all stages of one encoder, Swin or TimeSformer."""
    known = cast(VideoSwin | TimeSformer, encoder)
    known.checkpoint_activations(range(len(known.stage_dims)))


def halvings(encoder: EncoderConfig) -> int:
    """Return how many times the patch grid is halved to reach the token grid."""
    return HALVINGS[encoder.kind](encoder)


def tokens_per_side(encoder: EncoderConfig, crop_px: int) -> tuple[float, float]:
    """Return the rows and columns of tokens predicted for a crop; fractions if its size does not fit the patches."""
    rows, columns = (crop_px / (side * 2 ** halvings(encoder)) for side in encoder.patch[1:])
    return rows, columns


def tubelet_of(stream: str, model: BevtConfig) -> int:
    """Return how many frames one mask position covers: 1 for images."""
    return model.encoder.patch[0] if stream == "video" else 1
