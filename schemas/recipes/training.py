"""What every training recipe has: the optimizer and the loop, which numbers it decides and how it is executed."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.ranges import Batch, Epochs, Processes, Seconds, Seed, Share, Steps

Precision = Literal["fp32", "bf16", "fp16"]  # of matrix products under autocast; weights stay in fp32

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]  # of a running mean


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


class Numerics(Record):
    """What of the loop decides the numbers of a run."""

    epochs: Epochs  # of the longest-named stream: video where there is one
    seed: Seed
    precision: Precision


class Execution(Record):
    """How the loop is executed: what may differ between a checkpoint and the run that resumes it.

    These fields change no number of a run but its rounding, and what drop path and dropout draw. On a GPU the commands
    replace `micro_batches`, `processes` and `activation_checkpointing` by what fits its memory
    (trainer/setup/memory.py).
    """

    max_steps: Steps | None = None  # stop early; the schedule still follows `epochs`
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
    # for a step, its hooks and checkpoint; then the rank ends. A first step has more: trainer/distributed/watchdog.py
    hang_timeout_s: Seconds | None = None


class LoopConfig(Execution, Numerics):  # in this order of bases the fields of Numerics are written first
    """The training loop of a recipe."""

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
