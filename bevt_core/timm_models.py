"""Our Video Swins in timm's registry: `import bevt_core.timm_models`, then `timm.create_model("bevt_swin_base_video")`.

`bevt_swin_SIZE_video` takes clips (B, 3, T, H, W), `bevt_swin_SIZE_image` pictures (B, 3, H, W), a clip of one frame
under the 2-D stem; both normalised. The interface is timm's: `forward_features`, `forward_head`, `num_features`,
`reset_classifier`, and `checkpoint_path=`: a run's weights.safetensors of the same sizes, of fine-tuning for video
models and of any stage of pretraining for both; those have no head, and its fresh one stays. Keywords are the sizes of
`bevt_core.build.SwinBackbone`. There are no published weights, and no `features_only`: the encoder's output is every
stage already.
Legend: B batch, T H W frames and pixels before the stem, grid after, C channels, D width of the last stage, V classes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import timm
from timm.models import register_model
from torch import Tensor, nn

from bevt_core.attention import Size3
from bevt_core.bevt import Stream
from bevt_core.build import SWIN_SIZES, SwinBackbone
from bevt_core.classifier import Classifier
from bevt_core.stems import Stem2d
from bevt_core.swin import init_weights
from bevt_core.weights_surgery import (
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
    """The classifier under timm's names. With `num_classes` 0 the result is the features that the head would read."""

    num_features: int
    num_classes: int

    def __init__(self, stream: Stream, backbone: SwinBackbone, num_classes: int, drop_rate: float) -> None:
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
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Put a fresh head of `num_classes`; none for 0. There is one pooling, the mean over all positions."""
        if global_pool != "avg":
            raise ValueError(f"global_pool {global_pool!r}: expected avg")
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()  # type: ignore[assignment]
        init_weights(self.fc)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights of this model, or those of a pretraining run under the head that is there.

        Raises UserError for a pretraining run that had no images, where this is a model of pictures.
        """
        state = {key.removeprefix("model."): tensor for key, tensor in state_dict.items()}  # of `bevt export`'s folder
        if any(key.startswith("encoders.") for key in state):
            head = {key: tensor for key, tensor in self.state_dict().items() if key.startswith("fc.")}
            state = head | encoder_of_stream(state, self.stream, self.backbone)
        return super().load_state_dict(state, strict, assign)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage after the norm: (B, T, H, W, D)."""
        return self.norm(self.encoder(self.stem(x))[-1])

    def forward_head(self, x_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, V), or what the linear layer would read (B, D)."""
        x_BD = self.dropout(x_BTHWC.mean(dim=(1, 2, 3)))
        return x_BD if pre_logits else self.fc(x_BD)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def encoder_of_stream(state: StateDict, stream: Stream, backbone: SwinBackbone) -> StateDict:
    """Return a classifier's stem, encoder and norm for `stream`, of the weights of a pretraining model.

    A video model of images alone starts as the joint stage would. Raises UserError for pictures of videos alone.
    """
    t, h, w = backbone.window
    window: Size3 = (t, h, w)
    rows = len(state[bias_tables(state)[0]])
    same = rows == math.prod(2 * size - 1 for size in window)
    windows = {"old_window": window if same else window_of_table(rows), "window": window}
    if f"stems.{stream}.proj.weight" not in state:
        if stream == "image":
            raise UserError("these weights are of a run without images, and have no stem for pictures")
        state = joint_from_image_stream(state, tubelet=backbone.patch[0], **windows).state
        windows["old_window"] = window
    return classifier_from_pretrained(state, **windows, stream=stream).state


INPUTS = {"video": "clips (B, 3, T, H, W)", "image": "pictures (B, 3, H, W)"}
STEMS: dict[Stream, Callable[[SwinBackbone], nn.Module]] = {
    "video": lambda backbone: backbone.stems()["video"],
    "image": lambda backbone: PictureStem((backbone.patch[1], backbone.patch[2]), backbone.embed_dim),
}


def _register(size: str, stream: Stream) -> None:
    def create(pretrained: bool = False, **options: Any) -> TimmClassifier:
        if pretrained:
            raise UserError(
                f"bevt_swin_{size}_{stream}: there are no published weights; give checkpoint_path=weights.safetensors"
            )
        for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):  # timm's own, about published weights
            options.pop(name, None)
        num_classes, drop_rate = options.pop("num_classes", 1000), options.pop("drop_rate", 0.0)
        options["drop_path"] = options.pop("drop_path_rate", 0.0)
        backbone = SwinBackbone(**{**SWIN_SIZES[size], **options})
        return TimmClassifier(stream, backbone, num_classes, drop_rate)

    create.__name__, create.__module__ = f"bevt_swin_{size}_{stream}", __name__
    create.__doc__ = f"Video Swin ({size}) for {INPUTS[stream]}."
    if not timm.is_model(create.__name__):
        register_model(create)


for _size in SWIN_SIZES:
    for _stream in STEMS:
        _register(_size, _stream)
