"""Write small video sets in which a virtual camera moves over photographs: labelled by its motion, and unlabelled.

`camera`, `photographs` and `scenes` draw the pictures; this module encodes and writes them.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from bevt_core.console.readable import count
from bevt_core.processes import die_with_parent
from bevt_core.rng import rng_for
from bevt_core.storage.files import read_record, write_atomic, write_record
from bevt_core.storage.one_writer import writes
from pipeline.synthetic.camera import CLASSES, draw_clip
from pipeline.synthetic.photographs import PHOTOGRAPHS, attribution
from pipeline.synthetic.scenes import draw_picture, draw_unlabelled
from schemas.base import Record
from schemas.errors import UserError
from schemas.ranges import Count, Frames, Pixels, Seed


class CameraMotionSet(Record):
    """`camera-motion.json`, written last: every number that determines the folder's content."""

    train_clips_per_class: Count
    test_clips_per_class: Count
    unlabelled_clips: Count
    images: Count
    frames: Frames
    size_px: Pixels
    image_px: Pixels
    fps: Frames
    seed: Seed


@writes(lambda out, **_: out, "bevt demo-videos")
def make_camera_motion_set(
    out: Path,
    *,
    train_clips_per_class: int = 64,
    test_clips_per_class: int = 48,
    unlabelled_clips: int = 512,
    images: int = 512,
    frames: int = 8,
    size_px: int = 80,
    image_px: int = 96,
    fps: int = 8,
    seed: int = 0,
    workers: int = 2,
) -> CameraMotionSet:
    """Write the clips `train/<class>/*.mp4`, `test/<class>/*.mp4` and `unlabelled/*.mp4`, and pictures, under `out`.

    The pictures are `images/*.jpg`; ATTRIBUTION.txt names the photographs that everything was made from.

    The bytes depend on the numbers above, not on `workers`. A complete set with the same numbers is kept. Raises
    UserError if `out` contains a set with other numbers, or clips and pictures that this set does not have.
    """
    wanted = CameraMotionSet(
        train_clips_per_class=train_clips_per_class,
        test_clips_per_class=test_clips_per_class,
        unlabelled_clips=unlabelled_clips,
        images=images,
        frames=frames,
        size_px=size_px,
        image_px=image_px,
        fps=fps,
        seed=seed,
    )
    record_path = out / "camera-motion.json"
    found = read_record(record_path, CameraMotionSet)
    if found == wanted:
        return wanted
    if found is not None:
        raise UserError(f"{out} contains another camera-motion set ({found}), wanted {wanted}; give another folder")

    counts = {
        "train": train_clips_per_class * len(CLASSES),
        "test": test_clips_per_class * len(CLASSES),
        "unlabelled": unlabelled_clips,
        "images": images,
    }
    jobs = [(kind, i) for kind, number in counts.items() for i in range(number)]
    _check_no_others(out, {_file(kind, i) for kind, i in jobs})
    for folder in {_file(kind, i).parent for kind, i in jobs}:
        (out / folder).mkdir(parents=True, exist_ok=True)
    chunks = [(out, wanted, jobs[i : i + 100]) for i in range(0, len(jobs), 100)]
    if workers > 1:
        spawn = get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, initializer=die_with_parent, initargs=(os.getpid(),)) as pool:
            list(pool.map(_write_chunk, chunks))
    else:
        list(map(_write_chunk, chunks))
    write_atomic(out / "ATTRIBUTION.txt", attribution().encode())
    write_record(record_path, wanted)
    return wanted


def _file(kind: str, index: int) -> Path:
    """The path of a clip or picture below the set's folder."""
    if kind == "images":
        return Path(kind) / f"{index:06d}.jpg"
    return Path(kind) / ("" if kind == "unlabelled" else CLASSES[index % len(CLASSES)]) / f"{index:06d}.mp4"


def _check_no_others(out: Path, files: set[Path]) -> None:
    """Raise UserError if the set's folders contain files of another set, as an interrupted call leaves them."""
    folders = {out / file.parts[0] for file in files}
    found = {path.relative_to(out) for folder in folders for path in folder.rglob("[!.]*") if not path.is_dir()}
    if others := sorted(found - files):
        raise UserError(
            f"{out / others[0]} is not part of the wanted set ({count(len(others), 'such file')}), perhaps left by an "
            "interrupted call with other numbers; remove them, or give another folder"
        )


def _write_chunk(chunk: tuple[Path, CameraMotionSet, list[tuple[str, int]]]) -> None:
    out, spec, jobs = chunk
    for kind, index in jobs:
        rng, path = rng_for("camera_motion", spec.seed, kind, index), out / _file(kind, index)
        if kind == "images":
            Image.fromarray(draw_picture(index, spec.image_px, rng)).save(path, quality=92)
        elif kind == "unlabelled":
            write_clip(path, draw_unlabelled(index, spec.frames, spec.size_px, rng), spec.fps)
        else:
            label = CLASSES[index % len(CLASSES)]
            frames = draw_clip(list(PHOTOGRAPHS[kind]), kind, label, spec.frames, spec.size_px, rng)
            write_clip(path, frames, spec.fps)


def write_clip(path: Path, frames_THWC: np.ndarray, fps: int) -> None:
    """Encode uint8 frames (T, H, W, 3) with x264 as one group of pictures."""
    import av  # not at the top, so that clips can be drawn without PyAV

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "24", "g": str(len(frames_THWC)), "threads": "1"}
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
