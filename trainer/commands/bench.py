"""The benchmark of a training step, as a command. Heavy imports are inside it."""

from typing import Annotated, Any, Literal

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit
from schemas.errors import UserError


def bench_step(
    size: Annotated[str, typer.Option(help="nano, tiny, small, base or large.")] = "tiny",
    clips: Annotated[int, typer.Option(help="Clips in a step.")] = 1,
    images: Annotated[int, typer.Option(help="Images in a step; the original has 8 to a clip.")] = 8,
    repeats: Annotated[int, typer.Option(help="Timed steps; medians are reported.")] = 5,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="cpu: compare with the original's step. cuda: measure ours.")
    ] = "cpu",
    precision: Annotated[Literal["fp32", "bf16", "fp16"], typer.Option(help="cuda: of matrix products.")] = "bf16",
    attention: Annotated[
        Literal["auto", "triton", "sdpa", "math"], typer.Option(help="cuda: implementation of window attention.")
    ] = "auto",
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="cuda: run blocks again in the backward pass.")
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="cuda: compile each block (loop.compile=blocks).")
    ] = False,
    json_: AsJson = False,
) -> None:
    """A joint step with stored tokens: against one with the tokenizer in it (cpu), or part by part (cuda).

    On a GPU: milliseconds of forward, backward and optimizer by CUDA events, MFU, peak memory, and how often the host
    waited for the GPU inside a step.

    \b
    Examples:
      bevt bench step --size tiny --json
      bevt bench step --device cuda --size base --clips 16 --images 128
    """
    if device == "cpu":
        _refuse_gpu_options(attention=attention != "auto", activation_checkpointing=activation_checkpointing)
        _refuse_gpu_options(compile=compile_, precision=precision != "bf16")
        from bevt_core.bench.models import bench_step as compare

        emit(compare(size=size, clips=clips, images=images, repeats=repeats), json_)
        return
    from trainer.bench.step import bench_train_step

    measured: dict[str, Any] = bench_train_step(
        size=size,
        clips=clips,
        images=images,
        size_px=64 if size == "nano" else 224,
        device=device,
        precision=precision,
        attention=attention,
        activation_checkpointing=activation_checkpointing,
        compile_blocks=compile_,
        repeats=repeats,
    )
    emit(measured, json_)


def _refuse_gpu_options(**given: bool) -> None:
    for name, is_given in given.items():
        if is_given:
            raise UserError(f"--{name.replace('_', '-')} is for --device cuda; the comparison on a CPU runs in fp32")
