"""The commands about tokenizers, weights and models by themselves. Heavy imports are inside them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit
from schemas.errors import UserError


def info(
    name: Annotated[str, typer.Argument(help="A Video Swin size: nano, tiny, small, base or large.")],
    num_classes: Annotated[int, typer.Option(help="400 for Kinetics-400, 174 for Something-Something V2.")] = 400,
    json_: AsJson = False,
) -> None:
    """Show parameters and multiply-adds of the classifier for 16 and 32 frames and both of the paper's windows.

    \b
    Example:
      bevt model info base
    """
    from functools import partial

    from bevt_core.models.build import SWIN_SIZES, build_classifier
    from bevt_core.models.counting import model_info

    if name not in SWIN_SIZES:
        raise UserError(f"model {name!r}: expected one of {', '.join(SWIN_SIZES)}")
    size_px = 64 if name == "nano" else 224
    rows = {}
    for window in ((8, 7, 7), (16, 7, 7)):
        for frames in (16, 32):
            sizes = {**SWIN_SIZES[name], "window": window, "num_classes": num_classes}
            build = partial(build_classifier, **sizes)
            rows[f"window {window} frames {frames}"] = model_info(build, frames=frames, size_px=size_px)
    emit(rows, json_)


def tokenizer_info(
    name: Annotated[str, typer.Argument(help="A tokenizer's name or directory.")],
    frames: Annotated[Path | None, typer.Option(help="A frame store: what the tokenizer keeps of its frames.")] = None,
    max_frames: Annotated[int, typer.Option(min=1, help="Looked at, evenly spread over the store.")] = 1024,
    json_: AsJson = False,
) -> None:
    """Show what a tokenizer is; with frames also PSNR, SSIM and how much of the codebook they use.

    \b
    Example:
      bevt tokenizer info dvae-small --frames datasets/imagenet/frames
    """
    from bevt_core.tokenizers.inspection import tokenizer_info as run

    emit(run(name, frames, max_frames), json_)


def compare_tokenizers(
    a: Annotated[str, typer.Argument(help="A tokenizer's name or directory.")],
    b: Annotated[str, typer.Argument(help="Another one's, or the same.")],
    frames: Annotated[Path, typer.Option(help="The frame store to compare them on.")],
    max_frames: Annotated[int, typer.Option(min=1, help="Looked at, evenly spread over the store.")] = 128,
    json_: AsJson = False,
) -> None:
    """Compare two tokenizers: equal ids, quality, speed, and what changes ids: dtype, JPEG quality, another filter.

    \b
    Example:
      bevt tokenizer compare dalle dvae-small --frames datasets/imagenet/frames --json
    """
    from bevt_core.tokenizers.inspection import compare_tokenizers as run

    emit(run(a, b, frames, max_frames), json_)


def convert_tokenizer(
    encoder: Annotated[Path, typer.Argument(help="The official encoder.pkl.")],
    decoder: Annotated[Path | None, typer.Argument(help="The official decoder.pkl, for pictures.")] = None,
    out: Annotated[Path, typer.Option(help="Gets encoder.safetensors, decoder.safetensors, tokenizer.json.")] = ...,  # type: ignore[assignment]
    expected_sha256: Annotated[str | None, typer.Option(help="Refuse an encoder.pkl of another digest.")] = None,
    json_: AsJson = False,
) -> None:
    """Turn the published DALL-E pickles into safetensors, once; nothing but the seven known classes is loaded.

    \b
    Example:
      bevt tokenizer convert encoder.pkl decoder.pkl --out tokenizers/dalle
    """
    from bevt_core.tokenizers.published.convert import convert_pickles

    emit(convert_pickles(encoder, decoder, out, expected_sha256).model_dump(mode="json"), json_)


def fetch_tokenizer(
    name: Annotated[str, typer.Argument(help="dalle.")],
    out: Annotated[Path | None, typer.Option(help="Default: where it is found by its name.")] = None,
    mirror: Annotated[str | None, typer.Option(help="Another address that serves encoder.pkl and decoder.pkl.")] = None,
    expected_sha256: Annotated[str | None, typer.Option(help="Refuse an encoder.pkl of another digest.")] = None,
    json_: AsJson = False,
) -> None:
    """Download the published DALL-E tokenizer and convert it; a broken download goes on where it stopped.

    \b
    Example:
      bevt tokenizer fetch dalle
    """
    from bevt_core.tokenizers import tokenizer_cache
    from bevt_core.tokenizers.published.fetch import DALLE_URL, fetch_dalle

    if name != "dalle":
        raise UserError(f"tokenizer {name!r}: only 'dalle' is published; train one with `bevt tokenizer train`")
    target = out or tokenizer_cache() / "dalle"
    stored = fetch_dalle(target, base_url=mirror or DALLE_URL, expected_sha256=expected_sha256)
    emit({"tokenizer": str(target), **stored.model_dump(mode="json")}, json_)


def bench_encoder(
    size: Annotated[str, typer.Option(help="tiny, small or base.")] = "tiny",
    repeats: Annotated[int, typer.Option(help="Of each, alternating; medians are reported.")] = 5,
    json_: AsJson = False,
) -> None:
    """Video Swin forward and backward against torchvision's, same weights and inputs.

    \b
    Example:
      bevt bench encoder --json
    """
    from bevt_core.bench.models import bench_encoder as run

    emit(run(size=size, repeats=repeats), json_)


def bench_attention(
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="Where it runs.")] = "cuda",
    size: Annotated[str, typer.Option(help="nano, tiny, small, base or large.")] = "base",
    dtype: Annotated[Literal["fp32", "fp16", "bf16"], typer.Option(help="Of queries, keys and values.")] = "bf16",
    clips: Annotated[int, typer.Option(help="Clips of 16 frames in a batch.")] = 8,
    images: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed runs of each; medians are reported.")] = 10,
    json_: AsJson = False,
) -> None:
    """Window attention of every implementation at all shapes of a Swin, forward and backward.

    Milliseconds, peak memory, relative errors against float64, and whether two runs give the same bits. On a GPU: math,
    torchvision's formula, sdpa, triton, flex_attention. What an implementation fails with is reported in its place.

    \b
    Example:
      bevt bench attention --device cuda --json
    """
    from bevt_core.bench.attention import bench_attention as run

    result = run(size=size, clips=clips, images=images, device=device, dtype=dtype, repeats=repeats)
    emit(result if json_ else {"device": result["device"], "totals_ms": result["totals_ms"]}, json_)
