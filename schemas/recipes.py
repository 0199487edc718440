"""Recipes: everything that decides the numbers of a run, complete, in one YAML file. Sources beside the numbers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import PlainName, Record
from schemas.frames import PoolSpec
from schemas.model import BevtConfig, EncoderConfig, MaskConfig
from schemas.ranges import (
    Attempts,
    Batch,
    CropPixels,
    Depth,
    Epochs,
    Frames,
    Pixels,
    Processes,
    Seconds,
    Seed,
    Share,
    Steps,
    Strength,
    Width,
    check_frames_per_step,
)
from schemas.views import ViewDistribution, ViewSpec

Stream = Literal["video", "image"]

# tf32: float32 weights whose products a GPU rounds to TF32; the CPU has no such products
TokenizerDtype = Literal["float32", "tf32", "float16", "bfloat16"]

DECODE_TIMEOUT_S = 60.0  # of the pipeline's k400 recipe

Precision = Literal["fp32", "bf16", "fp16"]  # of matrix products under autocast; weights stay in fp32

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]  # of a running mean
Aspect = Annotated[float, Field(gt=0.0, le=100.0)]
Temperature = Annotated[float, Field(gt=0.0, le=1e3)]
Layer = Annotated[int, Field(ge=0, le=1000)]


# ---- pipeline ------------------------------------------------------------------------------------


class TokenizeRecipe(Record):
    """Raw data -> frame store + token set."""

    kind: Literal["tokenize"]
    title: str
    dataset: str  # a key of pipeline.sources.SOURCES
    split: str
    root: str  # where the raw files are
    out: str  # where frames/ and tokens/ go
    tokenizer: str  # a name or a tokenizer directory; `default`: dalle where it is found, else the embedded one
    tokenizer_dtype: TokenizerDtype = "float32"  # of its networks; in the set's identity
    tokenizer_compiled: bool = False  # by torch.compile; in the set's identity too
    # frames per pass through its network, in the identity too; null: 16 on CPUs, what fills the card on GPUs
    tokenizer_pass_frames: Batch | None = None
    token_set: PlainName | None = None  # below tokens/; null: the tokenizer's kind and views
    pool: PoolSpec
    views: ViewSpec
    seed: Seed
    sources_per_part: Batch  # at most
    min_parts: Batch = 8  # where there are so many sources: parts of a small set have fewer
    batch_frames: Batch  # frames per tokenizer call, rounded up to whole passes; changes no token
    decode_timeout_s: Seconds  # per source; what takes longer is rejected
    attempts: Attempts  # tries per source before it is rejected for a time-out or a crash


# ---- optimisation --------------------------------------------------------------------------------


class OptimConfig(Record):
    """AdamW with the original's parameter groups, linear warm-up and cosine decay per step."""

    lr: float = Field(gt=0.0, le=100.0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0, le=1.0)
    weight_decay: float = Field(ge=0.0, le=100.0)
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    backbone_lr_share: float = Field(default=1.0, gt=0.0, le=1.0)  # SSv2 fine-tuning: 0.1
    warmup_epochs: float = Field(ge=0.0, le=1e6)
    warmup_start: Share = 0.1  # share of lr at step 0; mmcv's default
    final_lr_share: Share = 0.0
    clip_grad_norm: float | None = Field(default=None, gt=0.0, le=1e6)
    param_groups: Literal["plain", "mmcv"] = "plain"  # which parameters decay, and at what rate: docs/decisions.md


class LoopConfig(Record):
    """How a run is executed. Nothing here but `seed`, `precision` and `epochs` may change its numbers.

    On a GPU the commands replace `micro_batches`, `processes` and `activation_checkpointing` by what fits its memory
    (trainer/memory.py).
    """

    epochs: Epochs  # of the longest-named stream: video where there is one
    max_steps: Steps | None = None  # stop early; the schedule still follows `epochs`
    seed: Seed
    precision: Precision
    micro_batches: Batch = 1  # gradient accumulation: parts that a rank's batch is cut into
    processes: Processes | None = None  # that `micro_batches` is for: on fewer it grows, on more it shrinks
    parallel: Literal["ddp", "fsdp"] = "ddp"  # every process holds the model, or a shard of it (FSDP2)
    num_workers: int | None = Field(
        default=None, ge=0, le=1024
    )  # loader processes per rank; null: a GPU's share of the CPUs
    checkpoint_every: Steps  # steps
    keep_checkpoints: Steps = 2  # the newest ones
    keep_every: Steps | None = None  # steps: checkpoints of its multiples are never removed
    log_every: Steps = 1  # steps: lines printed to a file are of its multiples; the JSON log has all
    peak_tflops: float | None = Field(
        default=None, gt=0.0, le=1e6
    )  # of a device, for the log's mfu; null: that of a known GPU
    wandb: str | None = None  # project of Weights & Biases that the log goes to as well
    picture_every: int = Field(
        default=0, ge=0, le=10**9
    )  # steps per picture of predictions or reconstructions; 0: none
    activation_checkpointing: bool = False
    compile: Literal["blocks"] | bool = False  # by torch.compile: each block of the encoders, or the whole model
    attention: Literal["auto", "triton", "sdpa", "math"] = "auto"  # of Swin's windows on a GPU; auto: the fastest
    deterministic: bool = False  # GPU: only kernels that give the same bits in every run; a CPU always does
    # consecutive steps without a finite gradient before the run stops
    max_bad_steps: int = Field(default=3, ge=0, le=10**6)
    # for a step, its hooks and checkpoint; then the rank ends. A process's first step has more: trainer/watchdog.py
    hang_timeout_s: Seconds | None = None

    @model_validator(mode="after")
    def _kept_checkpoints_exist(self) -> "LoopConfig":
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ValueError(
                f"keep_every {self.keep_every} must be a multiple of checkpoint_every {self.checkpoint_every}, "
                "or no checkpoint has such a step"
            )
        return self

    @model_validator(mode="after")
    def _shards_can_do_it(self) -> "LoopConfig":
        if self.parallel == "fsdp" and self.precision == "fp16":
            raise ValueError("parallel fsdp has no loss scale, which precision fp16 needs; use bf16, or parallel ddp")
        if self.parallel == "fsdp" and self.picture_every:
            raise ValueError(
                f"picture_every is {self.picture_every}: one process draws, but under parallel fsdp none has all "
                "weights; set picture_every=0, or parallel=ddp"
            )
        return self


# ---- training ------------------------------------------------------------------------------------


class OnlineTokens(Record):
    """Tokens that are computed in the training step, from fresh views, as the original does: no token set is needed."""

    frames: str  # directory of the frame store
    tokenizer: str  # a name or a tokenizer directory
    tokenizer_dtype: TokenizerDtype = "float32"  # of its networks, whatever loop.precision is
    tokenizer_compiled: bool = False  # by torch.compile
    tokenizer_pass_frames: Batch | None = None  # as in TokenizeRecipe
    views: ViewDistribution


class StreamConfig(Record):
    """One stream of pretraining: its tokens and how clips are drawn."""

    tokens: str | OnlineTokens  # directory of the token set, or how tokens are made in the step
    global_batch: Batch  # clips per optimizer step, all ranks together
    clip_frames: Frames  # pool frames per clip; the pool's stride is the interval
    loss_weight: Strength = 1.0  # lambda in L = L_MIM + lambda L_MVM is that of the video stream
    window_parts: Batch = 8  # samples are shuffled inside a window of so many parts
    mask: MaskConfig

    @model_validator(mode="after")
    def _a_step_is_of_some_size(self) -> "StreamConfig":
        check_frames_per_step(self.global_batch, self.clip_frames, "global_batch x clip_frames")
        return self


class ProbeConfig(Record):
    """How well simple classifiers do on the encoder's features while pretraining runs. Trains nothing of the model."""

    frames: str  # directory of a labelled frame store
    every: Steps
    kinds: tuple[Literal["knn", "linear"], ...] = Field(default=("knn", "linear"), min_length=1)
    crop_px: CropPixels  # centre crops
    short_side_px: Pixels
    val_share: float = Field(default=0.2, gt=0.0, lt=1.0)  # of every class, held out
    neighbours: Batch = 20  # of knn; DINO
    temperature: float = Field(default=0.07, gt=0.0, le=1e3)  # of knn; DINO


class PretrainRecipe(Record):
    """BEVT-I (image only), BEVT-V (video only) or joint: decided by the streams that are present."""

    kind: Literal["pretrain"]
    title: str
    init: str | None = None  # checkpoint: BEVT-I for the joint stage
    model: BevtConfig
    streams: dict[Stream, StreamConfig] = Field(min_length=1)
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)  # of the averaged weights that are stored at the end
    tokenizer: str | None = None  # that made the tokens, a name or a folder: it decodes them for pictures
    probe: ProbeConfig | None = None
    optim: OptimConfig
    loop: LoopConfig

    @model_validator(mode="after")
    def _pictures_can_be_drawn(self) -> "PretrainRecipe":
        if self.loop.picture_every and self.tokenizer is None:
            raise ValueError(
                f"loop.picture_every is {self.loop.picture_every}, but no tokenizer is named to decode tokens; "
                "set tokenizer, or loop.picture_every=0"
            )
        return self


class ClipSampling(Record):
    """Which frames of a video a clip takes: `dense` is the original's SampleFrames, `uniform` its frame_uniform."""

    kind: Literal["dense", "uniform"]
    frames: Frames
    interval: Frames  # in frames of the source; ignored by `uniform`

    @property
    def spacing(self) -> str:
        """In words: `every 2` or `uniform`."""
        return f"every {self.interval}" if self.kind == "dense" else "uniform"


class RandAugmentConfig(Record):
    """RandAugment with timm's operations."""

    num_ops: Attempts  # one after another
    magnitude: float = Field(ge=0.0, le=10.0)


class AugmentConfig(Record):
    """Training-time augmentation of fine-tuning, the same for all frames of a clip."""

    crop_px: CropPixels  # of testing as well
    area_share: tuple[Share, Share] = (0.08, 1.0)  # RandomResizedCrop
    aspect: tuple[Aspect, Aspect] = (0.75, 4 / 3)
    flip_share: Share
    rand_augment: RandAugmentConfig | None = None
    erase_share: Share = 0.0  # of clips: a random box is painted over

    @model_validator(mode="after")
    def _ranges_ascend(self) -> "AugmentConfig":
        if not 0 < self.area_share[0] <= self.area_share[1] <= 1:
            raise ValueError(f"area_share {self.area_share} must ascend within 0 to 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect {self.aspect} must ascend from above 0")
        return self


class MixConfig(Record):
    """Mixup and CutMix of pairs of clips and their classes, one draw per step (timm.data.Mixup, batch mode)."""

    mixup_alpha: float = Field(ge=0.0, le=1e3)  # of Beta(alpha, alpha), from which the share is drawn; 0: no Mixup
    cutmix_alpha: float = Field(ge=0.0, le=1e3)  # 0: no CutMix
    share: float = Field(default=1.0, gt=0.0, le=1.0)  # of the steps; timm's prob
    cutmix_share: Share = 0.5  # of these, where both are on; timm's switch_prob

    @model_validator(mode="after")
    def _something_is_mixed(self) -> "MixConfig":
        if self.mixup_alpha == 0 and self.cutmix_alpha == 0:
            raise ValueError("mixup_alpha and cutmix_alpha are both 0; set one of them, or mix=null")
        return self


class EvalViews(Record):
    """Multi-view testing: temporal clips x spatial crops, scores averaged."""

    clips: Attempts  # 1 with uniform sampling, which spans the whole video
    crops: Literal[1, 3]
    short_side_px: Pixels


class FinetuneRecipe(Record):
    """Supervised classification from a pretrained checkpoint or from scratch."""

    kind: Literal["finetune"]
    title: str
    dataset: str
    root: str
    init: str | None = None  # run directory or weights
    encoder: EncoderConfig
    head_dropout: float = Field(ge=0.0, lt=1.0)
    sampling: ClipSampling
    augment: AugmentConfig
    views: EvalViews  # of the final test; validation on the way takes one clip and its centre crop
    decode_timeout_s: Seconds = DECODE_TIMEOUT_S  # per clip of a file; then it cannot be read
    val_share: float = Field(default=0.2, gt=0.0, lt=1.0)  # held out per class where the data has no split of its own
    validate_every_epochs: Epochs
    global_batch: Batch
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    mix: MixConfig | None = None  # Mixup and CutMix; none in the paper
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)  # of the averaged weights that are tested and stored
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


class DvaeTraining(Record):
    """A discrete VAE (Ramesh et al. 2021)."""

    kind: Literal["dvae"]
    preset: str  # a key of bevt_core.tokenizers.dvae.DVAE_PRESETS
    temperature: tuple[Temperature, Temperature]  # Gumbel-softmax, first -> last (Ramesh et al. 2021: 1 -> 1/16)
    kl_weight: tuple[Strength, Strength]  # first -> last
    guide_weight: Strength  # at first; pulls towards the k-means codes of the start, then fades out
    recon: Literal["mse", "logit-laplace"]


class PerceptualConfig(Record):
    """A frozen network whose features of a frame and of its reconstruction should agree."""

    name: str  # timm's
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=64)  # of its blocks or stages, from 0
    weight: float = Field(gt=0.0, le=1e6)  # lambda of the perceptual loss
    weights: str | None  # a file; null takes them from timm's hub


class AdversarialConfig(Record):
    """A network that tells frames from reconstructions, trained against the decoder (PatchGAN, as VQGAN uses it)."""

    weight: float = Field(gt=0.0, le=1e6)  # of fooling it, against the pixel loss
    start: Share  # share of the run before which it learns, and nobody tries to fool it
    width: Width  # channels after its first convolution
    layers: Depth  # each halves the resolution


class PecoTraining(Record):
    """A VQ-VAE with a perceptual loss (Dong et al. 2021, PeCo)."""

    kind: Literal["peco"]
    preset: str  # a key of bevt_core.tokenizers.peco.PECO_PRESETS
    pixel: Literal["l1", "mse"]
    commitment_weight: Strength  # beta of the VQ-VAE
    ema_decay: float = Field(gt=0.0, lt=1.0)  # of the codebook, per step
    dead_share: float = Field(ge=0.0, lt=1.0)  # a code in less than this share of the average use starts again
    perceptual: PerceptualConfig | None
    adversarial: AdversarialConfig | None = None


class TokenizerRecipe(Record):
    """Training of a tokenizer on the frames of one or more frame stores."""

    kind: Literal["tokenizer"]
    title: str
    architecture: Annotated[DvaeTraining | PecoTraining, Field(discriminator="kind")]
    frames: tuple[str, ...] = Field(min_length=1)  # frame stores
    input_px: CropPixels = Field(multiple_of=8)  # of the tokenizer; the training crops have this size too
    global_batch: Batch
    samples_per_epoch: Steps  # random crops drawn in one epoch
    optim: OptimConfig
    loop: LoopConfig
