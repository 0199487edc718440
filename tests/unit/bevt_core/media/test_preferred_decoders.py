"""A decoder that a recipe prefers gives PyAV's frames, or PyAV reads the file and the reason is recorded."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bevt_core.media.decoding import decode_frames
from bevt_core.media.video.decoded import Decoded
from bevt_core.media.video.decoders import PREFERRED, check_decoder
from schemas.errors import UserError
from schemas.frames import DamagePolicy, VideoDecoder
from tests.support.coded_clips import coded_frames, set_display_matrix
from tests.support.media import decode_all, moving_frames, usable_decoders, write_video

B_FRAMES = {"g": "6", "bf": "2", "b_strategy": "0", "sc_threshold": "0"}  # in every group of pictures
VFR = [0, 1, 4, 5, 9, 10, 11, 17, 18, 20, 21, 22]


def decode(path: Path, decoder: VideoDecoder, damaged: DamagePolicy = "unchecked") -> Decoded[np.ndarray]:
    return decode_frames(path, lambda count: range(0, count, 3), lambda frame: frame.copy(), damaged, decoder)


def clips(folder: Path) -> dict[str, Path]:
    """By what is special about them."""
    frames = moving_frames(12)
    hevc = {"x265-params": "keyint=6:min-keyint=6:scenecut=0:open-gop=0:bframes=2:b-adapt=0:log-level=none"}
    return {
        "h264": write_video(folder / "a.mp4", frames, options=B_FRAMES),
        "hevc": write_video(folder / "b.mp4", frames, codec="libx265", options=hevc),
        "vp9": write_video(folder / "c.webm", frames, codec="libvpx-vp9", options={"g": "4"}),
        "variable rate": write_video(folder / "d.mp4", frames, options=B_FRAMES, pts=VFR),
        "10 bits": write_video(folder / "e.mp4", frames, options=B_FRAMES, pixel_format="yuv420p10le"),
        "mirrored": set_display_matrix(
            write_video(folder / "f.mp4", coded_frames(12), options=B_FRAMES), (-1, 0, 0, 1)
        ),
        "a group without B-frames": write_video(folder / "h.mp4", frames, options={"g": "4", "bf": "2"}),
        "MPEG-TS": write_video(folder / "g.ts", frames),
    }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module like torchcodec that decodes by PyAV; its attributes make it wrong."""
    wrong = SimpleNamespace(more_frames=0, late_s=0.0, brighter=0, raises=None)

    class Decoder:
        def __init__(self, source: str, *, dimension_order: str, num_ffmpeg_threads: int, seek_mode: str) -> None:
            assert (dimension_order, num_ffmpeg_threads, seek_mode) == ("NHWC", 1, "exact")
            if wrong.raises is not None:
                raise wrong.raises
            self.frames = decode_all(Path(source))
            self.metadata = SimpleNamespace(num_frames=len(self.frames) + wrong.more_frames)

        def get_frame_at(self, index: int) -> Any:
            return SimpleNamespace(data=torch.from_numpy(self.frames[index][1] + np.uint8(wrong.brighter)))

        def get_frames_at(self, indices: list[int]) -> Any:
            chosen = [self.frames[index] for index in indices]
            times_s = torch.tensor([time_s + wrong.late_s for time_s, _ in chosen], dtype=torch.float64)
            return SimpleNamespace(data=torch.from_numpy(np.stack([f for _, f in chosen])), pts_seconds=times_s)

    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    package.__spec__ = importlib.machinery.ModuleSpec("torchcodec", None)
    package.__dict__.update(__version__="1.2", ffmpeg_major_version=8, decoders=decoders)
    decoders.__dict__.update(VideoDecoder=Decoder)
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    return wrong


def test_torchcodec_reads_what_it_reads_as_pyav_does(tmp_path: Path, fake: SimpleNamespace) -> None:
    notes = {
        "10 bits": "not torchcodec: pixels in yuv420p10le",
        "mirrored": "not torchcodec: a display matrix",
        "a group without B-frames": "not torchcodec: B-frames, and time stamps in decoding order in a part of the file",
    }
    for name, path in clips(tmp_path).items():
        expected, decoded = decode(path, "pyav"), decode(path, "torchcodec")
        assert decoded.decoder == ("pyav" if name in {*notes, "MPEG-TS"} else "torchcodec"), name
        assert [note for note in decoded.warnings if note.startswith("not")] == ([notes[name]] if name in notes else [])
        assert (decoded.frame_indices, decoded.sizes) == (expected.frame_indices, expected.sizes)
        assert decoded.times_s == pytest.approx(expected.times_s, abs=1e-6)
        assert all(np.array_equal(a, b) for a, b in zip(decoded.frames, expected.frames, strict=True)), name
    damaged = decode(tmp_path / "a.mp4", "torchcodec", "keep")
    assert (damaged.decoder, damaged.warnings) == ("pyav", ["not torchcodec: it cannot see damage"])


@pytest.mark.parametrize(
    ("wrong", "note"),
    [
        ({"more_frames": 1}, "it counts 13 frames, the packets 12"),
        ({"late_s": 0.04}, "its time stamps differ from those of the packets"),
        ({"brighter": 1}, "its first frame differs from PyAV's"),
        ({"raises": RuntimeError("/build/src.cpp:1: no frame")}, "torchcodec failed"),
    ],
)
def test_what_torchcodec_gets_wrong_is_read_by_pyav(
    tmp_path: Path, fake: SimpleNamespace, wrong: dict[str, Any], note: str
) -> None:
    vars(fake).update(wrong)
    path = write_video(tmp_path / "a.mp4", moving_frames(12), options=B_FRAMES)
    decoded, expected = decode(path, "torchcodec"), decode(path, "pyav")
    assert (decoded.decoder, decoded.warnings) == ("pyav", [f"not torchcodec: {note}"])
    assert all(np.array_equal(a, b) for a, b in zip(decoded.frames, expected.frames, strict=True))


@pytest.mark.parametrize("decoder", PREFERRED)
def test_an_installed_decoder_gives_the_frames_of_pyav(tmp_path: Path, decoder: VideoDecoder) -> None:
    if decoder not in usable_decoders():
        pytest.skip(f"{decoder} is not installed, or finds no FFmpeg")
    used = set()
    for name, path in clips(tmp_path).items():
        expected, decoded = decode(path, "pyav"), decode(path, decoder)
        used.add(decoded.decoder)
        assert decoded.times_s == pytest.approx(expected.times_s, abs=1e-6)
        assert all(np.array_equal(a, b) for a, b in zip(decoded.frames, expected.frames, strict=True)), name
    assert used == {"pyav", decoder}


def test_a_decoder_that_is_missing_is_one_error(monkeypatch: pytest.MonkeyPatch, fake: SimpleNamespace) -> None:
    check_decoder("pyav")
    check_decoder("torchcodec")
    monkeypatch.setattr(sys.modules["torchcodec"], "ffmpeg_major_version", None)
    with pytest.raises(UserError, match=r"^`decoder` torchcodec: finds no FFmpeg .*torchcodec\].*or set decoder=pyav$"):
        check_decoder("torchcodec")
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UserError, match=r"decord: cannot be imported .*Linux on x86_64"):
        check_decoder("decord")
