"""GPUs, CPUs, memory, limits and disks of this machine, with short measurements."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bevt_core.cpus import usable_cpus
from bevt_core.processes import kernel_ends_children
from bevt_core.rng import rng_for
from bevt_core.system import LIMITS_ADDRESS_SPACE, PROC, SHARED_MEMORY, forget_pages
from bevt_core.untrusted.isolation import MEMORY_CHECK_S
from pipeline.doctor.finding import Finding, ok_unless

GB = 1e9
FEW_FILES = 4096  # open files; Ray and loaders of many shards need more than the usual 1,024
SMALL_SHARED_MEMORY = 2e9
LITTLE_MEMORY = 8e9
DISK_BYTES = 128 << 20
SLOW_DISK = 100e6  # bytes/s; 16 loader processes of one H100 read about as much
MEASURE_S = 0.5
# Head dimension and window of Video Swin
HEAD_DIM, WINDOW_POSITIONS = 32, 8 * 7 * 7


def gpus() -> Finding:
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        texts = [f"{gpu.name}, {gpu.total_memory / GB:.0f} GB" for gpu in found]
        value = "; ".join(f"{texts.count(text)} x {text}" for text in dict.fromkeys(texts))
        if min(gpu.major for gpu in found) < 8:
            return Finding("GPUs", value, "warning", "these GPUs have no bf16: use `--set loop.precision=fp16`")
        return Finding("GPUs", value)
    if Path("/dev/nvidia0").exists():
        built_for = torch.version.cuda
        advice = (
            "the driver does not support this torch's CUDA; update the driver, or install a torch for an older CUDA"
            if built_for
            else "this torch is built for CPUs only; install one for CUDA: https://pytorch.org/get-started/locally"
        )
        return Finding("GPUs", "found by the system, not by torch", "problem", advice)
    return Finding("GPUs", "none", "warning", "the small recipes (nano, laptop) train on CPUs, the paper's do not")


def attention() -> Finding:
    """The implementation of window attention that training takes here."""
    import torch

    from bevt_core.models.window_attention.dispatch import fastest_implementation

    cuda = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32
    chosen = fastest_implementation(device, dtype, WINDOW_POSITIONS, HEAD_DIM)
    advice = "Triton is missing or does not support this GPU: attention needs more time and memory"
    return ok_unless("window attention", chosen, cuda and chosen != "triton", advice)


def cpus() -> Finding:
    usable, all_cpus = usable_cpus(), os.cpu_count() or 1
    value = str(usable) if usable == all_cpus else f"{usable} of {all_cpus}, by affinity or the container's quota"
    return Finding("CPUs", value)


def memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    advice = "jobs on Ray need about 2 GB a worker; give `--set run.num_cpus=2` for fewer workers"
    return ok_unless("memory", f"{total / GB:.0f} GB", total < LITTLE_MEMORY, advice)


def shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir():
        value = f"none; Ray and loader processes use files in {tempfile.gettempdir()}"
        return ok_unless("/dev/shm", value, PROC is not None, "mount it: files are slower")
    free = shutil.disk_usage(SHARED_MEMORY).free
    advice = "too small for Ray, which will use a folder; in a container: `--shm-size 8g`"
    return ok_unless("/dev/shm", f"{free / GB:.1f} GB free", free < SMALL_SHARED_MEMORY, advice)


def open_files() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = f"raise it: `ulimit -n {min(hard, 65536) if hard > 0 else 65536}`"
    return ok_unless("open files", f"at most {soft}", 0 < soft < FEW_FILES, advice)


def isolation() -> Finding:
    """What the kernel enforces on the child processes that decode untrusted files."""
    missing = []
    if not LIMITS_ADDRESS_SPACE:
        missing.append(f"memory is checked every {MEMORY_CHECK_S:g} s instead of limited")
    if not kernel_ends_children():
        missing.append("a decoder that hangs in native code outlives a killed command")
    value = "; ".join(missing) or "the kernel limits their memory, and ends them with the command"
    return ok_unless("decoding processes", value, bool(missing), "on this system, decode files that you trust")


def disk(folder: Path) -> Finding:
    """Sequential speed of a new file in `folder`, and the free space."""
    subject = f"disk of {folder}"
    if not folder.is_dir():
        return Finding(subject, "no such folder", "problem", "create it, or give another folder as --data")
    if not os.access(folder, os.W_OK):
        return Finding(subject, "not writable", "problem", "choose a folder that you may write to")
    free = shutil.disk_usage(folder).free
    if free < 4 * DISK_BYTES:
        return Finding(subject, f"{free / GB:.2f} GB free", "problem", "free some space")
    block = rng_for("doctor", 0).integers(0, 256, size=1 << 20, dtype=np.uint8).tobytes()
    with tempfile.TemporaryFile(dir=folder) as file:
        begun = time.monotonic()
        for _ in range(DISK_BYTES >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        write_rate = DISK_BYTES / (time.monotonic() - begun)
        forget_pages(file.fileno())
        begun = time.monotonic()
        file.seek(0)
        while file.read(1 << 20):
            pass
        read_rate = DISK_BYTES / (time.monotonic() - begun)
    value = f"{free / GB:.0f} GB free, writes {write_rate / 1e6:.0f} MB/s, reads {read_rate / 1e6:.0f} MB/s"
    return ok_unless(subject, value, read_rate < SLOW_DISK, "loaders may wait for it: keep shards on a faster disk")


def decoding() -> Finding:
    """Frames per second and CPU: JPEGs of a photograph as in a frame store, and a video of it, both 256 px square."""
    from bevt_core.views.replay import decode_jpeg, encode_jpeg
    from pipeline.synthetic.camera_motion import write_clip
    from pipeline.synthetic.photographs import PHOTOGRAPHS, draw_image

    picture_HWC = draw_image(next(iter(PHOTOGRAPHS["train"])), 256, rng_for("doctor", 1))
    frames_THWC = np.stack([np.roll(picture_HWC, 2 * number, axis=1) for number in range(32)])
    jpeg = encode_jpeg(frames_THWC[0], 90)
    jpegs = per_second(lambda: decode_jpeg(jpeg))
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "clip.mp4"
        write_clip(video, frames_THWC, 25)
        videos = len(frames_THWC) * per_second(lambda: _decode_video(video))
    return Finding("decoding, per CPU", f"{jpegs:.0f} JPEGs/s, {videos:.0f} video frames/s (256 x 256)")


def _decode_video(path: Path) -> None:
    import av

    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for _ in container.decode(video=0):
            pass


def per_second(work: Callable[[], object]) -> float:
    """How often `work` is done per second of CPU."""
    work()
    done, begun = 0, time.process_time()
    while time.process_time() - begun < MEASURE_S:
        work()
        done += 1
    return done / (time.process_time() - begun)
