"""The decoded frames are those at the reported times, with either decoder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bevt_core.media.decoding import Frame, decode_frames, decode_image, pool_indices
from bevt_core.media.errors import MediaError
from bevt_core.media.video.decoded import Decoded
from bevt_core.media.video.header import read_video_header
from bevt_core.media.video.orientation import upright
from bevt_core.media.video.video_file import read_packets
from bevt_core.rng import rng_for
from schemas.frames import PoolSpec
from tests.support.media import (
    decode_all,
    moving_frames,
    write_audio,
    write_audio_with_cover,
    write_image,
    write_video,
    write_video_with_cover,
)

OPEN_GOP = {"x264-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}


def all_frames(path: Path, indices: Sequence[int]) -> Decoded[Frame]:
    """Decode the given frames (increasing) as HWC uint8 arrays. Raises MediaError."""
    return decode_frames(path, lambda num_frames: [i for i in indices if i < num_frames], lambda frame: frame)


@pytest.mark.parametrize(
    ("name", "codec", "options", "decoder"),
    [
        ("closed.mp4", "libx264", {"g": "12", "bf": "3"}, "pyav"),
        ("one_key.mkv", "libx264", {"g": "300"}, "pyav"),
        ("vp9.webm", "libvpx-vp9", {"g": "20"}, "pyav"),
        ("hevc.mp4", "libx265", {"x265-params": "keyint=12:open-gop=0:log-level=none"}, "pyav"),
        ("open_gop.mp4", "libx264", OPEN_GOP, "pyav"),
        ("stream.ts", "libx264", {"g": "12", "bf": "2"}, "pyav"),
        ("old.avi", "mpeg4", {"g": "12"}, "pyav"),
    ],
)
@pytest.mark.parametrize("stride", [1, 7])
def test_chosen_frames_are_the_frames_at_their_times(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], decoder: str, stride: int
) -> None:
    path = write_video(tmp_path / name, moving_frames(60), codec=codec, options=options)
    truth = decode_all(path)
    decoded = all_frames(path, range(3, 60, stride))
    assert decoded.decoder == decoder
    assert decoded.frame_indices == list(range(3, len(truth), stride))
    assert_frames(decoded, truth)


def assert_frames(decoded: Decoded[np.ndarray], truth: list[tuple[float, np.ndarray]]) -> None:
    for index, time_s, frame_HWC in zip(decoded.frame_indices, decoded.times_s, decoded.frames, strict=True):
        assert time_s == pytest.approx(truth[index][0], abs=1e-6)
        np.testing.assert_array_equal(frame_HWC, truth[index][1])


def test_variable_frame_rate(tmp_path: Path) -> None:
    pts = np.cumsum(np.random.default_rng(0).integers(1, 9, 40)).tolist()
    path = write_video(tmp_path / "vfr.mp4", moving_frames(40), options={"g": "10"}, pts=pts)
    truth = decode_all(path)
    decoded = all_frames(path, range(0, 40, 3))
    assert decoded.times_s == pytest.approx([truth[i][0] for i in decoded.frame_indices])
    assert_frames(decoded, truth)


def test_real_files_agree_with_a_sequential_decode(shared_data: Path) -> None:
    import av

    paths = [*sorted((shared_data / "odd").iterdir()), *sorted(shared_data.glob("k400/videos/*/*.mp4"))]
    read = 0
    for path in paths:
        if "corrupted" in path.name:
            continue
        with av.open(str(path)) as container:
            truth = [upright(frame) for frame in container.decode(container.streams.best("video"))]
        decoded = all_frames(path, range(0, 400, 16))
        assert len(decoded.frames) == -(-len(truth) // 16), path.name
        assert all(
            np.array_equal(frame, truth[i]) for i, frame in zip(decoded.frame_indices, decoded.frames, strict=True)
        ), path.name
        read += 1
    assert read >= 9


def test_a_phones_rotation_is_applied(shared_data: Path) -> None:
    path = shared_data / "odd" / "torchcodec__nasa_13013_rotated.mp4"
    decoded = all_frames(path, [0, 8])
    assert (decoded.decoder, decoded.frames[0].shape) == ("pyav", (480, 270, 3))


def test_what_is_no_video_is_refused_with_a_reason(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", moving_frames(40)).read_bytes()
    cases = {
        "missing": None,
        "empty-file": b"",
        "not-media": np.random.default_rng(0).bytes(5000),
    }
    for reason, data in cases.items():
        path = tmp_path / f"{reason}.mp4"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(MediaError) as error:
            read_packets(path)
        assert (error.value.stage, error.value.reason) == ("open", reason)
    (tmp_path / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError):
        all_frames(tmp_path / "truncated.mp4", [0])
    with pytest.raises(MediaError) as error:
        read_packets(write_audio(tmp_path / "tone.mp4"))
    assert error.value.reason == "no-video-stream"


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    cover_HWC = moving_frames(1, 120, 160)[0]
    path = write_audio_with_cover(tmp_path / "song.mp4", cover_HWC)
    for look in (read_packets, read_video_header):
        with pytest.raises(MediaError) as error:
            look(path)
        assert error.value.reason == "no-video-stream"
        assert error.value.message == "2 streams, the only video is a cover picture"
    frames = moving_frames(10)
    path = write_video_with_cover(tmp_path / "clip.mp4", frames, cover_HWC)
    decoded = all_frames(path, range(10))
    assert [frame.shape for frame in decoded.frames] == [frames[0].shape] * 10
    assert read_video_header(path).codec == "h264"


def test_a_playlist_opens_nothing_else(tmp_path: Path) -> None:
    write_video(tmp_path / "real.ts", moving_frames(30))
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:10,\n{tmp_path}/real.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile real.ts\n")
    for name in ("list.mp4", "concat.mp4"):
        with pytest.raises(MediaError) as error:
            read_packets(tmp_path / name)
        assert error.value.reason == "not-media"


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_images_become_rgb(tmp_path: Path, mode: str) -> None:
    path = write_image(tmp_path / "image.jpg", moving_frames(1)[0], mode)
    decoded = decode_image(path, lambda frame: frame)
    assert (decoded.frames[0].shape, decoded.frames[0].dtype) == ((48, 64, 3), np.uint8)
    assert decoded.decoder == "pillow"
    assert bool(decoded.warnings) == (mode != "RGB")


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show it
    Image.fromarray(moving_frames(1)[0]).save(tmp_path / "turned.jpg", exif=exif)
    assert decode_image(tmp_path / "turned.jpg", lambda frame: frame.shape).frames == [(64, 48, 3)]


def test_damaged_and_monstrous_images_are_refused(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "whole.jpg", moving_frames(1, 240, 320)[0]).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    for name, reason in [("cut.jpg", "damaged"), ("text.jpg", "not-media"), ("bomb.png", "too-large")]:
        with pytest.raises(MediaError) as error:
            decode_image(tmp_path / name, lambda frame: frame)
        assert error.value.reason == reason


@pytest.mark.parametrize("num_frames", [1, 3, 8, 9, 300, 5000])
def test_pool_indices(num_frames: int) -> None:
    pool = PoolSpec(stride=8, max_frames=64)
    indices = pool_indices(num_frames, pool, rng_for(0, num_frames))
    assert 1 <= len(indices) <= 64
    assert 0 <= indices[0] < 8 and indices[-1] < num_frames
    assert (np.diff(indices) >= 8).all()
    assert pool_indices(num_frames, pool.model_copy(update={"phase": "zero"}), rng_for(0))[0] == 0


def test_the_phase_differs_between_sources() -> None:
    pool = PoolSpec(stride=8)
    assert len({int(pool_indices(100, pool, rng_for("pool", 0, name))[0]) for name in "abcdefghijklmnopqrst"}) > 4


def flip_bytes(path: Path, count: int) -> None:
    """Damage the middle of a file, sparing the header."""
    data = bytearray(path.read_bytes())
    for at in np.random.default_rng(0).integers(len(data) // 3, 9 * len(data) // 10, count):
        data[at] ^= 255
    path.write_bytes(data)


def test_damaged_frames_by_policy(tmp_path: Path) -> None:
    options = {"g": "30", "movflags": "faststart"}
    path = write_video(tmp_path / "x.mkv", moving_frames(90, 120, 160), options=options)
    clean = decode_frames(path, lambda n: range(0, n, 3), lambda frame: frame, "reject")
    assert (clean.decoder, clean.warnings) == ("pyav", [])
    flip_bytes(path, 40)
    with pytest.raises(MediaError) as error:
        decode_frames(path, lambda n: range(0, n, 3), lambda frame: None, "reject")
    assert error.value.reason in {"damaged-frames", "damaged"}


def test_av1_and_several_streams(tmp_path: Path) -> None:
    """decord cannot open AV1, and with several streams it may choose another one than FFmpeg's best."""
    import av

    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        streams = []
        for height, width in ((48, 64), (96, 128)):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            streams.append((stream, moving_frames(20, height, width)))
        for i in range(20):
            for stream, frames in streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[i], format="rgb24")))
        for stream, _ in streams:
            container.mux(stream.encode(None))
    decoded = all_frames(path, range(0, 20, 4))
    truth = decode_all(path)
    assert decoded.decoder == "pyav"
    assert_frames(decoded, truth)
    if not {"libsvtav1", "libaom-av1"} & av.codecs_available:
        pytest.skip("PyAV has no AV1 encoder here")
    encoder = "libsvtav1" if "libsvtav1" in av.codecs_available else "libaom-av1"
    path = write_video(tmp_path / "av1.mkv", moving_frames(20, 96, 128), codec=encoder)
    truth = decode_all(path)
    decoded = all_frames(path, range(0, 20, 4))
    assert decoded.decoder == "pyav"
    assert_frames(decoded, truth)


def test_edit_lists_cut_what_is_not_shown(shared_data: Path) -> None:
    path = shared_data / "odd" / "torchcodec__discard_first_keyframe.mp4"
    truth = decode_all(path)
    decoded = all_frames(path, range(0, 40, 2))
    assert (len(truth), decoded.decoder) == (25, "pyav")
    assert decoded.times_s == pytest.approx([truth[i][0] for i in decoded.frame_indices])


@pytest.mark.parametrize("content", [b"hello\n", bytes(range(256)) * 12, b"\x89PNG\r\n\x1a\n" + bytes(2000)])
def test_a_file_that_is_not_a_video_gets_no_text_of_ffmpeg(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)
    for read in (read_packets, read_video_header):
        with pytest.raises(MediaError, match=r"^not a video, or its header is damaged or missing$"):
            read(path)
