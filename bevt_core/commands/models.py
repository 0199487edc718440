"""`bevt model` and `bevt bench`. Heavy imports are inside the functions, so that `--help` stays fast."""

from typing import Annotated, Literal

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit, show


def list_models(json_: AsJson = False) -> None:
    """List the pretrained models in the package.

    Their names can replace a run or its weights in --init and in commands such as `bevt probe`.

    \b
    Example:
      bevt model list
    """
    from bevt_core.weights.packaged import describe_packaged, packaged_names

    models = [describe_packaged(name) for name in packaged_names()]
    if json_:
        emit({"models": models}, json_)
        return
    width = max((len(model["name"]) for model in models), default=0)
    rows = [
        f"{model['name']:{width}}  {model['parameters'] / 1e6:.1f} M parameters, {model['bytes'] / 1e6:.1f} MB, "
        f"{model['frames']} frames of {model['crop_px']} px, trained on {model['trained_on']}"
        for model in models
    ]
    show("\n".join(rows or ["no models in the package"]))


def info(
    name: Annotated[
        str,
        typer.Argument(
            help="A packaged model (`bevt model list`), hf://ORG/NAME@REVISION, or a Video Swin size: nano, tiny, "
            "small, base, large."
        ),
    ],
    num_classes: Annotated[
        int, typer.Option(min=1, help="Sizes: number of classes, 400 for Kinetics-400, 174 for Something-Something V2.")
    ] = 400,
    json_: AsJson = False,
) -> None:
    """Show a packaged model's origin, or a classifier's parameters and multiply-adds.

    The sizes' counts are for 16 and 32 frames and for both of the paper's windows.

    \b
    Examples:
      bevt model info bevt-nano
      bevt model info base
    """
    from bevt_core.weights.packaged import describe_on_hub, describe_packaged, packaged_names
    from schemas.text.hub_name import hub_name

    on_hub = hub_name(name)
    if on_hub is not None or name in packaged_names():  # without torch
        emit(describe_packaged(name) if on_hub is None else describe_on_hub(on_hub), json_)
        return

    from functools import partial

    from bevt_core.models.build import SWIN_SIZES, build_classifier, check_size
    from bevt_core.models.counting import model_info

    check_size(name, (*SWIN_SIZES, *packaged_names()), "model")
    size_px = 64 if name == "nano" else 224
    rows = {}
    for window in ((8, 7, 7), (16, 7, 7)):
        for frames in (16, 32):
            sizes = {**SWIN_SIZES[name], "window": window, "num_classes": num_classes}
            build = partial(build_classifier, **sizes)
            rows[f"window {window} frames {frames}"] = model_info(build, frames=frames, size_px=size_px)
    emit(rows, json_)
    if not json_:
        show(
            f"parameters: with a head for {num_classes} classes; "
            "paper_flops: multiply-adds of one clip, as the paper counts"
        )


def bench_encoder(
    size: Annotated[str, typer.Option(help="Video Swin size: tiny, small or base.")] = "tiny",
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each, alternating; medians are reported.")] = 5,
    json_: AsJson = False,
) -> None:
    """Measure Video Swin against torchvision's, forward and backward.

    Both use the same weights and inputs.

    \b
    Example:
      bevt bench encoder --json
    """
    from bevt_core.bench.models import bench_encoder as run

    emit(run(size=size, repeats=repeats), json_)


def bench_attention(
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="Device to measure on.")] = "cuda",
    size: Annotated[str, typer.Option(help="Video Swin size: nano, tiny, small, base or large.")] = "base",
    dtype: Annotated[
        Literal["fp32", "fp16", "bf16"], typer.Option(help="Precision of queries, keys and values.")
    ] = "bf16",
    clips: Annotated[int, typer.Option(min=1, help="Clips of 16 frames per batch.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each; medians are reported.")] = 10,
    json_: AsJson = False,
) -> None:
    """Measure every window attention implementation at a Swin's shapes.

    Reports milliseconds, peak memory, relative errors against float64, and whether two runs are bit-identical. On a
    GPU: math, torchvision's formula, sdpa, triton, flex_attention. If an implementation fails, its error is reported.

    \b
    Example:
      bevt bench attention --device cuda --json
    """
    from bevt_core.bench.attention import bench_attention as run

    result = run(size=size, clips=clips, images=images, device=device, dtype=dtype, repeats=repeats)
    emit(result if json_ else {"device": result["device"], "totals_ms": result["totals_ms"]}, json_)
