"""A small labelled video set, made on the spot: a virtual camera moves over photographs, the class is its motion.

No single frame carries the label: the middle pose is drawn alike for every class, the motion is symmetric around it,
and the degrees of freedom that are not the class's wander out and back to where they started. So a frame, and nearly
so an unordered heap of the clip's frames, looks the same whatever the class; the order tells.

The photographs are those that scikit-image and scikit-learn bring in their wheels; test photographs are never training
photographs. Poses are in pixels of the photograph, angles in radians, frames uint8 `[size_px, size_px, 3]`.
"""

import importlib.util
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from bevt_core.console.installation import install_command
from bevt_core.rng import rng_for
from bevt_core.storage.files import read_record, write_atomic, write_record
from bevt_core.storage.one_writer import writes
from schemas.base import Record
from schemas.errors import UserError
from schemas.ranges import Count, Frames, Pixels, Seed

CLASSES = (
    "pan_left",  # the camera moves to the left of its own picture, so what is seen moves to the right
    "pan_right",
    "pan_up",
    "pan_down",
    "zoom_in",  # the window shrinks, so what is seen grows
    "zoom_out",
    "rotate_left",  # the camera turns counter-clockwise, so what is seen turns clockwise
    "rotate_right",
)

# degree of freedom -> half its travel over a clip at speed 1: window sides, window sides, ln(window side), radians
_TRAVEL = {"x": 0.22, "y": 0.22, "zoom": 0.22, "angle": 0.40}
_MOTION = {
    "pan_left": ("x", -1),
    "pan_right": ("x", 1),
    "pan_up": ("y", -1),
    "pan_down": ("y", 1),
    "zoom_in": ("zoom", -1),
    "zoom_out": ("zoom", 1),
    "rotate_left": ("angle", -1),
    "rotate_right": ("angle", 1),
}
# How far the other degrees of freedom wander, of their own travel. Without it (0) shuffled frames still tell the axis:
# a small 3-D CNN got 40 % of shuffled clips right, with 0.5 19 %, with 0.7 15 %, with 1 13 %, chance being 12.5 %; the
# ordered clips take longer to learn the more there is: 98 % after three epochs at 0.7, 88 % at 1 (docs/log.md).
_WANDER = 0.25
_SHADING_PX = 6.0  # what varies over more pixels than this is shading
_CONTRAST = 50.0  # standard deviation of a clip, of 255
_SPEED = (0.75, 1.25)
_WINDOW = (0.9, 2.2)  # side of the middle window, in output sides; the photograph's size may cap it

# file in the wheel -> where the wheel's documentation says it is from
_SKIMAGE, _SKLEARN = "skimage/data", "sklearn/datasets/images"
PHOTOGRAPHS = {
    "train": {
        "astronaut": (_SKIMAGE, "astronaut.png", "Eileen Collins, NASA, public domain"),
        "brick": (_SKIMAGE, "brick.png", "CC0Textures.com, CC0"),
        "camera": (_SKIMAGE, "camera.png", "Lav Varshney, CC0"),
        "china": (_SKLEARN, "china.jpg", "danielbuechele on flickr, CC BY 2.0"),
        "coffee": (_SKIMAGE, "coffee.png", "Rachel Michetti, CC0"),
        "coins": (_SKIMAGE, "coins.png", "Greek coins from Pompeii, Brooklyn Museum, no known restrictions"),
        "grass": (_SKIMAGE, "grass.png", "linolafett on DeviantArt, CC0"),
        "hubble": (_SKIMAGE, "hubble_deep_field.jpg", "Hubble eXtreme Deep Field, NASA, public domain"),
        "ihc": (_SKIMAGE, "ihc.png", "Center for Microscopy and Molecular Imaging, no known restrictions"),
        "retina": (_SKIMAGE, "retina.jpg", "Mikael Häggström, Wikimedia Commons, CC0"),
        "rocket": (_SKIMAGE, "rocket.jpg", "SpaceX, public domain"),
    },
    "test": {
        "chelsea": (_SKIMAGE, "chelsea.png", "Stefan van der Walt, CC0"),
        "flower": (_SKLEARN, "flower.jpg", "vultilion on flickr, CC BY 2.0"),
        "gravel": (_SKIMAGE, "gravel.png", "CC0Textures.com, CC0"),
        "motorcycle": (_SKIMAGE, "motorcycle_left.png", "Middlebury stereo data 2014, Scharstein et al."),
    },
}


class CameraMotionSet(Record):
    """`camera-motion.json`, written last: what the folder holds, and every number that it is a function of."""

    train_clips_per_class: Count
    test_clips_per_class: Count
    images: Count
    frames: Frames
    size_px: Pixels
    image_px: Pixels
    fps: Frames
    seed: Seed


@dataclass(frozen=True)
class Pose:
    """A square window on a photograph: centre and side in its pixels, angle of its x axis, y pointing down."""

    x: float
    y: float
    side: float
    angle: float


@writes(lambda out, **_: out, "bevt demo-videos")
def make_camera_motion_set(
    out: Path,
    *,
    train_clips_per_class: int = 512,
    test_clips_per_class: int = 48,
    images: int = 1024,
    frames: int = 8,
    size_px: int = 80,
    image_px: int = 96,
    fps: int = 8,
    seed: int = 0,
    workers: int = 2,
) -> CameraMotionSet:
    """Write `train/<class>/*.mp4`, `test/<class>/*.mp4`, `images/<photograph>/*.jpg` and ATTRIBUTION.txt under `out`.

    The bytes depend on the numbers above, not on `workers`. A complete set made from the same numbers is left as it
    is. Raises UserError if `out` holds a set made from others.
    """
    wanted = CameraMotionSet(
        train_clips_per_class=train_clips_per_class,
        test_clips_per_class=test_clips_per_class,
        images=images,
        frames=frames,
        size_px=size_px,
        image_px=image_px,
        fps=fps,
        seed=seed,
    )
    card = out / "camera-motion.json"
    found = read_record(card, CameraMotionSet)
    if found == wanted:
        return wanted
    if found is not None:
        raise UserError(f"{out} holds another camera-motion set ({found}), wanted {wanted}; give another place")

    for label in CLASSES:
        for split in ("train", "test"):
            (out / split / label).mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS["train"]:
        (out / "images" / name).mkdir(parents=True, exist_ok=True)
    jobs = [("train", i) for i in range(train_clips_per_class * len(CLASSES))]
    jobs += [("test", i) for i in range(test_clips_per_class * len(CLASSES))]
    jobs += [("images", i) for i in range(images)]
    chunks = [(out, wanted, jobs[i : i + 100]) for i in range(0, len(jobs), 100)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_write_chunk, chunks))
    else:
        list(map(_write_chunk, chunks))
    write_atomic(out / "ATTRIBUTION.txt", attribution(*PHOTOGRAPHS).encode())
    write_record(card, wanted)
    return wanted


def camera_path(label: str, middle: Pose, frames: int, speed: float, wander: dict[str, int]) -> list[Pose]:
    """The camera's poses: the class's degree of freedom goes steadily, the others out and back by their `wander` sign.

    Displacements are along the middle window's own axes. The mean of first and last pose is the middle pose.
    """
    moving, sign = _MOTION[label]
    poses = []
    for t in np.linspace(-1, 1, frames):
        offset = {
            dof: speed * travel * (sign * t if dof == moving else _WANDER * wander[dof] * math.sin(math.pi * t))
            for dof, travel in _TRAVEL.items()
        }
        right, down = offset["x"] * middle.side, offset["y"] * middle.side
        cos, sin = math.cos(middle.angle), math.sin(middle.angle)
        poses.append(
            Pose(
                x=middle.x + cos * right - sin * down,
                y=middle.y + sin * right + cos * down,
                side=middle.side * math.exp(offset["zoom"]),
                angle=middle.angle + offset["angle"],
            )
        )
    return poses


def draw_middle(rng: np.random.Generator, photo: Image.Image, size_px: int) -> Pose:
    """Uniform over what keeps every class's whole path inside the photograph; any angle; never a featureless place."""
    most = max(_SPEED)
    reach = math.exp(most * _TRAVEL["zoom"]) / math.sqrt(2) + most * math.hypot(_TRAVEL["x"], _TRAVEL["y"])
    longest = 0.48 * min(photo.size) / reach
    best: tuple[float, Pose] | None = None
    for _ in range(8):
        side = rng.uniform(min(_WINDOW[0] * size_px, 0.9 * longest), min(_WINDOW[1] * size_px, longest))
        margin = side * reach
        x, y = (rng.uniform(margin, length - margin) for length in photo.size)
        pose = Pose(x, y, side, rng.uniform(-math.pi, math.pi))
        contrast = float(np.asarray(look(photo, pose, 16).convert("L"), dtype=np.float32).std())
        if contrast > 25:
            return pose
        if best is None or contrast > best[0]:
            best = (contrast, pose)
    assert best is not None
    return best[1]


def look(photo: Image.Image, pose: Pose, size_px: int) -> Image.Image:
    """What the camera sees: the window resampled to `size_px`, bilinearly."""
    step = pose.side / size_px
    cos, sin = step * math.cos(pose.angle), step * math.sin(pose.angle)
    half = size_px / 2
    # output (u, v) -> photograph: centre + R (u - half, v - half) step
    matrix = (cos, -sin, pose.x - half * (cos - sin), sin, cos, pose.y - half * (sin + cos))
    return photo.transform((size_px, size_px), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _write_chunk(chunk: tuple[Path, CameraMotionSet, list[tuple[str, int]]]) -> None:
    out, spec, jobs = chunk
    for split, index in jobs:
        rng = rng_for("camera_motion", spec.seed, split, index)
        if split == "images":
            name = list(PHOTOGRAPHS["train"])[index % len(PHOTOGRAPHS["train"])]
            _write_image(out / "images" / name / f"{index:06d}.jpg", name, spec, rng)
        else:
            label = CLASSES[index % len(CLASSES)]
            _write_clip(out / split / label / f"{index:06d}.mp4", split, label, spec, rng)


def _write_clip(path: Path, split: str, label: str, spec: CameraMotionSet, rng: np.random.Generator) -> None:
    import av  # here, so that clips can be drawn where no video can be written

    frames_THWC = draw_clip(list(PHOTOGRAPHS[split]), split, label, spec.frames, spec.size_px, rng)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=spec.fps)
        stream.width = stream.height = spec.size_px
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "24", "g": str(spec.frames), "threads": "1"}
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))


def draw_clip(
    names: Sequence[str], split: str, label: str, frames: int, size_px: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw a clip of a class over one of the photographs `names` of a split: uint8 (frames, size_px, size_px, 3)."""
    name, mirrored = str(rng.choice(list(names))), bool(rng.integers(2))
    photo = photograph(split, name, mirrored)
    middle = draw_middle(rng, photo, size_px)
    speed = rng.uniform(*_SPEED)
    wander = {dof: int(rng.choice((-1, 1))) for dof in _TRAVEL}
    paint = draw_paint(rng)
    level = max(0, int(math.log2(middle.side / size_px) * 2))  # half octaves, against aliasing
    small = _pyramid(split, name, mirrored, level)
    ratio = small.width / photo.width
    poses = camera_path(label, middle, frames, speed, wander)
    scaled = [Pose(pose.x * ratio, pose.y * ratio, pose.side * ratio, pose.angle) for pose in poses]
    return evened(np.stack([painted(look(small, pose, size_px), paint) for pose in scaled]))


def _write_image(path: Path, name: str, spec: CameraMotionSet, rng: np.random.Generator) -> None:
    Image.fromarray(draw_image(name, spec.image_px, rng)).save(path, quality=92)


def draw_image(name: str, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a recoloured crop of a training photograph: uint8 (size_px, size_px, 3)."""
    photo = photograph("train", name, bool(rng.integers(2)))
    shortest = min(photo.size)
    side = math.exp(rng.uniform(math.log(min(0.9 * size_px, shortest)), math.log(shortest)))
    left, top = (rng.uniform(0, length - side) for length in photo.size)
    crop = photo.resize((size_px, size_px), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    return evened(painted(crop, draw_paint(rng))[None])[0]


@dataclass(frozen=True)
class Paint:
    channels: list[int]  # permutation of R, G, B
    levels: np.ndarray  # uint8 [3, 256]: what each value of each channel becomes


def draw_paint(rng: np.random.Generator) -> Paint:
    """A recolouring, drawn alike for every class, that makes many photographs of one."""
    gain = rng.uniform(0.7, 1.3) * rng.uniform(0.85, 1.15, (3, 1))
    levels = np.clip(np.rint(np.arange(256) * gain + rng.uniform(-25, 25)), 0, 255)
    return Paint(channels=rng.permutation(3).tolist(), levels=levels.astype(np.uint8))


def painted(picture: Image.Image, paint: Paint) -> np.ndarray:
    pixels = np.asarray(picture)
    return np.stack([paint.levels[i][pixels[..., c]] for i, c in enumerate(paint.channels)], axis=-1)


def evened(frames_THWC: np.ndarray) -> np.ndarray:
    """Take the slow shading out of a clip and give it one contrast, uint8 to uint8.

    A patch's mean colour says nothing of the motion and drowns what does: without this the demo's encoder stays at
    chance for thousands of clips, with it, it leaves chance within an epoch (docs/log.md).
    """
    blur = ImageFilter.GaussianBlur(_SHADING_PX)
    shading_THWC = np.stack([np.asarray(Image.fromarray(frame).filter(blur)) for frame in frames_THWC])
    detail_THWC = frames_THWC.astype(np.float32) - shading_THWC
    contrast = _CONTRAST / max(float(detail_THWC.std()), 1.0)
    return np.clip(np.rint(128 + contrast * detail_THWC), 0, 255).astype(np.uint8)


@lru_cache(maxsize=2 * (len(PHOTOGRAPHS["train"]) + len(PHOTOGRAPHS["test"])))
def photograph(split: str, name: str, mirrored: bool) -> Image.Image:
    folder, file, _ = PHOTOGRAPHS[split][name]
    package, _, inside = folder.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} with the photograph {file} is not installed; run `{install_command()}`")
    photo = Image.open(Path(spec.origin).parent / inside / file, formats=["JPEG", "PNG"]).convert("RGB")
    photo.thumbnail((800, 800), Image.Resampling.LANCZOS)
    return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else photo


@lru_cache(maxsize=128)
def _pyramid(split: str, name: str, mirrored: bool, level: int) -> Image.Image:
    photo = photograph(split, name, mirrored)
    size = tuple(round(length / 2 ** (level / 2)) for length in photo.size)
    return photo if level == 0 else photo.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def attribution(*splits: str) -> str:
    """Where the photographs of these splits are from, one a line."""
    lines = ["What is in this folder was made from these photographs:", ""]
    for split in splits:
        for name, (folder, file, source) in PHOTOGRAPHS[split].items():
            lines.append(f"{split}\t{name}\t{folder}/{file}\t{source}")
    return "\n".join([*lines, ""])
