"""Memory to write and to tokenize parts of several sizes: `python -m benchmarks.part_memory [--sources 4 16 64]`.

A source has the frames of an average video of HowTo100M: 1,460, in 6 samples. Pictures are tiny, padded to the size of
real JPEG files, and ids are random, so only memory is like that of a real job. Each figure is the peak of one
process, above the memory of the imports.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.scale import peak_mb, reset_peak
from bevt_core.dataset.frame_store import FrameSample, read_frame_commit, write_frame_part
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.views.replay import encode_jpeg
from pipeline.job.tokenize_part import PartTokenizer
from schemas.frames import FramePartCommit, Plan, PoolSpec
from schemas.tokens import TokenPlan
from schemas.views import ViewSpec

SAMPLES, FRAMES = 6, 243  # of a source, and of a sample
JPEG_BYTES = 20_000
SIDE_PX, CROP_PX, INPUT_PX, STRIDE_PX = 64, 56, 28, 2  # 14 x 14 tokens, as DALL-E has at 112 px


class NoTokenizer(Tokenizer):
    """Gives every frame random ids, which take the most room."""

    def __init__(self) -> None:
        super().__init__(
            name="none",
            vocab_size=8192,
            input_px=INPUT_PX,
            stride=STRIDE_PX,
            weights_sha256="0" * 64,
            device=torch.device("cpu"),
            dtype="float32",
            pass_frames=16,
        )

    def _encode_pass(self, unit_NCHW: Tensor) -> Tensor:
        return torch.randint(0, 8192, (len(unit_NCHW), 14, 14))

    def _decode_pass(self, ids_Nhw: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def _encoder_network(self) -> nn.Module:
        raise NotImplementedError


def samples_of(sources: int) -> Iterator[FrameSample]:
    rng = np.random.default_rng(0)
    jpeg = encode_jpeg(np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8), 90)
    comment_bytes = JPEG_BYTES - len(jpeg) - 4
    head, tail = jpeg[:2] + b"\xff\xfe" + (comment_bytes + 2).to_bytes(2, "big"), jpeg[2:]
    for source in range(sources):
        for piece in range(SAMPLES):
            yield FrameSample(
                source=f"videos/{source:011d}.mp4",
                label=None,
                jpegs=[head + rng.bytes(comment_bytes) + tail for _ in range(FRAMES)],
                frame_indices=list(range(0, 8 * FRAMES, 8)),
                times_s=[frame / 30 for frame in range(0, 8 * FRAMES, 8)],
                height=SIDE_PX,
                width=SIDE_PX,
                decoder="pyav",
                decoder_version="0",
                warnings=[],
                piece=piece,
            )


def plan_of(sources: int) -> Plan:
    return Plan(
        dataset="howto100m",
        split="train",
        classes=(),
        pool=PoolSpec(long="cut", short_side_px=SIDE_PX),
        seed=0,
        sources_per_part=sources,
        num_sources=sources,
        sources_digest="0" * 64,
    )


def write(work: Path, sources: int) -> FramePartCommit:
    return write_frame_part(work / f"frames-{sources}", 0, samples_of(sources), [], plan_of(sources))


def tokenize(work: Path, sources: int) -> None:
    plan, tokenizer = plan_of(sources), NoTokenizer()
    commit = read_frame_commit(work / f"frames-{sources}", 0, plan.digest())
    assert commit is not None
    views = ViewSpec(
        num_views=8,
        crop_px=CROP_PX,
        short_side_min_px=SIDE_PX,
        short_side_max_px=SIDE_PX + 16,
        flip_share=0.5,
        jitter=0.0,
    )
    token_plan = TokenPlan(name="none", tokenizer=tokenizer.identity(), views=views, frames_plan=plan.digest())
    part_tokenizer = PartTokenizer(tokenizer, batch_frames=256, threads=2)
    part_tokenizer.make_token_part(work / f"frames-{sources}", work / f"tokens-{sources}", commit, token_plan)


STAGES = {"write": write, "tokenize": tokenize}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--child", nargs=3, metavar=("STAGE", "SOURCES", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        stage, sources, folder = options.child
        print(rise_mb(stage, int(sources), Path(folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for sources in (1, *options.sources):
            part_mb = sources * SAMPLES * FRAMES * JPEG_BYTES / 1e6
            for stage in dict.fromkeys(["write", *options.only]):
                command = [sys.executable, "-m", "benchmarks.part_memory", "--child", stage, str(sources), folder]
                peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                print(f"{sources} sources, {part_mb:.0f} MB of JPEG: {stage} {float(peak):.0f} MB", flush=True)


def rise_mb(stage: str, sources: int, work: Path) -> float:
    """The peak of memory in MB above what the imports take."""
    before = reset_peak()
    STAGES[stage](work, sources)
    return peak_mb() - before


if __name__ == "__main__":
    main()
