"""Recipes of `bevt finetune`: a classifier of labelled clips. Comments name the origin of the numbers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.models import EncoderConfig
from schemas.ranges import Attempts, Batch, CropPixels, Epochs, Frames, Pixels, Seconds, Share, check_frames_per_step
from schemas.recipes.identity import Free
from schemas.recipes.training import Init, LoopConfig, OptimConfig

DECODE_TIMEOUT_S = 60.0  # as in the k400 recipe of `bevt tokenize`

Aspect = Annotated[float, Field(gt=0.0, le=100.0)]


class ClipSampling(Record):
    """How the frames of a clip are chosen: `dense` is the original's SampleFrames, `uniform` its frame_uniform."""

    kind: Literal["dense", "uniform"]
    frames: Frames  # per clip
    interval: Frames  # in frames of the source; ignored by `uniform`

    @property
    def spacing(self) -> str:
        """For messages: `every 2` or `uniform`."""
        return f"every {self.interval}" if self.kind == "dense" else "uniform"


class RandAugmentConfig(Record):
    """RandAugment with timm's operations."""

    num_ops: Attempts  # applied in sequence
    magnitude: float = Field(ge=0.0, le=10.0)  # strength of the operations


class AugmentConfig(Record):
    """Training-time augmentation of fine-tuning, the same for all frames of a clip."""

    crop_px: CropPixels  # also used in testing
    area_share: tuple[Share, Share] = (0.08, 1.0)  # RandomResizedCrop
    aspect: tuple[Aspect, Aspect] = (0.75, 4 / 3)  # of RandomResizedCrop, lowest and highest
    flip_share: Share  # share of clips that are mirrored
    rand_augment: RandAugmentConfig | None = None
    erase_share: Share = 0.0  # share of clips in which a random box is erased

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "AugmentConfig":
        if not 0 < self.area_share[0] <= self.area_share[1] <= 1:
            raise ValueError(f"area_share {self.area_share} must ascend within 0 to 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect {self.aspect} must ascend from above 0")
        return self


class MixConfig(Record):
    """Mixup and CutMix of pairs of clips and their classes, one draw per step (timm.data.Mixup, batch mode)."""

    mixup_alpha: float = Field(ge=0.0, le=1e3)  # the mixing share is drawn from Beta(alpha, alpha); 0: no Mixup
    cutmix_alpha: float = Field(ge=0.0, le=1e3)  # 0: no CutMix
    share: float = Field(default=1.0, gt=0.0, le=1.0)  # share of steps that mix; timm's prob
    cutmix_share: Share = 0.5  # share of mixing steps that use CutMix, if both are on; timm's switch_prob

    @model_validator(mode="after")
    def _mixes_something(self) -> "MixConfig":
        if self.mixup_alpha == 0 and self.cutmix_alpha == 0:
            raise ValueError("mixup_alpha and cutmix_alpha are both 0; set one of them, or mix=null")
        return self


class EvalViews(Record):
    """Multi-view testing: temporal clips x spatial crops, scores averaged."""

    clips: Attempts  # per video; 1 with uniform sampling, which spans the whole video
    crops: Literal[1, 3]  # per clip: the centre, or three along the long side
    short_side_px: Pixels  # the short side to which a frame is scaled before the crop


class FinetuneRecipe(Record):
    """Supervised classification from a pretrained checkpoint or from scratch."""

    kind: Literal["finetune"]
    title: Free[str]  # a description
    dataset: str  # layout of root: k400, ssv2, diving48, folder or list
    root: Free[str]  # folder of the videos
    init: Free[Init | None] = None  # run directory, weights, or a model's name (package, hf://)
    encoder: EncoderConfig
    head_dropout: float = Field(ge=0.0, lt=1.0)  # before the linear classifier
    sampling: ClipSampling
    augment: AugmentConfig
    views: EvalViews  # of the final test; validation during training uses one clip and its centre crop
    decode_timeout_s: Free[Seconds] = DECODE_TIMEOUT_S  # per clip of a file; slower files count as unreadable
    val_share: float = Field(default=0.2, gt=0.0, lt=1.0)  # held out per class, if the data has no validation split
    label_share: float = Field(default=1.0, gt=0.0, le=1.0)  # of every class's training clips, at least one is used
    validate_every_epochs: Epochs  # epochs between validations
    global_batch: Batch  # clips per optimizer step, over all ranks
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)  # share of a target that all classes get
    mix: MixConfig | None = None  # Mixup and CutMix; none in the paper
    # per step, of the weights' moving average, which is tested and stored; null: no average
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    optim: OptimConfig
    loop: LoopConfig

    @model_validator(mode="after")
    def _views_fit(self) -> "FinetuneRecipe":
        check_frames_per_step(self.global_batch, self.sampling.frames, "global_batch x sampling.frames")
        if self.sampling.kind == "uniform" and self.views.clips != 1:
            raise ValueError(f"views.clips is {self.views.clips}; uniform sampling spans the video with 1 clip")
        if self.views.short_side_px < self.augment.crop_px:
            raise ValueError(
                f"views.short_side_px {self.views.short_side_px} is below augment.crop_px {self.augment.crop_px}"
            )
        if self.sampling.frames % self.encoder.patch[0]:
            raise ValueError(
                f"sampling.frames {self.sampling.frames} is not a multiple of the encoder's {self.encoder.patch[0]} "
                "frames per patch"
            )
        return self
