"""Write a small labelled video set: a virtual camera moves over photographs, and its motion is the class.

`camera` and `photographs` draw the pictures; this module encodes and writes them.
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
from pipeline.synthetic.photographs import PHOTOGRAPHS, attribution, draw_image, normalised
from schemas.base import Record
from schemas.errors import UserError
from schemas.ranges import Count, Frames, Pixels, Seed


class CameraMotionSet(Record):
    """`camera-motion.json`, written last: every number that determines the folder's content."""

    train_clips_per_class: Count
    test_clips_per_class: Count
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

    The bytes depend on the numbers above, not on `workers`. A complete set with the same numbers is kept. Raises
    UserError if `out` contains a set with other numbers.
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
    record_path = out / "camera-motion.json"
    found = read_record(record_path, CameraMotionSet)
    if found == wanted:
        return wanted
    if found is not None:
        raise UserError(f"{out} contains another camera-motion set ({found}), wanted {wanted}; give another folder")

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
    write_atomic(out / "ATTRIBUTION.txt", attribution().encode())
    write_record(record_path, wanted)
    return wanted


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
    import av  # not at the top, so that clips can be drawn without PyAV

    frames_THWC = normalised(draw_clip(list(PHOTOGRAPHS[split]), split, label, spec.frames, spec.size_px, rng))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=spec.fps)
        stream.width = stream.height = spec.size_px
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "24", "g": str(spec.frames), "threads": "1"}
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))


def _write_image(path: Path, name: str, spec: CameraMotionSet, rng: np.random.Generator) -> None:
    Image.fromarray(draw_image(name, spec.image_px, rng)).save(path, quality=92)
