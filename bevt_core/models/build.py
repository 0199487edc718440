"""Build models from plain numbers. A model keeps its arguments in `model.config` and in saved weights.

A backbone is the stems, the encoder and the decoders of one kind and size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol

from torch import nn

from bevt_core.models.bevt import Bevt, FuseStages, LastStage, Stream, ToFrames
from bevt_core.models.classifier import Classifier
from bevt_core.models.stems import Stem2d, Stem3d
from bevt_core.models.swin import VideoSwin
from bevt_core.models.timesformer import TimeSformer
from schemas.errors import UserError
from schemas.recipes.loading import nearest


class Backbone(Protocol):
    """The interface of a backbone. `embed_dim` is the width of the stems, `dim` that of the last stage."""

    @property
    def embed_dim(self) -> int: ...
    @property
    def dim(self) -> int: ...
    def stems(self) -> Mapping[Stream, nn.Module]: ...
    def encoder(self) -> nn.Module: ...
    def decoders(self, out_dim: int) -> Mapping[Stream, nn.Module]: ...


@dataclass(frozen=True)
class SwinBackbone:
    """Video Swin. `window` and `patch` are (T, H, W); `drop_path` is the last block's rate.

    The token grid is that of the second-to-last stage: H / (patch_h * 2**(stages - 2)).
    """

    embed_dim: int
    depths: Sequence[int]
    num_heads: Sequence[int]
    window: Sequence[int] = (8, 7, 7)
    patch: Sequence[int] = (2, 4, 4)
    mlp_ratio: float = 4.0
    drop_path: float = 0.0

    @property
    def dim(self) -> int:
        return int(self.embed_dim * 2 ** (len(self.depths) - 1))

    def stems(self) -> Mapping[Stream, nn.Module]:
        t, h, w = self.patch
        return {"video": Stem3d((t, h, w), self.embed_dim), "image": Stem2d((h, w), self.embed_dim)}

    def encoder(self) -> VideoSwin:
        t, h, w = self.window
        return VideoSwin(self.embed_dim, self.depths, self.num_heads, (t, h, w), self.mlp_ratio, self.drop_path)

    def decoders(self, out_dim: int) -> Mapping[Stream, nn.Module]:
        return {
            "video": ToFrames(FuseStages(self.dim // 2, self.dim, out_dim), out_dim, tubelet=self.patch[0]),
            "image": FuseStages(self.dim // 2, self.dim, out_dim),
        }


@dataclass(frozen=True)
class TimeSformerBackbone:
    """TimeSformer, by default TimeSformer-B. `grid` (T, H, W) is the size of the position embeddings and token grid."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    grid: Sequence[int] = (16, 14, 14)
    patch: Sequence[int] = (1, 16, 16)
    mlp_ratio: float = 4.0
    drop_path: float = 0.0

    @property
    def dim(self) -> int:
        return self.embed_dim

    def stems(self) -> Mapping[Stream, nn.Module]:
        t, h, w = self.patch
        return {
            "video": Stem3d((t, h, w), self.embed_dim, norm=nn.Identity),
            "image": Stem2d((h, w), self.embed_dim, norm=nn.Identity),
        }

    def encoder(self) -> TimeSformer:
        t, h, w = self.grid
        return TimeSformer(self.embed_dim, self.depth, self.num_heads, (t, h, w), self.mlp_ratio, self.drop_path)

    def decoders(self, out_dim: int) -> Mapping[Stream, nn.Module]:
        video, image = LastStage(self.dim, out_dim), LastStage(self.dim, out_dim)
        tubelet = self.patch[0]
        return {"video": ToFrames(video, out_dim, tubelet) if tubelet > 1 else video, "image": image}


BACKBONES: dict[str, Callable[..., Backbone]] = {"swin": SwinBackbone, "timesformer": TimeSformerBackbone}


def backbone_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backbone's fields of a model's config, which the builders take as `sizes`."""
    return {field.name: config[field.name] for field in fields(BACKBONES[config["encoder"]])}  # type: ignore[arg-type]


SWIN_SIZES: dict[str, dict[str, Any]] = {  # Video Swin, section 3.3; nano is the size of bevt-nano
    "nano": {"embed_dim": 64, "depths": (4, 2), "num_heads": (2, 4), "window": (4, 4, 4), "patch": (2, 8, 8)},
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}


def check_size(size: str, known: Sequence[str] = tuple(SWIN_SIZES), what: str = "size") -> None:
    """Raise UserError, with the nearest name, for a size of Video Swin that is not among `known`."""
    if size not in known:
        raise UserError(f"{what} {size!r}: {nearest(size, known)}expected one of {', '.join(known)}")


def build_bevt(
    *,
    vocab_size: int,
    encoder: str = "swin",
    decoder_dim: int | None = None,
    share_encoder: Literal["shared", "separate"] = "shared",
    streams: Sequence[Stream] = ("video", "image"),
    more_heads: Mapping[str, int] | None = None,
    first_target: str | None = None,
    **sizes: Any,
) -> Bevt:
    """Build the pretraining model. `sizes` are the fields of `BACKBONES[encoder]`.

    `decoder_dim` is the width of the decoders' output (default: that of the encoder's last stage). `more_heads` has the
    vocabulary sizes of further targets, by name; `first_target` is the first one's name, which is only recorded.
    """
    backbone = BACKBONES[encoder](**sizes)
    out_dim = decoder_dim or backbone.dim
    routes: dict[str, dict[Stream, str]] = {
        "shared": dict.fromkeys(streams, "shared"),
        "separate": {stream: stream for stream in streams},
    }
    route = routes[share_encoder]
    stems, decoders = backbone.stems(), backbone.decoders(out_dim)
    return Bevt(
        stems={stream: stems[stream] for stream in streams},
        encoders={name: backbone.encoder() for name in dict.fromkeys(route.values())},
        route=route,
        decoders={stream: decoders[stream] for stream in streams},
        embed_dim=backbone.embed_dim,
        decoder_dim=out_dim,
        vocab_size=vocab_size,
        config={
            "kind": "bevt",
            "vocab_size": vocab_size,
            "encoder": encoder,
            "decoder_dim": decoder_dim,
            "share_encoder": share_encoder,
            "streams": tuple(streams),
            **({"more_heads": dict(more_heads)} if more_heads else {}),
            **({} if first_target is None else {"first_target": first_target}),
            **asdict(backbone),  # type: ignore[call-overload]
        },
        more_heads=more_heads,
    )


def build_classifier(*, num_classes: int, encoder: str = "swin", dropout: float = 0.0, **sizes: Any) -> Classifier:
    """Build the fine-tuning model. `sizes` are the fields of `BACKBONES[encoder]`."""
    backbone = BACKBONES[encoder](**sizes)
    return Classifier(
        stem=backbone.stems()["video"],
        encoder=backbone.encoder(),
        dim=backbone.dim,
        num_classes=num_classes,
        dropout=dropout,
        config={
            "kind": "classifier",
            "num_classes": num_classes,
            "encoder": encoder,
            "dropout": dropout,
            **asdict(backbone),  # type: ignore[call-overload]
        },
    )
