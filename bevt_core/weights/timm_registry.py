"""Our Video Swins in timm's registry: importing this module enables `timm.create_model("bevt_swin_base_video")`.

`bevt_swin_SIZE_video` takes clips (B, 3, T, H, W). `bevt_swin_SIZE_image` takes pictures (B, 3, H, W), which it treats
as clips of one frame with the 2-D stem. Both expect the normalisation in `pretrained_cfg`.

The interface is timm's, including `features_only=True`. Keywords are the sizes of
`bevt_core.models.build.SwinBackbone`. Where timm says NCHW or NHWC, a video model uses (B, C, T, H, W) or
(B, T, H, W, C).

`checkpoint_path=` takes the weights.safetensors of a run with the same sizes: a pretraining run for both kinds of
models (the head then keeps its random weights), or a fine-tuning run for a video model. There are no published weights.

Legend: B batch, T H W frames and pixels before the stem, grid after, C channels, D width of the last stage, V classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from bevt_core.models.bevt import Stream
from bevt_core.models.build import SWIN_SIZES, SwinBackbone
from bevt_core.models.classifier import Classifier
from bevt_core.models.stems import Stem2d
from bevt_core.models.swin import init_weights
from bevt_core.models.windows import Size3
from bevt_core.weights.kinds import OURS, advice, family_of
from bevt_core.weights.surgery import (
    StateDict,
    bias_tables,
    classifier_from_pretrained,
    joint_from_image_stream,
    window_of_table,
)
from schemas.errors import UserError

__all__: list[str] = []  # timm adds the names of the models


class PictureStem(Stem2d):
    """The 2-D stem for pictures: (B, 3, H, W) -> (B, 1, H/ph, W/pw, C)."""

    def forward(self, picture_BCHW: Tensor) -> Tensor:
        return super().forward(picture_BCHW.unsqueeze(2))


class TimmClassifier(Classifier):
    """The classifier with timm's interface. With `num_classes` 0 it returns the features before the head."""

    num_features: int
    num_classes: int

    def __init__(
        self,
        stream: Stream,
        backbone: SwinBackbone,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
        in_chans: int = 3,
    ) -> None:
        if in_chans != 3:
            raise ValueError(f"in_chans {in_chans}: expected 3 (RGB)")
        super().__init__(
            stem=STEMS[stream](backbone),
            encoder=backbone.encoder(),
            dim=backbone.dim,
            num_classes=max(num_classes, 1),
            dropout=drop_rate,
            config={},
        )
        self.stream, self.backbone = stream, backbone
        self.num_features = self.head_hidden_size = backbone.dim
        self.in_chans, self.output_fmt = in_chans, "NHWC"
        self.feature_info = [
            {"num_chs": width, "reduction": backbone.patch[1] * 2**i, "module": f"encoder.stages.{i}"}
            for i, width in enumerate(self.encoder.stage_dims)  # type: ignore[arg-type]
        ]
        self.reset_classifier(num_classes, global_pool)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one of `num_classes`, or none for 0. `global_pool` is avg, or empty for none."""
        if global_pool not in (None, "avg", ""):
            raise ValueError(f"global_pool {global_pool!r}: expected avg, or an empty string for none")
        if global_pool is not None:
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()  # type: ignore[assignment]
        init_weights(self.fc)
        like = next(self.stem.parameters())
        self.fc.to(device=like.device, dtype=like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the inputs of the encoder's blocks, and recompute the blocks in the backward pass."""
        self.encoder.checkpoint_activations(range(len(self.feature_info)) if enable else ())  # type: ignore[operator]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights of this model, or of a pretraining run, which leave the head unchanged.

        Raises UserError for a pretraining run without images if this is an image model, and for another project's
        weights, naming their origin.
        """
        state = {key.removeprefix("model."): tensor for key, tensor in state_dict.items()}  # prefix of `bevt export`
        family = family_of(state)
        if family is not None and family.name != OURS:
            raise UserError(f"checkpoint_path: {advice(Path('FILE'), state)}")
        if any(key.startswith("encoders.") for key in state):
            head = {key: tensor for key, tensor in self.state_dict().items() if key.startswith("fc.")}
            state = head | encoder_of_stream(state, self.stream, self.backbone)
        return super().load_state_dict(state, strict, assign)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage after the norm: (B, T, H, W, D)."""
        features_BTHWC: Tensor = self.norm(self.encoder(self.stem(x))[-1])
        return features_BTHWC

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the result of `forward_features` and the outputs of stages, or only the latter, finest first.

        `indices` lists the stages; a number n means the last n, None all. `norm` applies only to the last stage, which
        it was trained for. With `stop_early` later stages are skipped, and the first result is the last stage computed.
        """
        fmt = getattr(output_fmt, "value", output_fmt)
        if fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt {fmt!r}: expected NCHW or NHWC")
        stages = list(self.encoder.stages)  # type: ignore[arg-type]
        taken, last = feature_take_indices(len(stages), indices)
        x_BTHWC, outputs = self.stem(x), {}
        for i, stage in enumerate(stages[: last + 1] if stop_early else stages):
            x_BTHWC = stage(x_BTHWC)
            outputs[i] = self.norm(x_BTHWC) if norm and i == len(stages) - 1 else x_BTHWC
        picked = [self._as_format(outputs[i], fmt) for i in sorted(taken)]
        if intermediates_only:
            return picked
        return (self.norm(x_BTHWC) if len(outputs) == len(stages) else x_BTHWC), picked

    def _as_format(self, x_BTHWC: Tensor, fmt: str) -> Tensor:
        y = x_BTHWC if self.stream == "video" else x_BTHWC.squeeze(1)
        return y.movedim(-1, 1).contiguous() if fmt == "NCHW" else y

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last of `indices`; returns the indices, counted from the first stage."""
        taken: list[int]
        taken, last = feature_take_indices(len(self.feature_info), indices)
        if prune_norm or last < len(self.feature_info) - 1:
            self.norm = nn.Identity()  # type: ignore[assignment]
        self.encoder.stages = self.encoder.stages[: last + 1]  # type: ignore[index]
        self.encoder.stage_dims = self.encoder.stage_dims[: last + 1]  # type: ignore[index]
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def forward_head(self, x_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, V), or the features before the linear layer (B, D); per position if pooling is off."""
        x = self.dropout(x_BTHWC.mean(dim=(1, 2, 3)) if self.global_pool else x_BTHWC)
        y: Tensor = x if pre_logits else self.fc(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def encoder_of_stream(state: StateDict, stream: Stream, backbone: SwinBackbone) -> StateDict:
    """Return a classifier's stem, encoder and norm for `stream` from the weights of a pretraining model.

    A video model from images alone is initialised as for the joint stage. Raises UserError for an image model from
    videos alone.
    """
    t, h, w = backbone.window
    window: Size3 = (t, h, w)
    rows = len(state[bias_tables(state)[0]])
    same = rows == math.prod(2 * size - 1 for size in window)
    windows = {"old_window": window if same else window_of_table(rows), "window": window}
    if f"stems.{stream}.proj.weight" not in state:
        if stream == "image":
            raise UserError("these weights are of a run without images and have no image stem; use a video model")
        state = joint_from_image_stream(state, tubelet=backbone.patch[0], **windows).state
        windows["old_window"] = window
    return classifier_from_pretrained(state, **windows, stream=stream).state


INPUTS = {"video": "clips (B, 3, T, H, W)", "image": "pictures (B, 3, H, W)"}
STEMS: dict[Stream, Callable[[SwinBackbone], nn.Module]] = {
    "video": lambda backbone: backbone.stems()["video"],
    "image": lambda backbone: PictureStem((backbone.patch[1], backbone.patch[2]), backbone.embed_dim),
}


def _pretrained_cfg(size: str, stream: Stream) -> dict[str, Any]:
    """Return timm's `pretrained_cfg`: the input in the shipped recipes. `input_size` (C, H, W) is that of one frame."""
    side_px, frames = (64, 8) if size == "nano" else (224, 32)
    return {
        "input_size": (3, side_px, side_px),
        "crop_pct": 224 / 256 if side_px == 224 else 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "num_classes": 1000,
        "first_conv": "stem.proj",
        "classifier": "fc",
        "description": f"clips of {frames} frames" if stream == "video" else "pictures",
    }


default_cfgs = generate_default_cfgs(  # timm requires this name
    {f"bevt_swin_{size}_{stream}": _pretrained_cfg(size, stream) for size in SWIN_SIZES for stream in STEMS}
)


def _register(size: str, stream: Stream) -> None:
    name = f"bevt_swin_{size}_{stream}"

    def build(num_classes: int, global_pool: str = "avg", in_chans: int = 3, **options: Any) -> TimmClassifier:
        drop_rate = options.pop("drop_rate", 0.0)
        options["drop_path"] = options.pop("drop_path_rate", 0.0)
        backbone = SwinBackbone(**{**SWIN_SIZES[size], **options})
        return TimmClassifier(stream, backbone, num_classes, drop_rate, global_pool, in_chans)

    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise UserError(f"{name}: there are no published weights; give checkpoint_path=weights.safetensors")
        stages = range(len(options.get("depths", SWIN_SIZES[size]["depths"])))
        features = {"out_indices": tuple(stages), "feature_cls": "getter"}
        model: nn.Module = build_model_with_cfg(build, name, False, feature_cfg=features, **options)
        return model

    create.__name__, create.__module__ = name, __name__
    create.__doc__ = f"Video Swin ({size}) for {INPUTS[stream]}."
    if not timm.is_model(name):
        register_model(create)


for _size in SWIN_SIZES:
    for _stream in STEMS:
        _register(_size, _stream)
