"""Clips and pictures without a class, for pretraining: a camera moves over random scenes and over photographs.

Three of four clips show dead leaves (shapes of random size and colour that hide each other), whose statistics resemble
those of photographs; the others are training photographs. So a network cannot learn the few photographs by heart.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from pipeline.synthetic.camera import TRAVEL, Pose, draw_middle, moved, render, scaled
from pipeline.synthetic.photographs import (
    PHOTOGRAPHS,
    draw_image,
    draw_recolouring,
    photograph,
    recoloured,
    reduced,
)

SCENE_SIDES = 3.4  # side of a scene in clip sides; enough for every path
FASTEST = 1.25  # times the travel of a labelled clip at speed 1; the slowest stands still


def dead_leaves(rng: np.random.Generator, side_px: int) -> Image.Image:
    """Draw shapes whose areas follow a power law, then texture at three scales."""
    palette = rng.integers(0, 256, (int(rng.integers(3, 9)), 3))
    scene = Image.new("RGB", (side_px, side_px), tuple(palette[0].tolist()))
    draw = ImageDraw.Draw(scene)
    smallest, largest = rng.uniform(4, 9), side_px / 3
    count = int(rng.integers(60, 220))
    radii = smallest / np.sqrt(1 - rng.random(count) * (1 - (smallest / largest) ** 2))  # density r^-3
    for radius in radii:
        colour = np.clip(palette[rng.integers(len(palette))] + rng.normal(0, 25, 3), 0, 255).astype(int)
        corners = draw_outline(rng, radius) + rng.uniform(0, side_px, 2)
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=tuple(colour.tolist()))
    pixels = np.asarray(scene, dtype=np.float32)
    for cells, strongest in ((8, 40), (32, 20), (128, 12)):
        noise = Image.fromarray(rng.normal(0, rng.uniform(0, strongest), (cells, cells)).astype(np.float32))
        pixels = pixels + np.asarray(noise.resize((side_px, side_px), Image.Resampling.BICUBIC))[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_outline(rng: np.random.Generator, radius: float) -> np.ndarray:
    """Draw an ellipse, a rectangle or a polygon of three to five corners around the origin: (corners, 2)."""
    kind = rng.integers(3)
    angles = np.linspace(0, 2 * math.pi, 16, endpoint=False)
    if kind == 1:
        angles = np.array([0.25, 0.75, 1.25, 1.75]) * math.pi
    elif kind == 2:
        angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 6))))
    x, y = radius * np.cos(angles), radius * rng.uniform(0.4, 1) * np.sin(angles)
    turn = rng.uniform(0, math.pi)
    return np.stack([x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)], axis=1)


def draw_picture(index: int, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Draw picture `index`, uint8 (size_px, size_px, 3): every second one is a recoloured photograph."""
    if index % 2:
        return np.asarray(dead_leaves(rng, size_px))
    names = list(PHOTOGRAPHS["train"])
    return draw_image(names[index // 2 % len(names)], size_px, rng)


def draw_unlabelled(index: int, frames: int, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Draw clip `index`, uint8 (frames, size_px, size_px, 3): one or two motions, at any speed up to FASTEST."""
    if index % 4 == 0:
        name, mirrored = str(rng.choice(list(PHOTOGRAPHS["train"]))), bool(rng.integers(2))
        photo = photograph("train", name, mirrored)
        middle = draw_middle(rng, photo, size_px)
        level = max(0, int(math.log2(middle.side / size_px) * 2))
        scene, recolouring = reduced("train", name, mirrored, level), draw_recolouring(rng)
        ratio = scene.width / photo.width
    else:
        side_px = round(SCENE_SIDES * size_px)
        scene, recolouring, ratio = dead_leaves(rng, side_px), None, 1.0
        side = rng.uniform(0.8, 1.3) * size_px
        margin = min(1.25 * side, 0.49 * side_px)
        x, y = rng.uniform(margin, side_px - margin, 2)
        middle = Pose(x, y, side, rng.uniform(-math.pi, math.pi))
    poses = [scaled(pose, ratio) for pose in _draw_path(rng, middle, frames)]
    pictures = [render(scene, pose, size_px) for pose in poses]
    return np.stack([np.asarray(each) if recolouring is None else recoloured(each, recolouring) for each in pictures])


def _draw_path(rng: np.random.Generator, middle: Pose, frames: int) -> list[Pose]:
    """Draw poses around `middle`: one or two degrees of freedom move steadily, all of them wander a little."""
    speeds = dict.fromkeys(TRAVEL, 0.0)
    for moving in rng.permutation(list(TRAVEL))[: int(rng.integers(1, 3))]:
        speeds[str(moving)] = float(rng.uniform(-FASTEST, FASTEST))
    wander = {dof: float(rng.uniform(-0.25, 0.25)) for dof in TRAVEL}
    return [
        moved(middle, {dof: TRAVEL[dof] * (speeds[dof] * t + wander[dof] * math.sin(math.pi * t)) for dof in TRAVEL})
        for t in np.linspace(-1, 1, frames)
    ]
