"""Pickles in anonymous memory: the same values, with arrays that all readers share."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.support.builders import make_token_set
from trainer.clips.sources import StoreClips
from trainer.data.shared_pickle import read_shared, write_shared
from trainer.tokenizer.frame_crops import FrameCrops

VALUES: dict[str, Any] = {
    "nothing": None,
    "an array": np.arange(12.0).reshape(3, 4),
    "a column of it": np.arange(12).reshape(3, 4)[:, 1],
    "an empty array": np.zeros((0, 3), np.uint8),
    "texts": pa.array(["a", "", "日本", None], pa.large_string()),
    "rows": pa.record_batch({"x": [1, None, 3], "y": ["p", "q", "r"]}),
    "several": {"text": "x" * 1000, "list": [np.ones(3, np.int8), np.arange(5)]},
}


def through_memory(value: Any) -> Any:
    descriptor = os.memfd_create("test")
    try:
        write_shared(value, descriptor)
        return read_shared(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", VALUES)
def test_values_are_the_same(name: str) -> None:
    value, found = VALUES[name], through_memory(VALUES[name])
    if isinstance(value, dict):
        assert found["text"] == value["text"]
        assert all(map(np.array_equal, found["list"], value["list"]))
    elif isinstance(value, np.ndarray):
        assert found.dtype == value.dtype and np.array_equal(found, value)
    else:
        assert found == value


def test_arrays_are_not_copied() -> None:
    found = through_memory({"array": np.arange(1000), "column": pa.array(range(1000))})
    addresses = [found["array"].ctypes.data, found["column"].buffers()[1].address]
    lines = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:test" in line]
    mapped = [range(*(int(end, 16) for end in line.split("-"))) for line in lines]
    assert all(any(address in part for part in mapped) for address in addresses)
    assert not found["array"].flags.writeable and found["array"].ctypes.data % 64 == 0


def test_the_clips_of_a_store_are_shared_by_its_workers(tmp_path: Path) -> None:
    """What each worker unpickles does not grow with the number of clips, and it gives the same clips."""
    sizes = []
    for count in (4, 40):
        clips = StoreClips(make_token_set(tmp_path / str(count), num_samples=count, frames=2).frames.path)
        for given in (clips, clips.subset(clips.items[1:]), clips.subset(clips.items[::2])):
            sizes.append(len(pickle.dumps(given, protocol=5, buffer_callback=lambda buffer: None)))
            found = through_memory(given)
            assert found.items == given.items and found.digest == given.digest and found.stride == given.stride
            assert found.uneven_item is None and found.frame_indices(1) == given.frame_indices(1)
            one, other = (each.read(1, lambda n: np.arange(n)) for each in (found, given))
            assert all(map(np.array_equal, one, other))
    assert max(sizes) < min(sizes) + 300


def test_random_crops_are_shared_by_their_workers(tmp_path: Path) -> None:
    sizes = []
    for count in (4, 40):
        folder = make_token_set(tmp_path / str(count), num_samples=count, frames=2).frames.path
        crops = FrameCrops((folder,), 32, (0,), held_out=False)
        sizes.append(len(pickle.dumps(crops, protocol=5, buffer_callback=lambda buffer: None)))
        found = through_memory(crops)
        assert len(found) == len(crops) == count - max(1, round(count * 0.05))
        assert found[0, 3]["sample_id"] == crops[0, 3]["sample_id"]
    assert max(sizes) < min(sizes) + 100
