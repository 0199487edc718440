"""The commands of `bevt tokenizer`, except training. Heavy imports are inside the functions."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit
from bevt_core.storage.objects import as_path
from schemas.errors import UserError


def tokenizer_info(
    name: Annotated[str, typer.Argument(help="A tokenizer's name or directory.")],
    frames: Annotated[str | None, typer.Option(help="Frame store to measure the reconstruction on.")] = None,
    max_frames: Annotated[
        int, typer.Option(min=1, help="Largest number of frames, evenly spread over the store.")
    ] = 1024,
    json_: AsJson = False,
) -> None:
    """Show what a tokenizer is and how well it reconstructs stored frames.

    With --frames: PSNR, SSIM, and the share of the codebook in use.

    \b
    Example:
      bevt tokenizer info dvae-small --frames datasets/imagenet/frames
    """
    from bevt_core.tokenizers.inspection import tokenizer_info as run

    emit(run(name, None if frames is None else as_path(frames), max_frames), json_)


def compare_tokenizers(
    a: Annotated[str, typer.Argument(help="A tokenizer's name or directory.")],
    b: Annotated[str, typer.Argument(help="Name or directory of the second one; may be the same.")],
    frames: Annotated[str, typer.Option(help="Frame store to compare them on.")],
    others: Annotated[list[str] | None, typer.Argument(help="Names or directories of more tokenizers.")] = None,
    max_frames: Annotated[
        int, typer.Option(min=1, help="Largest number of frames, evenly spread over the store.")
    ] = 128,
    json_: AsJson = False,
) -> None:
    """Compare tokenizers: equal ids, quality, speed and what changes ids.

    Ids are also compared after a change of dtype, JPEG quality or resampling filter, and from one stored frame to the
    next where nothing moves. More than two are shown in a table; --json has all figures.

    \b
    Examples:
      bevt tokenizer compare dalle dvae-small --frames datasets/imagenet/frames --json
      bevt tokenizer compare dalle vqkd ibq-8192 ibq-16384 --frames datasets/imagenet/frames
    """
    from bevt_core.tokenizers.inspection import compare_tokenizers as run
    from bevt_core.tokenizers.inspection import comparison_table

    compared = run([a, b, *(others or [])], as_path(frames), max_frames)
    emit(compared if json_ else comparison_table(compared), json_)


def convert_tokenizer(
    encoder: Annotated[Path, typer.Argument(help="The published checkpoint; for dalle, the official encoder.pkl.")],
    decoder: Annotated[
        Path | None, typer.Argument(help="For dalle, the official decoder.pkl, to decode ids to frames.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to create, with the weights and tokenizer.json.")] = ...,  # type: ignore[assignment]
    kind: Annotated[str, typer.Option(help="Kind of tokenizer, such as vqkd or ibq, also a plug-in's.")] = "dalle",
    input_px: Annotated[
        int | None, typer.Option(min=1, help="Side of the frames to encode (default: the kind's; 224 px or 112 px).")
    ] = None,
    expected_sha256: Annotated[str | None, typer.Option(help="Expected SHA-256 of the (first) file.")] = None,
    json_: AsJson = False,
) -> None:
    """Convert published weights to safetensors.

    No code in the file is run, and every tensor must be known to the kind.

    \b
    Examples:
      bevt tokenizer convert encoder.pkl decoder.pkl --out tokenizers/dalle
      bevt tokenizer convert last.ckpt --kind vqgan --out tokenizers/vqgan
    """
    from bevt_core.tokenizers.published.convert import convert_checkpoint
    from bevt_core.tokenizers.published.dalle import convert_pickles

    if kind == "dalle":
        if input_px is not None:
            raise UserError("`--input-px` is for other kinds; a dalle tokenizer encodes frames of 112 px")
        stored = convert_pickles(encoder, decoder, out, expected_sha256)
    elif decoder is not None:
        raise UserError(f"{decoder}: kind {kind!r} has one file; give only the first")
    else:
        stored = convert_checkpoint(kind, encoder, out, input_px=input_px, expected_sha256=expected_sha256)
    emit(stored.model_dump(mode="json"), json_)


def fetch_tokenizer(
    name: Annotated[
        str,
        typer.Argument(
            help="dalle, vqkd, vqgan-1024, vqgan-16384, llamagen-vq16, ibq-8192, ibq-16384 or magvit2-16384."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to create (default: NAME in $BEVT_TOKENIZERS).")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit of the repository on the Hugging Face hub, for files there.")
    ] = None,
    mirror: Annotated[str | None, typer.Option(help="Another URL that serves the file or files.")] = None,
    expected_sha256: Annotated[str | None, typer.Option(help="Expected SHA-256 of the (first) file.")] = None,
    json_: AsJson = False,
) -> None:
    """Download a published tokenizer and convert it.

    An interrupted download continues where it stopped.

    \b
    Examples:
      bevt tokenizer fetch dalle
      bevt tokenizer fetch ibq-16384 --revision COMMIT
    """
    from bevt_core.tokenizers import tokenizer_cache
    from bevt_core.tokenizers.published.fetch import DALLE_URL, fetch_dalle, fetch_published

    target = out or tokenizer_cache() / name
    if name == "dalle":
        if revision is not None:
            raise UserError("`--revision` is for files on the Hugging Face hub; dalle's are not there")
        stored = fetch_dalle(target, base_url=mirror or DALLE_URL, expected_sha256=expected_sha256)
    else:
        stored = fetch_published(name, target, revision=revision, mirror=mirror, expected_sha256=expected_sha256)
    emit({"tokenizer": str(target), **stored.model_dump(mode="json")}, json_)
