"""The model's input: stored frames under a stored view, with the tokens of exactly these."""

import pickle
import re
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from bevt_core.dataset.frame_store import read_frame_commit
from bevt_core.dataset.token_set import read_token_plan, write_token_part
from bevt_core.masking import MASKERS, draw_mask
from bevt_core.models.stems import normalise
from bevt_core.views.replay import apply_view
from schemas.models import BlockMask, MaskConfig
from tests.support.builders import make_token_set
from tests.support.pretraining import TUBE, dataset_of
from trainer.data.batches import StreamBatches
from trainer.data.errors import SampleError
from trainer.data.loader import make_loader
from trainer.data.order import StreamOrder, view_of_epoch
from trainer.pretrain.streams import MASKS

BLOCK = BlockMask(kind="block", ratio=0.5, min_block=2)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return make_token_set(tmp_path_factory.mktemp("videos"), num_samples=20, sources_per_part=8, num_views=3)


def batches_of(tokens, rank=0, world_size=1, num_workers=0):
    dataset = dataset_of(tokens)
    order = StreamOrder(dataset.part_sizes, 6, 2, (0, "video"))
    return StreamBatches(
        {"video": (dataset, order)}, rank=rank, world_size=world_size, num_workers=num_workers, pin_memory=False
    )


def test_pixels_and_tokens_are_those_of_one_stored_view(tokens):
    dataset = dataset_of(tokens)
    index = tokens.frames.index
    starts = set()
    for epoch in range(3):
        for position in range(20):
            sample = dataset[epoch, position]
            part, row = position // 8, position % 8
            assert sample["sample_id"] == index["sample_id"][position].as_py()
            part_view = tokens.read_view(part, view_of_epoch(3, part, epoch, 0, "video"))
            stored = torch.from_numpy(part_view.tokens[row].astype(np.int64))
            start = next(s for s in range(3) if torch.equal(stored[s : s + 8], sample["tokens"]))
            frames = tokens.frames.read_frames(part, index["frame_start"][position].as_py() + start, 8)
            seen = np.stack([apply_view(frame, part_view.views[row]) for frame in frames])
            assert np.array_equal(sample["clip"].numpy(), seen)
            starts.add(start)
    assert starts == {0, 1, 2}


def test_a_sample_is_a_function_of_seed_epoch_and_identity(tokens):
    one, other = dataset_of(tokens)[4, 7], pickle.loads(pickle.dumps(dataset_of(tokens, cached_parts=1)))[4, 7]
    assert all(torch.equal(one[key], other[key]) for key in ("clip", "tokens", "mask"))
    assert not torch.equal(one["mask"], dataset_of(tokens)[5, 7]["mask"])


def test_a_large_epoch_is_replayed_by_compiled_code_with_the_same_pixels(tokens):
    dataset = dataset_of(tokens)
    assert (dataset.backend, dataset_of(tokens, clip_frames=64).backend) == ("pillow", "compiled")
    by_pillow = dataset[1, 3]["clip"]
    dataset.backend = "compiled"
    assert torch.equal(dataset[1, 3]["clip"], by_pillow)


def test_a_short_pool_loops(tokens):
    sample = dataset_of(tokens, clip_frames=24)[0, 3]
    for key in ("clip", "tokens"):
        assert torch.equal(sample[key][:10], sample[key][10:20]) and torch.equal(sample[key][:4], sample[key][20:])
    assert sample["mask"].shape == (12, 4, 4)


def test_a_single_frame_of_a_video_is_an_image(tokens):
    sample = dataset_of(tokens, name="image", clip_frames=1, tubelet=1, mask=BLOCK)[0, 0]
    assert sample["clip"].shape == (1, 64, 64, 3) and sample["tokens"].shape == sample["mask"].shape == (1, 4, 4)


def test_ranks_share_the_global_batch(tokens):
    whole = batches_of(tokens)[5][0]["video"]
    parts = [batches_of(tokens, rank, 4)[5][0]["video"] for rank in range(4)]
    assert [len(part["clip"]) for part in parts] == [1, 2, 1, 2]
    for key in ("clip", "tokens", "mask"):
        assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])


def test_micro_batches_share_the_ranks_batch_and_name_what_is_hidden_in_each(tokens):
    dataset = dataset_of(tokens, hidden_multiple=16)
    order = StreamOrder(dataset.part_sizes, 6, 2, (0, "video"))
    batches = StreamBatches(
        {"video": (dataset, order)}, rank=0, world_size=1, num_workers=0, pin_memory=False, micro_batches=4
    )
    micros, (whole,) = batches[5], batches_of(tokens)[5]
    assert [len(micro["video"]["clip"]) for micro in micros] == [1, 2, 1, 2]
    assert [name for micro in micros for name in batches.samples_in(micro)] == whole["video"]["sample_id"]
    for micro in micros:
        part, hidden_M = micro["video"], micro["video"]["hidden"]
        assert len(hidden_M) % 16 == 0 and len(hidden_M) - (hidden_M >= 0).sum() < 16
        hidden_BTHW = part["mask"].repeat_interleave(2, dim=1)
        assert torch.equal(hidden_M[hidden_M >= 0], hidden_BTHW.flatten().nonzero().flatten())


def test_loader_workers_give_the_same_batches(tokens):
    direct = batches_of(tokens)
    loader = make_loader(batches_of(tokens), 2, 5, num_workers=1, pin_memory=False)
    for step, (batch,) in zip(range(2, 5), loader, strict=True):
        (expected,) = direct[step]
        assert batch["video"]["sample_id"] == expected["video"]["sample_id"]
        assert torch.equal(batch["video"]["clip"], expected["video"]["clip"])
        assert torch.equal(batch["video"]["mask"], expected["video"]["mask"])
    assert direct.samples_in(expected) == expected["video"]["sample_id"]


def test_an_unreadable_sample_is_named_with_its_part_and_file(tmp_path):
    tokens = make_token_set(tmp_path, num_samples=4, sources_per_part=2)
    dataset = dataset_of(tokens)
    (tokens.path / "part-00001.parquet").write_bytes(b"torn")
    with pytest.raises(SampleError, match=r"sample '0003.mp4' in part-00001 of .*tokens.*bevt verify") as direct:
        dataset[0, 3]
    order = StreamOrder(dataset.part_sizes, 4, 2, (0, "video"))
    batches = StreamBatches({"video": (dataset, order)}, rank=0, world_size=1, num_workers=1, pin_memory=False)
    with pytest.raises(SampleError) as loaded:  # from a worker: the message, with the worker's traceback as the cause
        next(iter(batches.batches(0, 1)))
    assert re.sub("000[23]", "", str(loaded.value)) == re.sub("000[23]", "", str(direct.value))
    assert "in a loader's process" in str(loaded.value.__cause__)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda view, ids: with_token(view, 64), r"'0001.mp4' has the token 64 in view .*'test' has tokens 0 to 63"),
        (lambda view, ids: with_token(view, 65535), r"part-00000.parquet: sample '0001.mp4' has the token 65535 in"),
        (lambda view, ids: shorten(view), "sample '0000.mp4' has tokens for 9 frames, but 10 frames"),
        (
            lambda view, ids: move(view, left_px=90),
            r"'0001.mp4' has a crop of \d+ px at \(\d, 90\) .*outside its frame of",
        ),
        (lambda view, ids: move(view, crop_px=96), "'0001.mp4' has a crop of 96 px in view"),
        (lambda view, ids: move(view, top_px=-1), "top_px: expected a whole number from 0 to"),
        (lambda view, ids: (view.views.pop(), view.tokens.pop(), ids.pop()), "1 rows in view ., but the part has 2"),
    ],
)
def test_an_invalid_row_is_named(tmp_path, change, message):
    tokens = make_token_set(tmp_path, num_samples=4, sources_per_part=2)
    views, ids = [tokens.read_view(0, view) for view in range(2)], ["0000.mp4", "0001.mp4"]
    change(views[0], ids)
    change(views[1], list("ab"))
    commit = read_frame_commit(tokens.frames.path, 0, tokens.frames.manifest.plan_digest)
    write_token_part(tokens.path, commit, ids, views, read_token_plan(tokens.path))
    with pytest.raises(SampleError, match=message) as error:
        dataset_of(tokens)[0, 0]
    assert "bevt verify`, then `bevt repair" in str(error.value) and "\n" not in str(error.value)
    assert dataset_of(tokens)[0, 2]["tokens"].shape == (8, 4, 4)  # from the other part, which is intact


def with_token(view, token):
    """Insert `token` into the second sample."""
    view.tokens[1] = view.tokens[1].copy()
    view.tokens[1][3, 2, 1] = token


def shorten(view):
    """Drop the last frame of each sample."""
    view.tokens[:] = [tokens[:-1] for tokens in view.tokens]


def move(view, **changes):
    """Change the box of the second sample."""
    view.views[1] = view.views[1].model_copy(update=changes)


def test_masks_hide_at_most_their_share():
    rng = np.random.default_rng(0)
    frames_THWC = rng.integers(0, 256, (8, 28, 28, 3), dtype=np.uint8)
    assert draw_mask(TUBE, rng, (4, 4, 4), frames_THWC).sum(axis=(1, 2)).max() <= 8
    assert draw_mask(BLOCK, rng, (1, 14, 14), frames_THWC[:1]).shape == (1, 14, 14)
    for kind in ("random_3d", "random_frame", "frame_diff"):
        config = TypeAdapter(MaskConfig).validate_python({"kind": kind, "ratio": 0.5})
        assert draw_mask(config, rng, (4, 4, 4), frames_THWC).sum() == 32


def test_every_mask_of_the_method_is_a_mask_of_the_recipes():
    union, _ = get_args(MaskConfig)
    kinds = {get_args(config.model_fields["kind"].annotation)[0] for config in get_args(union)}
    assert kinds == {*MASKERS, "block"} == {kind for stream in MASKS.values() for kind in stream}


def test_normalise_gives_channels_first_with_imagenets_statistics():
    clip = torch.zeros(2, 3, 4, 5, 3, dtype=torch.uint8)
    clip[..., 0] = 124
    normal = normalise(clip)
    assert normal.shape == (2, 3, 3, 4, 5)
    assert normal[0, 0, 0, 0, 0] == pytest.approx((124 - 123.675) / 58.395, abs=1e-6)
    assert normal[1, 2, 2, 3, 4] == pytest.approx(-103.53 / 57.375)
