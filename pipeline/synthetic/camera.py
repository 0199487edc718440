"""A virtual camera over a photograph: its classes of motion, its path, and the resulting clip.

No single frame reveals the class: the middle pose has the same distribution for every class, the motion is symmetric
around it, and the other degrees of freedom move out and back. An unordered set of a clip's frames shows something of
the axis, since these move less far; only the order shows the direction.

Poses are in pixels of the photograph, angles in radians, frames uint8 (size_px, size_px, 3).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.synthetic.photographs import draw_recolouring, photograph, recoloured, reduced

CLASSES = (
    "pan_left",  # the camera moves to its left, so the content moves to the right
    "pan_right",
    "pan_up",
    "pan_down",
    "zoom_in",  # the window shrinks, so the content grows
    "zoom_out",
    "rotate_left",  # the camera turns counter-clockwise, so the content turns clockwise
    "rotate_right",
)

# degree of freedom -> half its travel over a clip at speed 1: window sides, window sides, ln(window side), radians
TRAVEL = {"x": 0.22, "y": 0.22, "zoom": 0.22, "angle": 0.40}
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

# How far the other degrees of freedom wander, relative to their travel. At 0, shuffled frames still reveal the axis: a
# small 3-D CNN classified 40 % of shuffled clips correctly, 19 % at 0.5, 15 % at 0.7, 13 % at 1; chance is 12.5 %. The
# more wander, the longer ordered clips take to learn: 98 % after three epochs at 0.7, 88 % at 1 (docs/log.md).
_WANDER = 0.25
_SPEED = (0.75, 1.25)  # range of a clip's speed, in units of TRAVEL
_WINDOW = (0.9, 2.2)  # side of the middle window, in output sides; limited by the photograph's size


@dataclass(frozen=True)
class Pose:
    """A square window on a photograph: centre and side in its pixels, angle of its x axis, y pointing down."""

    x: float
    y: float
    side: float
    angle: float


def camera_path(label: str, middle: Pose, frames: int, speed: float, wander: dict[str, int]) -> list[Pose]:
    """The camera's poses: the class's degree of freedom moves steadily, the others out and back by their `wander` sign.

    Displacements are along the middle window's axes. The mean of the first and last pose is the middle pose.
    """
    moving, sign = _MOTION[label]
    poses = []
    for t in np.linspace(-1, 1, frames):
        offset = {
            dof: speed * travel * (sign * t if dof == moving else _WANDER * wander[dof] * math.sin(math.pi * t))
            for dof, travel in TRAVEL.items()
        }
        poses.append(moved(middle, offset))
    return poses


def moved(pose: Pose, offset: Mapping[str, float]) -> Pose:
    """Move a pose along its own axes; `offset` has the units of TRAVEL."""
    right, down = offset["x"] * pose.side, offset["y"] * pose.side
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    return Pose(
        x=pose.x + cos * right - sin * down,
        y=pose.y + sin * right + cos * down,
        side=pose.side * math.exp(offset["zoom"]),
        angle=pose.angle + offset["angle"],
    )


def scaled(pose: Pose, ratio: float) -> Pose:
    """The same window on a photograph enlarged by `ratio`."""
    return Pose(pose.x * ratio, pose.y * ratio, pose.side * ratio, pose.angle)


def draw_middle(rng: np.random.Generator, photo: Image.Image, size_px: int) -> Pose:
    """Draw a middle pose that keeps every class's path inside the photograph; avoids low-contrast regions."""
    most = max(_SPEED)
    reach = math.exp(most * TRAVEL["zoom"]) / math.sqrt(2) + most * math.hypot(TRAVEL["x"], TRAVEL["y"])
    longest = 0.48 * min(photo.size) / reach
    best: tuple[float, Pose] | None = None
    for _ in range(8):
        side = rng.uniform(min(_WINDOW[0] * size_px, 0.9 * longest), min(_WINDOW[1] * size_px, longest))
        margin = side * reach
        x, y = (rng.uniform(margin, length - margin) for length in photo.size)
        pose = Pose(x, y, side, rng.uniform(-math.pi, math.pi))
        contrast = float(np.asarray(render(photo, pose, 16).convert("L"), dtype=np.float32).std())
        if contrast > 25:
            return pose
        if best is None or contrast > best[0]:
            best = (contrast, pose)
    assert best is not None
    return best[1]


def render(photo: Image.Image, pose: Pose, size_px: int) -> Image.Image:
    """The camera's picture: the window resampled bilinearly to `size_px`."""
    step = pose.side / size_px
    cos, sin = step * math.cos(pose.angle), step * math.sin(pose.angle)
    half = size_px / 2
    # output (u, v) -> photograph: centre + R (u - half, v - half) step
    matrix = (cos, -sin, pose.x - half * (cos - sin), sin, cos, pose.y - half * (sin + cos))
    return photo.transform((size_px, size_px), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def draw_clip(
    names: Sequence[str], split: str, label: str, frames: int, size_px: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw a clip of a class over one of the photographs `names` of a split: uint8 (frames, size_px, size_px, 3)."""
    name, mirrored = str(rng.choice(list(names))), bool(rng.integers(2))
    photo = photograph(split, name, mirrored)
    middle = draw_middle(rng, photo, size_px)
    speed = rng.uniform(*_SPEED)
    wander = {dof: int(rng.choice((-1, 1))) for dof in TRAVEL}
    recolouring = draw_recolouring(rng)
    level = max(0, int(math.log2(middle.side / size_px) * 2))  # in half octaves; avoids aliasing
    small = reduced(split, name, mirrored, level)
    ratio = small.width / photo.width
    poses = camera_path(label, middle, frames, speed, wander)
    return np.stack([recoloured(render(small, scaled(pose, ratio), size_px), recolouring) for pose in poses])
