"""Frames are turned and mirrored by the display matrix as FFmpeg's autorotate does it, whoever reads them."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bevt_core.media.decoding import decode_frames
from bevt_core.views.replay import decode_jpeg
from pipeline.job.decode_part import load_source
from schemas.frames import PoolSpec, SourceItem, VideoDecoder
from tests.support.coded_clips import CODECS, CONTAINERS, coded_frames, decode_in_order, set_display_matrix
from tests.support.media import write_video
from trainer.clips.sources import FileClips

# (a, b, c, d): the stored pixel (x, y) is shown at (a x + c y, b x + d y). With each, what that makes of HWC pixels.
MATRICES = {
    "identity": ((1, 0, 0, 1), lambda frame: frame),
    "clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "half turn": ((-1, 0, 0, -1), lambda frame: np.rot90(frame, 2)),
    "anticlockwise": ((0, -1, 1, 0), lambda frame: np.rot90(frame)),
    "left to right": ((-1, 0, 0, 1), np.fliplr),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transpose": ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    "antitranspose": ((0, -1, -1, 0), lambda frame: np.rot90(frame, 2).transpose(1, 0, 2)),
}
AUTOROTATE = {  # the filters that ffmpeg's own command line inserts
    "identity": ("null", ""),
    "clockwise": ("transpose", "clock"),
    "half turn": ("rotate", "PI"),
    "anticlockwise": ("transpose", "cclock"),
    "left to right": ("hflip", ""),
    "upside down": ("vflip", ""),
    "transpose": ("transpose", "cclock_flip"),
    "antitranspose": ("transpose", "clock_flip"),
}


def turned_clip(folder: Path, codec: str, suffix: str, matrix: tuple[int, int, int, int]) -> Path:
    encoder, options, _ = CODECS[codec]
    path = folder / f"clip.{suffix}"
    frames = coded_frames(9, 48, 64)
    write_video(path, frames, codec=encoder, options=options(0), container_format=CONTAINERS[suffix])
    return set_display_matrix(path, matrix)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(("codec", "suffix"), [("h264", "mp4"), ("hevc", "mov"), ("vp9", "mp4")])
def test_all_eight_matrices(codec: str, suffix: str, name: str, tmp_path: Path) -> None:
    matrix, shown = MATRICES[name]
    path = turned_clip(tmp_path, codec, suffix, matrix)
    stored = [frame_HWC for _, frame_HWC in decode_in_order(path)]  # PyAV does not turn them
    preferred: VideoDecoder = "decord" if codec == "vp9" else "pyav"
    decoded = decode_frames(path, lambda num_frames: [0, 5], lambda frame: frame, decoder=preferred)
    for index, frame_HWC in zip((0, 5), decoded.frames, strict=True):
        np.testing.assert_array_equal(frame_HWC, shown(stored[index]))
    if codec == "vp9":
        assert decoded.decoder == ("decord" if name == "identity" else "pyav")


@pytest.mark.parametrize("name", MATRICES)
def test_the_matrices_are_what_ffmpegs_filters_show(name: str) -> None:
    frame_HWC = coded_frames(6, 48, 64)[5]
    graph = av.filter.Graph()
    frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
    source = graph.add_buffer(width=64, height=48, format=frame.format, time_base=Fraction(1, 25))
    filter_name, arguments = AUTOROTATE[name]
    steps = [source, graph.add(filter_name, arguments or None), graph.add("buffersink")]
    for one, other in itertools.pairwise(steps):
        one.link_to(other)
    graph.configure()
    graph.push(frame)
    np.testing.assert_array_equal(graph.pull().to_ndarray(format="rgb24"), MATRICES[name][1](frame_HWC))


@pytest.mark.parametrize("name", ["left to right", "transpose"])
def test_training_and_the_pipeline_see_the_same(name: str, tmp_path: Path) -> None:
    matrix, shown = MATRICES[name]
    path = turned_clip(tmp_path, "h264", "mp4", matrix)
    expected_HWC = shown(decode_in_order(path)[5][1])
    item = SourceItem(source=path.name, kind="video", label=0)
    (read_HWC,) = FileClips(tmp_path, (item,), ("x",)).read(0, lambda num_frames: np.array([5]))
    np.testing.assert_array_equal(read_HWC, expected_HWC)
    (sample,) = load_source(tmp_path, item, PoolSpec(stride=5, phase="zero", short_side_px=48), seed=0)
    stored_HWC = decode_jpeg(sample.jpegs[1]).astype(np.int16)
    assert (sample.height, sample.width) == expected_HWC.shape[:2]
    assert np.abs(stored_HWC - expected_HWC).mean() < 8
