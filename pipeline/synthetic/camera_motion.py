"""Write small video sets in which a virtual camera moves over photographs: labelled by its motion, and unlabelled.

`camera`, `photographs` and `scenes` draw the pictures; this module encodes and writes them.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

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
    UserError if `out` contains a set with other numbers.
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

    for label in CLASSES:
        for split in ("train", "test"):
            (out / split / label).mkdir(parents=True, exist_ok=True)
    counts = {
        "train": train_clips_per_class * len(CLASSES),
        "test": test_clips_per_class * len(CLASSES),
        "unlabelled": unlabelled_clips,
        "images": images,
    }
    for folder in ("unlabelled", "images"):
        (out / folder).mkdir(exist_ok=True)
    jobs = [(kind, i) for kind, count in counts.items() for i in range(count)]
    chunks = [(out, wanted, jobs[i : i + 100]) for i in range(0, len(jobs), 100)]
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_write_chunk, chunks))
    else:
        list(map(_write_chunk, chunks))
    write_atomic(out / "ATTRIBUTION.txt", attribution().encode())
    write_record(record_path, wanted)
    return wanted


def _write_chunk(chunk: tuple[Path, CameraMotionSet, list[tuple[str, int]]]) -> None:
    out, spec, jobs = chunk
    for kind, index in jobs:
        rng = rng_for("camera_motion", spec.seed, kind, index)
        if kind == "images":
            picture = draw_picture(index, spec.image_px, rng)
            Image.fromarray(picture).save(out / kind / f"{index:06d}.jpg", quality=92)
        elif kind == "unlabelled":
            write_clip(
                out / kind / f"{index:06d}.mp4", draw_unlabelled(index, spec.frames, spec.size_px, rng), spec.fps
            )
        else:
            label = CLASSES[index % len(CLASSES)]
            frames = draw_clip(list(PHOTOGRAPHS[kind]), kind, label, spec.frames, spec.size_px, rng)
            write_clip(out / kind / label / f"{index:06d}.mp4", frames, spec.fps)


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
