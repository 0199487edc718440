"""Damaged checkpoints load or raise one UserError, quickly and without large allocations.

The damage is in the headers: of a .pth archive everything but the tensors' bytes, of safetensors the JSON. A read
beyond a damaged record would crash the whole test run.
"""

import io
import random
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save as serialize

from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.weights.model_files import import_video_swin, load_weights, save_weights
from schemas.errors import UserError
from tests.support.foreign_checkpoints import as_video_swin, small_swin3d

CASES, LIMIT_S, LIMIT_KB = 1000, 2.0, 500 << 10


class Original(NamedTuple):
    data: bytes
    headers: list[int]  # positions outside the tensors' data
    read: Callable[[Path], object]


def torch_zip() -> Original:
    buffer = io.BytesIO()
    torch.save({"meta": {"epoch": 30}, "state_dict": as_video_swin(small_swin3d().state_dict())}, buffer)
    data = buffer.getvalue()
    tensors: set[int] = set()
    with zipfile.ZipFile(buffer) as archive:
        for entry in archive.infolist():
            if "/data/" in entry.filename:
                begin = entry.header_offset + 30 + len(entry.filename)
                tensors |= set(range(begin, begin + entry.file_size))
    return Original(data, sorted(set(range(len(data))) - tensors), import_video_swin)


def old_torch_file() -> Original:
    buffer = io.BytesIO()
    state = as_video_swin(small_swin3d().state_dict())
    torch.save({"state_dict": state}, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    pickles = len(data) - sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return Original(data, list(range(pickles)), import_video_swin)


def foreign_safetensors() -> Original:
    data = serialize(as_video_swin(small_swin3d().state_dict()))
    return Original(data, list(range(8 + int.from_bytes(data[:8], "little"))), import_video_swin)


def own_safetensors(folder: Path) -> Original:
    save_weights(folder / "own.safetensors", build_classifier(**SWIN_SIZES["nano"], num_classes=5))
    data = (folder / "own.safetensors").read_bytes()
    config = range(8, data.index(b'"encoder.'))  # most of the header consists of tensor names
    return Original(data, [*range(8), *config, *range(8 + int.from_bytes(data[:8], "little"))], load_weights)


def damaged(original: Original, rng: random.Random) -> bytes:
    """One to three changes in the headers: a byte, a bit or a digit; bytes removed, inserted or repeated; a cut."""
    data = bytearray(original.data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = min(rng.choice(original.headers), len(data) - 1)
        match rng.randrange(7):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at] = rng.choice(b'0123456789"{}[],:.')
            case 3:
                del data[at : at + rng.choice([1, 2, 8, 100])]
            case 4:
                data[at:at] = rng.randbytes(rng.choice([1, 2, 8, 100]))
            case 5:
                data[at:at] = data[at : at + rng.choice([1, 4, 50])]
            case 6:
                del data[at:]
        if not data:
            break
    return bytes(data)


def outcomes(cases: range, folder: Path) -> dict[str, int]:
    originals = [torch_zip(), old_torch_file(), foreign_safetensors(), own_safetensors(folder)]
    counts = {"read": 0, "refused": 0}
    for original in originals:
        (folder / "whole").write_bytes(original.data)
        original.read(folder / "whole")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in cases:
        original = originals[case % len(originals)]
        path = folder / f"case-{case}.pth"
        path.write_bytes(damaged(original, random.Random(case)))
        begun = time.process_time()
        try:
            original.read(path)
            counts["read"] += 1
        except UserError as error:
            counts["refused"] += 1
            assert str(error).startswith(str(path)), f"case {case}"
            assert "\n" not in str(error), f"case {case}"
        assert time.process_time() - begun < LIMIT_S, f"case {case}"
        path.unlink()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < LIMIT_KB
    return counts


def test_some_damaged_checkpoints(tmp_path: Path) -> None:
    assert outcomes(range(32), tmp_path)["refused"] > 10


@pytest.mark.slow
def test_a_thousand_damaged_checkpoints(tmp_path: Path) -> None:
    assert outcomes(range(CASES), tmp_path)["refused"] > CASES // 3
