"""Encoding of a stream of batches: the ids are the same, and a GPU does not wait between batches."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bevt_core.tokenizers import PRETRAINED, base, load_tokenizer
from bevt_core.tokenizers.base import Tokenizer, encode_batches
from bevt_core.tokenizers.dvae import networks
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.dvae.tokenizer import DvaeTokenizer
from tests.support.fake_cuda import CUDA, fake_cuda


def test_the_ids_equal_encodes_in_order() -> None:
    tokenizer = load_tokenizer(PRETRAINED / "dvae-small")
    frames_NPPC = np.random.default_rng(0).integers(0, 256, (20, 112, 112, 3), dtype=np.uint8)
    batches = list(enumerate(np.split(frames_NPPC, [16])))
    results = list(encode_batches(tokenizer, batches, threading.Lock()))
    assert [key for key, _ in results] == [0, 1]
    ids_Nhw = np.concatenate([encoded.ids_Nhw for _, encoded in results])
    np.testing.assert_array_equal(ids_Nhw, tokenizer.encode(torch.from_numpy(frames_NPPC)).numpy())
    assert all(encoded.busy_s > 0 for _, encoded in results)
    assert list(encode_batches(tokenizer, [], threading.Lock())) == []


@pytest.mark.fake_cuda
def test_a_batch_goes_to_the_gpu_and_back_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    encoder = networks.build_encoder(DvaeSizes(n_hid=8, n_blk_per_group=1, n_init=16, vocab_size=32))
    with fake_cuda() as watch:
        tokenizer = DvaeTokenizer(
            encoder, None, name="", input_px=32, weights_sha256="", device=CUDA, dtype="float32", pass_frames=4
        )
        watch.faults.clear()
        watch.copies.clear()
        base._start(tokenizer, torch.zeros(5, 32, 32, 3, dtype=torch.uint8))
    assert watch.copies == ["to the device", "to the device", "from the device"]
    assert watch.faults == []


def test_the_next_batch_is_queued_before_the_last_ids_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    lock = threading.Lock()

    def start(tokenizer: Tokenizer, frames_NPPC: torch.Tensor) -> Callable[[], base.Encoded]:
        name = str(int(frames_NPPC[0]))
        assert lock.locked()
        events.append(f"start {name}")

        def wait() -> base.Encoded:
            assert not lock.locked()
            events.append(f"wait {name}")
            return base.Encoded(frames_NPPC.numpy(), 1.0)

        return wait

    monkeypatch.setattr(base, "_start", start)
    tokenizer: Any = SimpleNamespace(device=CUDA)
    batches = ((f"key {i}", np.array([i])) for i in range(3))
    results = [(key, int(encoded.ids_Nhw[0])) for key, encoded in encode_batches(tokenizer, batches, lock)]
    assert results == [("key 0", 0), ("key 1", 1), ("key 2", 2)]
    assert events == ["start 0", "start 1", "wait 0", "start 2", "wait 1", "wait 2"]
