"""Sections of every training recipe: the optimizer and the loop (its numerics and its execution)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from schemas.base import Record
from schemas.ranges import Batch, Epochs, Processes, Seconds, Seed, Share, Steps
from schemas.text.hub_name import hub_name

Precision = Literal["fp32", "bf16", "fp16"]  # of matrix products under autocast; weights are in fp32

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]  # of a moving average


class OptimConfig(Record):
    """AdamW with linear warm-up and cosine decay, updated every step."""

    lr: float = Field(gt=0.0, le=100.0)  # after warm-up; not scaled by the batch size
    betas: tuple[Decay, Decay] = (0.9, 0.999)  # AdamW's
    eps: float = Field(default=1e-8, gt=0.0, le=1.0)  # AdamW's
    weight_decay: float = Field(ge=0.0, le=100.0)  # AdamW's
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)  # factor on lr per layer below the head; 1: none
    backbone_lr_share: float = Field(default=1.0, gt=0.0, le=1.0)  # factor on lr in the backbone; 0.1 for SSv2
    warmup_epochs: float = Field(ge=0.0, le=1e6)  # of linear warm-up
    warmup_start: Share = 0.1  # share of lr at step 0; mmcv's default
    final_lr_share: Share = 0.0  # share of lr at the end of the cosine
    clip_grad_norm: float | None = Field(default=None, gt=0.0, le=1e6)  # maximum norm of the gradient; null: no limit
    param_groups: Literal["plain", "mmcv"] = "plain"  # GROUP_RULES in trainer/engine/optim.py; ADR 53


def _checked_init(init: str) -> str:
    hub_name(init)
    return init


Init = Annotated[
    str, AfterValidator(_checked_init)
]  # weights to start from; hf://ORG/NAME@REVISION must be well formed


class Numerics(Record):
    """Loop settings that determine the numbers of a run."""

    epochs: Epochs  # of the video stream if there is one, else of the image stream
    seed: Seed  # of new weights, clips, masks and augmentation
    precision: Precision  # of matrix products; weights and sums stay in fp32


class Execution(Record):
    """Loop settings that may differ between a checkpoint and the run that resumes it.

    They do not change the numbers of a run, apart from rounding and the random draws of drop path and dropout. On a GPU
    the commands replace `micro_batches`, `processes` and `activation_checkpointing` by values that fit its memory
    (trainer/setup/memory.py).
    """

    max_steps: Steps | None = None  # stop early; the schedule still follows `epochs`
    micro_batches: Batch = 1  # gradient accumulation: micro-batches per batch of a rank
    processes: Processes | None = None  # that `micro_batches` is meant for; fewer processes use more, more use fewer
    parallel: Literal["ddp", "fsdp"] = "ddp"  # each process has the whole model, or a shard of it (FSDP2)
    # loader processes per rank; null: on a GPU the CPUs per rank less one, at most 12; else 0
    num_workers: int | None = Field(default=None, ge=0, le=1024)
    checkpoint_every: Steps  # steps
    keep_checkpoints: Steps = 2  # number of newest checkpoints to keep
    keep_every: Steps | None = None  # steps; checkpoints at multiples of it are never removed
    log_every: Steps = 1  # steps between lines if output goes to a file; the JSON log has every step
    # of a device, for `mfu` in the log; null: the value of a known GPU
    peak_tflops: float | None = Field(default=None, gt=0.0, le=1e6)
    wandb: str | None = None  # Weights & Biases project that also receives the log
    # steps per picture of predictions or reconstructions; 0: none
    picture_every: int = Field(default=0, ge=0, le=10**9)
    activation_checkpointing: bool = False  # compute activations again in the backward pass, to save memory
    compile: Literal["blocks"] | bool = False  # torch.compile of each encoder block, or (true) the whole model
    attention: Literal["auto", "triton", "sdpa", "math"] = "auto"  # window attention on a GPU; auto: the fastest
    deterministic: bool = False  # on a GPU: only kernels with reproducible bits; a CPU's always are
    # consecutive steps without a finite gradient that are tolerated; one more stops the run
    max_bad_steps: int = Field(default=3, ge=0, le=10**6)
    # limit for a step with its hooks and checkpoint, after which the rank ends; null: none. The first step gets more
    # time, see trainer/distributed/watchdog.py
    hang_timeout_s: Seconds | None = None


class LoopConfig(Execution, Numerics):  # this order of bases writes the fields of Numerics first
    """The training loop of a recipe."""

    @model_validator(mode="after")
    def _kept_checkpoints_exist(self) -> "LoopConfig":
        if self.keep_every is not None and self.keep_every % self.checkpoint_every:
            raise ValueError(
                f"keep_every {self.keep_every} must be a multiple of checkpoint_every {self.checkpoint_every}, "
                "since checkpoints are written only at those steps"
            )
        return self

    @model_validator(mode="after")
    def _fsdp_supports_settings(self) -> "LoopConfig":
        if self.parallel == "fsdp" and self.precision == "fp16":
            raise ValueError("parallel fsdp has no loss scale, which precision fp16 needs; use bf16, or parallel ddp")
        if self.parallel == "fsdp" and self.picture_every:
            raise ValueError(
                f"picture_every is {self.picture_every}, but under parallel fsdp no process has all weights to draw "
                "pictures with; set picture_every=0, or parallel=ddp"
            )
        return self
