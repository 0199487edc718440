"""The joint step with stored tokens: attention x activation checkpointing x micro-batch (`bevt bench step`)."""

import torch
from common import ATTENTIONS, attempt, step
from step_sizes import sizes_of

from bevt_core.models.window_attention import triton_op
from trainer.bench.step import bench_train_step

HEAD_DIM = 32  # of Swin-B


def main() -> None:
    with step("joint_step") as (options, result):
        attentions = ATTENTIONS if options.device.type == "cuda" else ("auto",)
        for clips, images in [(1, 2)] if options.tiny else [(8, 64), (16, 128)]:
            for attention in attentions:
                for checkpointing in (False, True):
                    row = {"attention": attention, "activation_checkpointing": checkpointing, "clips": clips}
                    if attention == "triton" and not triton_op.supported(options.device, torch.bfloat16, HEAD_DIM):
                        result.add(row | {"skipped": "no Triton kernel for bf16 on this device"})
                        continue
                    choice = {"attention": attention, "activation_checkpointing": checkpointing}
                    sizes = sizes_of(options, clips, images)
                    result.add(attempt(row, lambda c=choice, s=sizes: bench_train_step(**s, **c)))


if __name__ == "__main__":
    main()
