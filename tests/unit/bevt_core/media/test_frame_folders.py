"""Which pictures of a folder are the frames of its video."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bevt_core.media.decoding import decode_frame_folder
from bevt_core.media.errors import MediaError
from bevt_core.media.frame_folders import check_frames, frames_among, frames_in
from tests.support.media import moving_frames, write_image

FRAMES = moving_frames(12)


def numbered(pattern: str, count: int = 12) -> list[str]:
    return [pattern.format(i) for i in range(1, count + 1)]


IMAGES = numbered("img_{:05}.jpg")


@pytest.mark.parametrize(
    "others",
    [
        [*numbered("flow_x_{:05}.jpg", 11), *numbered("flow_y_{:05}.jpg", 11)],
        [*numbered("flow_x_{:05}.jpg"), *numbered("flow_y_{:05}.jpg"), "flow_x_00013.jpg"],
        [*numbered("x_{:05}.jpg"), *numbered("y_{:05}.jpg")],
        numbered("depth_{:05}.png"),
        numbered("img_{:05}.png"),
        numbered("img_{:05}.png", 3),
        ["cover.jpg", "Thumbs.db", "00001.txt", "img_00001 (copy).jpg"],
        ["._img_00001.jpg", ".img_00099.jpg"],
        numbered("thumb_{}.jpg", 3),
    ],
)
def test_one_name_is_the_frames(others: list[str]) -> None:
    frames, notes = frames_among(sorted(others + IMAGES))
    assert frames == IMAGES
    left_out = [name for name in others if name.endswith(("jpg", "png")) and not name.startswith(".")]
    assert notes == [] if not left_out else notes[0].startswith(f"pictures that are not frames: {len(left_out)} (")


@pytest.mark.parametrize(
    "names",
    [numbered("{}.jpg", 120), numbered("frame{:06}.JPG"), numbered("v_x_g01_c02_{}.webp"), numbered("t{}_#0.5.png")],
)
def test_frames_are_in_the_order_of_their_numbers(names: list[str]) -> None:
    assert frames_among(sorted(names)) == (names, [])
    assert frames_among(reversed(names)) == (names, [])


def test_more_of_the_other_format_wins() -> None:
    pngs = numbered("img_{:05}.png")
    assert frames_among(pngs + IMAGES[:-1])[0] == pngs


def test_a_gap_is_noted() -> None:
    frames, notes = frames_among(IMAGES[:5] + IMAGES[6:])
    assert (len(frames), notes) == (11, ["gaps in the frame numbers: 1, the first after img_00005.jpg"])
    assert frames_among(numbered("{}.jpg", 40)[::5])[1] == []  # every fifth frame


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "no-frames"),
        (["cover.jpg", "x.txt"], "no-frames"),
        (["._1.jpg"], "no-frames"),
        (numbered("left_{}.jpg") + numbered("right_{}.jpg"), "mixed-names"),
        (numbered("flow_x_{}.jpg") + numbered("flow_y_{}.jpg"), "mixed-names"),
        (["1.jpg", "2.jpg", "3.png", "4.png"], "mixed-names"),
        (["1.jpg", "01.jpg", "2.jpg"], "mixed-names"),
    ],
)
def test_what_cannot_be_told_is_rejected(names: list[str], reason: str) -> None:
    with pytest.raises(MediaError) as error:
        frames_among(names)
    assert error.value.reason == reason


def test_decoding_a_folder(tmp_path: Path) -> None:
    """Only frames are read; a folder is rejected for a damaged chosen frame, and for any empty frame."""
    for name, frame in zip(IMAGES, FRAMES, strict=True):
        write_image(tmp_path / name.replace("jpg", "png"), frame)
        write_image(tmp_path / f"flow_x_{name}", 255 - frame)
    (tmp_path / "more").mkdir()
    shutil.copy(tmp_path / "img_00001.png", tmp_path / "more" / "img_00013.png")
    decoded = decode_frame_folder(tmp_path, lambda n: range(n), lambda frame: frame)
    assert all(np.array_equal(a, b) for a, b in zip(decoded.frames, FRAMES, strict=True))
    assert decoded.warnings == [
        "times at 12 frames/s",
        "pictures that are not frames: 12 (flow_x_img_#.jpg)",
    ]
    cut = tmp_path / "img_00003.png"
    cut.write_bytes(cut.read_bytes()[:100])
    assert len(decode_frame_folder(tmp_path, lambda n: [0, 1], lambda frame: frame).frames) == 2
    with pytest.raises(MediaError, match=r"img_00003\.png: ") as error:
        decode_frame_folder(tmp_path, lambda n: range(n), lambda frame: frame)
    assert error.value.reason == "damaged"
    with pytest.raises(MediaError, match=r"img_00003\.png: "):
        check_frames(tmp_path)  # whichever frames are chosen
    cut.write_bytes(b"")
    with pytest.raises(MediaError, match=r"1 of 12 frames have 0 bytes, first img_00003\.png"):
        frames_in(tmp_path)


def test_bytes_after_a_frames_end_are_no_damage(tmp_path: Path) -> None:
    for name, frame in zip(IMAGES, FRAMES, strict=True):
        path = write_image(tmp_path / name, frame)
        path.write_bytes(path.read_bytes() + b"\0\0camera")
    assert check_frames(tmp_path) == IMAGES
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MediaError, match=r"img_00012\.jpg: .*truncated"):
        check_frames(tmp_path)
