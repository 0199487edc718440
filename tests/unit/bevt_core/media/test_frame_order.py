"""For any container, codec and time stamps: the frames equal those of a sequential decode, at increasing times."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from bevt_core.media.decoding import decode_frames, decode_source
from bevt_core.media.errors import MediaError
from bevt_core.media.video.decoded import Decoded, Frame
from tests.support.coded_clips import (
    CODECS,
    FRAMES,
    STAMPS,
    Coded,
    Packet,
    coded_clips,
    coded_frames,
    copy_packets,
    decode_in_order,
    later,
    packets_of,
    read_code,
)
from tests.support.media import usable_decoders, write_video

PACKED = Path(__file__).parents[3] / "samples" / "xvid_packed.avi"  # made by libxvid: 58 frames, packed B-frames


def frames_at(path: Path, indices: Sequence[int]) -> Decoded[Frame]:
    return decode_frames(path, lambda num_frames: [i for i in indices if i < num_frames], lambda frame: frame)


def subsets(count: int, key: str) -> list[list[int]]:
    """All frames, every 8th, and a few random ones."""
    rng = random.Random(key)
    drawn = [sorted(rng.sample(range(count), min(count, size))) for size in (1, 1, 2, 5)]
    return [list(range(count)), list(range(0, count, 8)), list(range(3, count, 7)), *drawn]


def true_times_s(path: Path, pts: Sequence[int | None]) -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        if None not in pts and all(a < b for a, b in itertools.pairwise(pts)):
            return [float(stamp * stream.time_base) for stamp in pts]
        return [i / float(stream.average_rate or stream.guessed_rate) for i in range(len(pts))]


def check_frames(path: Path) -> Iterator[tuple[list[float], list[float]]]:
    """Compare the decoders with a plain sequential decode; yield the times that they return, and the true ones."""
    truth = decode_in_order(path)
    times_s = true_times_s(path, [pts for pts, _ in truth])
    for chosen in subsets(len(truth), path.name):
        counts: list[int] = []

        def choose(num_frames: int, counts: list[int] = counts, chosen: list[int] = chosen) -> list[int]:
            counts.append(num_frames)
            return [i for i in chosen if i < num_frames]

        for decoder in usable_decoders():
            decoded = decode_frames(path, choose, lambda frame: frame.copy(), decoder=decoder)
            assert counts[-1] == len(truth), f"{path.name}: {counts} frames, {len(truth)} come out"
            assert decoded.frame_indices == chosen
            for index, frame_HWC in zip(chosen, decoded.frames, strict=True):
                assert np.array_equal(frame_HWC, truth[index][1]), f"{path.name}: {index} of {chosen} {decoded.decoder}"
            yield decoded.times_s, [times_s[i] for i in chosen]


def check(path: Path) -> list[int]:
    """Also compare the times; return the numbers that the frames carry."""
    for times_s, true_s in check_frames(path):
        assert times_s == pytest.approx(true_s, abs=1e-6), path.name
    return [read_code(frame_HWC) for _, frame_HWC in decode_in_order(path)]


def check_in_part_wrong(path: Path) -> None:
    """Time stamps that are wrong in one half are detected only in that half; those of the other half may be used."""
    for times_s, _ in check_frames(path):
        assert all(a < b for a, b in itertools.pairwise(times_s))


def is_unreadable(path: Path) -> bool:
    """Whether a plain decode yields no frame; if so, check that `decode_source` raises MediaError."""
    try:
        if decode_in_order(path):
            return False
    except (av.FFmpegError, ValueError):
        pass
    with pytest.raises(MediaError):
        decode_source(path, "video", lambda num_frames: range(num_frames), lambda frame: None)
    return True


def check_clip(clip: Coded, folder: Path) -> bool:
    """Check the frames of the clip; return False if this FFmpeg cannot write or read it."""
    path = clip.write(folder)
    if path is None or is_unreadable(path):
        return False
    codes = check(path)
    assert codes == sorted(set(codes)) and len(codes) >= FRAMES - (clip.copied_to is not None), f"{clip.name}: {codes}"
    return True


def test_a_sample_of_all_containers_codecs_and_copies(tmp_path: Path) -> None:
    clips = random.Random(0).sample(list(coded_clips()), 150)
    assert sum(check_clip(clip, tmp_path) for clip in clips) > 40


@pytest.mark.parametrize("bframes", [1, 3])
@pytest.mark.parametrize(
    ("codec", "suffix", "copied_to", "stamps"),
    [
        ("h264", "avi", "mp4", "decoding"),
        ("h264", "h264", "mkv", "counted"),
        ("hevc", "ts", "mov", "decoding"),
        ("mpeg4", "avi", "mp4", "counted"),
        ("mpeg4", "m4v", "mkv", "decoding"),
        ("mpeg2", "mpg", "mkv", "decoding"),
    ],
)
def test_time_stamps_in_decoding_order_are_seen(
    codec: str, suffix: str, copied_to: str, stamps: str, bframes: int, tmp_path: Path
) -> None:
    path = Coded(codec, bframes, suffix, copied_to, stamps).write(tmp_path)
    assert path is not None and check(path) == list(range(FRAMES))
    warnings = frames_at(path, [5, 9]).warnings
    assert "frames counted by decoding: B-frames, and time stamps in decoding order" in warnings
    assert "times from the frame rate: time stamps that do not rise" in warnings


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_all_containers_codecs_and_copies(codec: str, tmp_path: Path) -> None:
    clips = [clip for clip in coded_clips() if clip.codec == codec]
    written = sum(check_clip(clip, tmp_path) for clip in clips)
    if not written:
        pytest.skip(f"no encoder {CODECS[codec][0]} here")


# ---- files that were cut, joined or shifted without decoding ---------------------------------------------------------


def in_decoding_order(packets: Sequence[Packet]) -> list[Packet]:
    return [replace(packet, pts=packet.dts) for packet in packets]


def joined(first: Sequence[Packet], second: Sequence[Packet]) -> list[Packet]:
    """`second` begins where `first` ends, and a little later."""
    step = first[1].dts - first[0].dts
    return [*first, *later(second, max(packet.pts for packet in first) + 4 * step - second[0].dts)]


def late_pairs(packets: Sequence[Packet]) -> list[Packet]:
    """A frame rate that varies."""
    step = packets[1].dts - packets[0].dts
    return [
        replace(packet, pts=3 * packet.pts + packet.pts // step % 2 * step, dts=3 * packet.dts - step)
        for packet in packets
    ]


EDITS: dict[str, Callable[[list[Packet]], list[Packet]]] = {
    "starts between keyframes": lambda packets: packets[3:],
    "starts in the second group": lambda packets: packets[13:],
    "ends early": lambda packets: packets[:-3],
    "starts before 0": lambda packets: later(packets, -5 * (packets[1].dts - packets[0].dts)),
    "a varying rate": late_pairs,
    "keyframes everywhere": lambda packets: [replace(packet, is_keyframe=True) for packet in packets],
    "one keyframe": lambda packets: [replace(packet, is_keyframe=not i) for i, packet in enumerate(packets)],
}
IN_PART_WRONG: dict[str, Callable[[list[Packet]], list[Packet]]] = {
    "wrong times at the end": lambda packets: joined(packets, in_decoding_order(packets)),
    "wrong times at the start": lambda packets: joined(in_decoding_order(packets), packets),
}
EDITED = (
    "h264",
    "h264-pyramid",
    "h264-open",
    "h264-refresh",
    "hevc",
    "hevc-open",
    "mpeg4",
    "mpeg2",
    "vp8",
    "vp9",
)


def check_edits(codec: str, suffixes: Sequence[str], folder: Path) -> None:
    encoder, _, bframes = CODECS[codec]
    source = Coded(codec, bframes[-1], "mkv" if codec == "vp8" else "mp4").write(folder)
    if source is None:
        pytest.skip(f"no encoder {encoder} here")
    packets, checked = packets_of(source), 0
    for (name, edit), suffix in itertools.product((EDITS | IN_PART_WRONG).items(), suffixes):
        try:
            path = copy_packets(source, folder / f"{codec} {name}.{suffix}", edit(packets))
        except (av.FFmpegError, ValueError):  # FFmpeg writes no such file
            continue
        if not is_unreadable(path):
            (check_in_part_wrong if name in IN_PART_WRONG else check)(path)
            checked += 1
    assert checked >= 4


@pytest.mark.parametrize("codec", ["h264-pyramid", "h264-refresh", "mpeg4"])
def test_edited_files(codec: str, tmp_path: Path) -> None:
    check_edits(codec, ["mkv"], tmp_path)


def test_a_picture_that_is_refreshed_bit_by_bit(tmp_path: Path) -> None:
    """The keyframes are marked as such, but decoding cannot start there."""
    encoder, options, _ = CODECS["h264-refresh"]
    path = write_video(tmp_path / "refresh.mp4", coded_frames(70), codec=encoder, options=options(0))
    truth = decode_in_order(path)
    for index in (50, 53, 69):
        np.testing.assert_array_equal(frames_at(path, [index]).frames[0], truth[index][1])


@pytest.mark.slow
@pytest.mark.parametrize("codec", EDITED)
def test_edited_files_in_all_containers(codec: str, tmp_path: Path) -> None:
    check_edits(codec, ["mp4", "mkv", "webm", "flv", "ts", "avi", "nut"], tmp_path)


# ---- packed B-frames -------------------------------------------------------------------------------------------------


def test_packed_bframes_have_the_order_of_a_plain_decode(tmp_path: Path) -> None:
    """libxvid packs a B-frame into the packet of the frame after it, and a placeholder follows."""
    codes = check(PACKED)
    assert codes[:3] == [0, 1, 2] and len(codes) == 58
    for suffix, stamps in itertools.product(("mp4", "mkv", "mov", "avi"), STAMPS):
        copy = copy_packets(PACKED, tmp_path / f"{stamps}.{suffix}", packets_of(PACKED, stamps))
        assert check(copy) == codes


def test_times_of_packed_bframes_rise_by_the_frame_rate() -> None:
    times_s = frames_at(PACKED, range(58)).times_s
    assert np.diff(times_s) == pytest.approx(0.04) and times_s[0] == 0


# ---- real files ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("copied_to", [None, "mp4", "mkv"])
def test_ucf101(copied_to: str | None, shared_data: Path, tmp_path: Path) -> None:
    """A third of UCF101's clips has packed B-frames; people copy them into mp4 for playback."""
    clips = sorted(shared_data.glob("ucf101_3class/videos/*/*.avi"))
    if not clips:
        pytest.skip(f"no clips of UCF-101 in {shared_data}")
    for path in clips:
        if copied_to is not None:
            for stamps in STAMPS:
                check(copy_packets(path, tmp_path / f"{path.stem}_{stamps}.{copied_to}", packets_of(path, stamps)))
        else:
            check(path)
