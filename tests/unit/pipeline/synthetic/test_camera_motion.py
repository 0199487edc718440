"""The demo's clips: the motion is the class's, the middle frame does not reveal it, the bytes are reproducible."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from skimage.registration import phase_cross_correlation
from skimage.transform import warp_polar

from bevt_core.rng import rng_for
from pipeline.synthetic import scenes
from pipeline.synthetic.camera import CLASSES, Pose, camera_path, draw_middle, render
from pipeline.synthetic.camera_motion import make_camera_motion_set
from pipeline.synthetic.photographs import PHOTOGRAPHS, photograph
from pipeline.synthetic.scenes import draw_unlabelled
from schemas.errors import UserError
from tests.support.children import descendants, is_running, wait_until
from tests.support.json_keys import CheckKeys

STILL = {"x": 0, "y": 0, "zoom": 0, "angle": 0}
TINY = {"train_clips_per_class": 2, "test_clips_per_class": 1, "unlabelled_clips": 5, "images": 11, "seed": 3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("camera") / "motion"
    make_camera_motion_set(out, workers=1, **TINY)
    return out


def speckle(size: int = 400) -> Image.Image:
    """A picture with detail at several scales everywhere."""
    rng = rng_for("speckle")
    picture = sum(
        np.asarray(Image.fromarray(rng.uniform(0, 255, (n, n)).astype(np.float32)).resize((size, size)))
        for n in (12, 25, 50, 100)
    )
    return Image.fromarray((np.asarray(picture) / 4).astype(np.uint8)).convert("RGB")


def rendered(label: str) -> list[np.ndarray]:
    path = camera_path(label, Pose(200, 200, 120, 0.3), frames=8, speed=1.0, wander=STILL)
    return [np.asarray(render(speckle(), pose, 96).convert("L"), dtype=np.float32) for pose in path]


@pytest.mark.parametrize("label", [c for c in CLASSES if c.startswith("pan")])
def test_a_pan_moves_the_picture_against_the_camera(label: str) -> None:
    frames = rendered(label)
    # phase_cross_correlation returns the (row, column) shift that moves the second picture back onto the first
    shifts = [phase_cross_correlation(a, b, upsample_factor=4)[0] for a, b in itertools.pairwise(frames)]
    rows, columns = np.sum(shifts, axis=0)
    along, across = (columns, rows) if label in ("pan_left", "pan_right") else (rows, columns)
    assert np.sign(along) == (1 if label in ("pan_right", "pan_down") else -1)
    assert abs(along) > 20 and abs(across) < 5


@pytest.mark.parametrize("label", [c for c in CLASSES if not c.startswith("pan")])
def test_zoom_and_rotation_turn_the_right_way(label: str) -> None:
    polar = [warp_polar(frame, radius=44, scaling="log", output_shape=(360, 90)) for frame in rendered(label)]
    rings = [
        picture[:, 40:] - picture[:, 40:].mean() for picture in polar
    ]  # the few pixels at the centre fill the rest
    shifts = [
        phase_cross_correlation(a, b, upsample_factor=4, normalization=None)[0] for a, b in itertools.pairwise(rings)
    ]
    angle, log_radius = np.sum(shifts, axis=0)
    if label.startswith("zoom"):
        assert abs(log_radius) > 4 and abs(angle) < 8
        assert (log_radius < 0) == (label == "zoom_in")  # the content moves outwards
    else:
        assert abs(angle) > 20 and abs(log_radius) < 4
        # warp_polar's angle grows clockwise, rows pointing down; if the camera turns left, the content turns clockwise
        assert (angle < 0) == (label == "rotate_left")


@pytest.mark.parametrize("label", CLASSES)
def test_motion_is_symmetric_around_the_middle_pose_and_the_rest_returns(label: str) -> None:
    middle = Pose(100, 80, 50, 0.7)
    path = camera_path(label, middle, frames=8, speed=1.1, wander={"x": 1, "y": -1, "zoom": 1, "angle": -1})
    for early, late in zip(path, reversed(path), strict=True):
        assert math.isclose((early.x + late.x) / 2, middle.x)
        assert math.isclose((early.y + late.y) / 2, middle.y)
        assert math.isclose(math.sqrt(early.side * late.side), middle.side)
        assert math.isclose((early.angle + late.angle) / 2, middle.angle)
    first, last = path[0], path[-1]
    moved = {
        "pan": math.hypot(last.x - first.x, last.y - first.y) > 1,
        "zoom": abs(math.log(last.side / first.side)) > 0.01,
        "rotate": abs(last.angle - first.angle) > 0.01,
    }
    assert [kind for kind, is_moved in moved.items() if is_moved] == [label.split("_")[0]]


def test_every_path_stays_inside_its_photograph() -> None:
    photo = speckle(300)
    for index in range(30):
        middle = draw_middle(rng_for("inside", index), photo, 80)
        for label, signs in itertools.product(CLASSES, itertools.product((-1, 1), repeat=4)):
            for pose in camera_path(label, middle, 8, 1.25, dict(zip(STILL, signs, strict=True))):
                reach = pose.side / 2 * (abs(math.cos(pose.angle)) + abs(math.sin(pose.angle)))
                assert min(pose.x, pose.y) - reach >= 0 and max(pose.x, pose.y) + reach <= 300


def test_train_and_test_photographs_are_different_files() -> None:
    train, test = ({entry[:2] for entry in PHOTOGRAPHS[split].values()} for split in ("train", "test"))
    assert not train & test
    assert len(train) == len(PHOTOGRAPHS["train"]) and len(test) == len(PHOTOGRAPHS["test"])


def test_the_set_is_h264_in_class_folders(tiny: Path) -> None:
    for split, count in (("train", 2), ("test", 1)):
        assert sorted(folder.name for folder in (tiny / split).iterdir()) == sorted(CLASSES)
        assert all(len(list(folder.glob("*.mp4"))) == count for folder in (tiny / split).iterdir())
    with av.open(str(next((tiny / "train" / "zoom_in").glob("*.mp4")))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == 8
        assert [(f.width, f.height) for f in container.decode(stream)] == [(80, 80)] * 8
    pictures = list((tiny / "images").glob("*.jpg"))
    assert len(pictures) == 11 and len(list((tiny / "unlabelled").glob("*.mp4"))) == 5
    assert Image.open(pictures[0]).size == (96, 96)
    credits = (tiny / "ATTRIBUTION.txt").read_text()
    assert all(entry[1] in credits for photos in PHOTOGRAPHS.values() for entry in photos.values())


def test_bytes_depend_on_the_seed_alone(tiny: Path, tmp_path: Path) -> None:
    make_camera_motion_set(tmp_path / "again", workers=2, **TINY)
    files = [path.relative_to(tiny) for path in sorted(tiny.rglob("*")) if path.is_file()]
    assert len(files) == 8 * 3 + 5 + 11 + 2
    assert all((tiny / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)
    make_camera_motion_set(tmp_path / "other", workers=1, **{**TINY, "seed": 4})
    assert all((tiny / f).read_bytes() != (tmp_path / "other" / f).read_bytes() for f in files if f.suffix == ".mp4")


def test_unlabelled_clips_move_and_never_show_a_test_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(scenes, "photograph", lambda split, *rest: read.append(split) or photograph(split, *rest))
    for index in range(8):
        clip = draw_unlabelled(index, 8, 64, rng_for("unlabelled", index))
        assert clip.shape == (8, 64, 64, 3) and clip.dtype == np.uint8
        assert (np.diff(clip.astype(int), axis=0) != 0).mean() > 0.1
    assert read == ["train", "train"]  # every fourth clip; the others show drawn scenes


def test_a_complete_set_is_kept_and_another_one_refused(tiny: Path, json_keys: CheckKeys) -> None:
    clip = next((tiny / "train" / "pan_up").glob("*.mp4"))
    before = clip.stat().st_mtime_ns
    json_keys("demo-videos", make_camera_motion_set(tiny, workers=1, **TINY).model_dump())
    assert clip.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="contains another camera-motion set"):
        make_camera_motion_set(tiny, workers=1, **{**TINY, "images": 12})


def test_files_of_an_interrupted_larger_set_are_refused(tiny: Path, tmp_path: Path) -> None:
    """Otherwise they would be tokenized with the others; those that this set overwrites are fine."""
    for name in ("train/pan_up/000002.mp4", "images/000010.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"cut off")
    make_camera_motion_set(tmp_path, workers=1, **TINY)
    same = [(folder / "train" / "pan_up" / "000002.mp4").read_bytes() for folder in (tmp_path, tiny)]
    assert same[0] == same[1]
    (tmp_path / "camera-motion.json").unlink()
    with pytest.raises(UserError, match=r"images/000010\.jpg is not part of the wanted set \(1 such file\)"):
        make_camera_motion_set(tmp_path, workers=1, **{**TINY, "images": 10})


def test_workers_end_with_the_command(tmp_path: Path) -> None:
    """SIGKILL, as SIGTERM, reaches the command alone."""
    words = [sys.executable, "-m", "cli", "demo-videos", str(tmp_path / "out"), "--clips", "500"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: any((tmp_path / "out").rglob("*.mp4")))
        workers = descendants(process.pid)
        process.kill()
    assert len(workers) >= 2
    wait_until(lambda: not any(map(is_running, workers)), 10.0)
