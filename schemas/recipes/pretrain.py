"""Recipes of `bevt train`: masked image and video modelling. Comments name the origin of the numbers."""

from typing import Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.models import BevtConfig, MaskConfig, TargetName
from schemas.ranges import Batch, CropPixels, Frames, Pixels, Steps, Strength, check_frames_per_step
from schemas.recipes.identity import Free
from schemas.recipes.tokenization import TokenizerDtype
from schemas.recipes.training import Init, LoopConfig, OptimConfig
from schemas.views import ViewDistribution

Stream = Literal["video", "image"]


class OnlineTokens(Record):
    """Tokens computed in the training step from fresh views, as in the original code; no token set is needed."""

    frames: Free[str]  # directory of the frame store
    tokenizer: Free[str]  # a name or a tokenizer directory
    tokenizer_dtype: TokenizerDtype = "float32"  # of its networks, independent of loop.precision
    tokenizer_compiled: bool = False  # by torch.compile
    tokenizer_pass_frames: Batch | None = None  # as in TokenizeRecipe
    views: ViewDistribution


class TargetConfig(Record):
    """A further target of a stream: another tokenizer's tokens of the same frames under the same views."""

    tokens: Free[str]  # directory of the token set
    loss_weight: Strength = 1.0  # relative to the stream's first target


class StreamConfig(Record):
    """One stream of pretraining: its tokens and how clips are drawn."""

    tokens: Free[str] | OnlineTokens  # directory of the token set, or settings for online tokens
    # predicted by further LM heads; written only if there are any
    more_targets: dict[TargetName, TargetConfig] = Field(default={}, exclude_if=lambda targets: not targets)
    global_batch: Batch  # clips per optimizer step, over all ranks
    clip_frames: Frames  # consecutive stored frames per clip; pool.stride of the frame store is their interval
    loss_weight: Strength = 1.0  # for the video stream, lambda in L = L_MIM + lambda L_MVM
    window_parts: Batch = 8  # samples are shuffled within windows of this many parts
    mask: MaskConfig

    @model_validator(mode="after")
    def _step_size_is_plausible(self) -> "StreamConfig":
        check_frames_per_step(self.global_batch, self.clip_frames, "global_batch x clip_frames")
        return self

    @model_validator(mode="after")
    def _further_targets_are_stored(self) -> "StreamConfig":
        if self.more_targets and isinstance(self.tokens, OnlineTokens):
            raise ValueError(
                f"more_targets has {', '.join(self.more_targets)}, but tokens are computed in the step; give a token "
                "set as tokens"
            )
        return self

    @property
    def token_sets(self) -> tuple[str, ...]:
        """The directories of the token sets of all targets; empty for online tokens."""
        if isinstance(self.tokens, OnlineTokens):
            return ()
        return (self.tokens, *(target.tokens for target in self.more_targets.values()))


class ProbeConfig(Record):
    """Accuracy of simple classifiers on the encoder's features during pretraining. Does not train the model."""

    frames: str  # directory of a labelled frame store
    every: Steps  # steps between probes
    kinds: tuple[Literal["knn", "linear"], ...] = Field(default=("knn", "linear"), min_length=1)  # of classifier
    crop_px: CropPixels  # centre crops
    short_side_px: Pixels  # the short side to which a frame is scaled before the crop
    val_share: float = Field(default=0.2, gt=0.0, lt=1.0)  # share of every class to hold out
    neighbours: Batch = 20  # knn; DINO's value
    temperature: float = Field(default=0.07, gt=0.0, le=1e3)  # knn; DINO's value


class PretrainRecipe(Record):
    """BEVT-I (image only), BEVT-V (video only) or joint, depending on the streams that are present."""

    kind: Literal["pretrain"]
    title: Free[str]  # a description
    init: Free[Init | None] = None  # as for fine-tuning, such as BEVT-I for the joint stage
    model: BevtConfig
    streams: dict[Stream, StreamConfig] = Field(min_length=1)
    # per step, of the weights' moving average, which is stored at the end; null: no average
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    tokenizer: Free[str | None] = None  # name or folder of the tokens' tokenizer, to decode them for pictures
    probe: Free[ProbeConfig | None] = None
    optim: OptimConfig
    loop: LoopConfig

    @model_validator(mode="after")
    def _every_head_has_a_target(self) -> "PretrainRecipe":
        targets = {name for stream in self.streams.values() for name in stream.more_targets}
        unused = [name for name in self.model.more_heads if name not in targets]
        if unused:
            raise ValueError(
                f"model.more_heads has {', '.join(unused)}, but no stream has such a target; add it to "
                "streams.*.more_targets, or remove the head"
            )
        return self

    @model_validator(mode="after")
    def _pictures_can_be_drawn(self) -> "PretrainRecipe":
        if self.loop.picture_every and self.tokenizer is None:
            raise ValueError(
                f"loop.picture_every is {self.loop.picture_every}, but no tokenizer is named to decode tokens; "
                "set tokenizer, or loop.picture_every=0"
            )
        return self
