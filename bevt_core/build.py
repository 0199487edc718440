"""Models from plain numbers. What a model was built from stays with it as `model.config` and in saved weights."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from bevt_core.bevt import Bevt, Stream
from bevt_core.classifier import Classifier
from bevt_core.decoders import ImageDecoder, VideoDecoder
from bevt_core.stems import Stem2d, Stem3d
from bevt_core.swin import VideoSwin

Size3 = tuple[int, int, int]  # (T, H, W)

SWIN_SIZES: dict[str, dict[str, Any]] = {  # Video Swin, table of section 3.2; nano: what a laptop trains
    "nano": {
        "embed_dim": 48,
        "depths": (2, 2, 2),
        "num_heads": (2, 4, 8),
        "window": (4, 4, 4),
        "patch": (2, 8, 8),
    },
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}


def build_bevt(
    *,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    vocab_size: int,
    window: Sequence[int] = (8, 7, 7),
    patch: Sequence[int] = (2, 4, 4),
    mlp_ratio: float = 4.0,
    decoder_dim: int | None = None,
    drop_path: float = 0.0,
    share_encoder: Literal["shared", "separate"] = "shared",
    streams: Sequence[Stream] = ("video", "image"),
) -> Bevt:
    """Build the pretraining model. `patch` and `window` are (T, H, W); `decoder_dim` is the last stage's width.

    The token grid is H / (patch_h * 2**(stages - 2)): the grid of the last stage but one.
    """
    config = {"kind": "bevt", **locals()}
    t, h, w = patch
    stage_dims = [embed_dim * 2**i for i in range(len(depths))]
    out_dim = decoder_dim or stage_dims[-1]
    stems: dict[str, nn.Module] = {
        "video": Stem3d((t, h, w), embed_dim),
        "image": Stem2d((h, w), embed_dim),
    }
    decoders: dict[str, nn.Module] = {
        "video": VideoDecoder(stage_dims[-2], stage_dims[-1], out_dim, tubelet=t),
        "image": ImageDecoder(stage_dims[-2], stage_dims[-1], out_dim),
    }
    routes: dict[str, dict[Stream, str]] = {
        "shared": dict.fromkeys(streams, "shared"),
        "separate": {stream: stream for stream in streams},
    }
    route = routes[share_encoder]
    return Bevt(
        stems={stream: stems[stream] for stream in streams},
        encoders={
            name: VideoSwin(embed_dim, depths, num_heads, _size3(window), mlp_ratio, drop_path)
            for name in dict.fromkeys(route.values())
        },
        route=route,
        decoders={stream: decoders[stream] for stream in streams},
        embed_dim=embed_dim,
        decoder_dim=out_dim,
        vocab_size=vocab_size,
        config=config,
    )


def build_classifier(
    *,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    num_classes: int,
    window: Sequence[int] = (8, 7, 7),
    patch: Sequence[int] = (2, 4, 4),
    mlp_ratio: float = 4.0,
    drop_path: float = 0.0,
    dropout: float = 0.0,
) -> Classifier:
    """Build the fine-tuning model; the names are those of `build_bevt`."""
    config = {"kind": "classifier", **locals()}
    encoder = VideoSwin(embed_dim, depths, num_heads, _size3(window), mlp_ratio, drop_path)
    return Classifier(
        stem=Stem3d(_size3(patch), embed_dim),
        encoder=encoder,
        dim=encoder.stage_dims[-1],
        num_classes=num_classes,
        dropout=dropout,
        config=config,
    )


def _size3(size: Sequence[int]) -> Size3:
    t, h, w = size
    return t, h, w
