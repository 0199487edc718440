"""The order of samples: none lost, none repeated, the same global batches on any number of processes."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UserError
from trainer.data.order import StreamOrder, epoch_order, rank_slice, view_of_epoch

part_lists = st.lists(st.integers(0, 40), min_size=1, max_size=30).map(lambda sizes: np.array(sizes, dtype=np.int64))


@settings(deadline=None)
@given(part_lists, st.integers(1, 12), st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_is_a_permutation_of_all_samples(sizes, window_parts, seed, epoch):
    order = epoch_order(sizes, window_parts, seed, "video", epoch)
    assert np.array_equal(np.sort(order), np.arange(sizes.sum()))
    assert np.array_equal(order, epoch_order(sizes, window_parts, seed, "video", epoch))


@settings(deadline=None)
@given(part_lists, st.integers(1, 12))
def test_samples_move_only_inside_their_window_of_parts(sizes, window_parts):
    order = epoch_order(sizes, window_parts, 0, "video", 0)
    part_of = np.repeat(np.arange(len(sizes)), sizes)[order]
    first_seen = list(dict.fromkeys(part_of.tolist()))
    last_seen = {part: at for at, part in enumerate(part_of.tolist())}
    begun = {part: part_of.tolist().index(part) for part in first_seen}
    for part in first_seen:  # while one part is read, at most `window_parts` are open
        assert (
            sum(begun[part] <= last_seen[other] and begun[other] <= last_seen[part] for other in first_seen)
            <= window_parts
        )


@settings(deadline=None)
@given(
    part_lists.filter(lambda sizes: sizes.sum() >= 24),
    st.integers(1, 24),
    st.lists(st.tuples(st.integers(1, 24), st.integers(1, 7)), min_size=1, max_size=6),
)
def test_any_schedule_of_world_sizes_reads_the_same_global_batches(sizes, global_batch, stretches):
    straight = StreamOrder(sizes, global_batch, 4, (0, "video"))
    step = 0
    for world_size, num_steps in stretches:  # every stretch is a new run that resumes at `step`
        resumed = StreamOrder(sizes, global_batch, 4, (0, "video"))
        for _ in range(num_steps):
            epoch, batch = straight.batch(step)
            shares = [rank_slice(resumed.batch(step)[1], rank, world_size) for rank in range(world_size)]
            assert np.array_equal(np.concatenate(shares), batch)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
            assert epoch == resumed.batch(step)[0]
            step += 1


@settings(deadline=None)
@given(part_lists.filter(lambda sizes: sizes.sum() >= 5), st.integers(1, 5))
def test_an_epoch_leaves_out_only_the_declared_rest(sizes, global_batch):
    order = StreamOrder(sizes, global_batch, 2, (1, "image"))
    batches = [order.batch(step) for step in range(2 * order.steps_per_epoch)]
    for epoch in (0, 1):
        seen = np.concatenate([batch for e, batch in batches if e == epoch])
        assert len(np.unique(seen)) == len(seen) == order.num_samples - order.dropped_per_epoch


def test_epochs_seeds_and_streams_differ():
    sizes = np.full(10, 20, dtype=np.int64)
    orders = [
        epoch_order(sizes, 4, *key) for key in [(0, "video", 0), (0, "video", 1), (1, "video", 0), (0, "image", 0)]
    ]
    assert len({order.tobytes() for order in orders}) == 4


def test_shuffling_mixes_parts_and_moves_samples_far():
    sizes = np.full(96, 64, dtype=np.int64)
    order = epoch_order(sizes, 8, 0, "video", 0)
    batches = order.reshape(-1, 128)
    parts_in_batch = [len(np.unique(batch // 64)) for batch in batches]
    assert np.mean(parts_in_batch) > 7.9  # 8 is what the window allows
    assert np.abs(order - np.arange(len(order))).mean() > 0.9 * len(order) / 3  # a full shuffle moves by a third


def test_every_view_of_a_part_is_used_once_in_as_many_epochs():
    for part in range(5):
        views = [view_of_epoch(8, part, epoch, 0, "video") for epoch in range(8)]
        assert sorted(views) == list(range(8))
    assert len({view_of_epoch(8, part, 0, 0, "video") for part in range(40)}) > 4  # parts start at different views


def test_a_batch_larger_than_the_data_is_refused():
    for samples, fitting in ((24, 16), (32 - 1, 16), (1, 1)):
        with pytest.raises(
            UserError, match=f"{samples} samples?, fewer .* batch of 32; lower it with `x={fitting}`, or"
        ):
            StreamOrder(np.array([samples]), 32, 8, (0, "image"), "x")


def test_a_million_samples_are_ordered_quickly():
    sizes = np.full(1_000_000 // 64, 64, dtype=np.int64)
    seconds = []
    for epoch in range(5):
        begun = time.perf_counter()
        epoch_order(sizes, 8, 0, "video", epoch)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 0.2, seconds


@given(st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_the_parts_ahead_hold_the_batch_and_the_next_window(seed: int, sizes: list[int], window_parts: int) -> None:
    part_sizes = np.array(sizes)
    order = StreamOrder(part_sizes, 1, window_parts, (seed,))
    part_of = np.repeat(np.arange(len(sizes)), sizes)
    for step in range(2 * sum(sizes)):
        ahead = order.parts_ahead(step)
        now, soon = (int(part_of[order.batch(at)[1][0]]) for at in (step, step + min(sizes)))
        assert now in ahead[:window_parts] and soon in ahead


@settings(deadline=None)
@given(
    part_lists.filter(lambda sizes: sizes[0] >= 3),
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), min_size=1, max_size=3),
)
def test_a_run_that_goes_on_with_more_parts_reads_every_sample_once_in_every_epoch(sizes, global_batch, resumes):
    """Each resume adds parts at some step, as trainer.pretrain.growth does: from the next epoch on."""
    growth: tuple[tuple[int, int], ...] = ()
    num_parts, orders = 1, [StreamOrder(sizes[:1], global_batch, 4, (0, "video"))]
    steps = [0]
    for num_steps, more in resumes:
        if num_parts + more > len(sizes):
            break
        steps.append(steps[-1] + num_steps)
        epoch, at = orders[-1].position(steps[-1])
        growth = (*growth, (epoch + (at > 0), num_parts))
        num_parts += more
        orders.append(StreamOrder(sizes[:num_parts], global_batch, 4, (0, "video"), growth=growth))
    read: dict[int, list[int]] = {}
    last = orders[-1]
    end = last.steps_in(growth[-1][0] + 2 if growth else 2)
    bounds = [*steps, max(end, steps[-1])]
    for order, first, stop in zip(orders, bounds, bounds[1:], strict=False):
        for step in range(first, stop):
            epoch, batch = order.batch(step)
            read.setdefault(epoch, []).extend(batch.tolist())
            assert np.array_equal(batch, last.batch(step)[1])  # also from an older checkpoint
            assert set(np.repeat(np.arange(num_parts), sizes[:num_parts])[batch]) <= set(order.parts_ahead(step))
    for epoch, positions in read.items():
        here = int(last.part_sizes_of(epoch).sum())
        assert len(set(positions)) == len(positions) and max(positions) < here
        if last.steps_in(epoch + 1) <= bounds[-1]:
            assert len(positions) == here - here % global_batch
    assert len(last.part_sizes_of(max(read))) == num_parts or not growth or max(read) < growth[-1][0]
    assert last.epochs_in(last.steps_in(2)) == 2


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from([0.5, 1.0, 2.25])), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_weights_repeat_and_thin_samples_evenly(parts, global_batch):
    sizes, weights = np.array([size for size, _ in parts]), np.array([weight for _, weight in parts])
    if sum(round(weight * sizes[weights == weight].sum()) for weight in set(weights)) < max(4, global_batch):
        return
    order = StreamOrder(sizes, global_batch, 3, (0, "video"), weights=weights)
    part_of = np.repeat(np.arange(len(sizes)), sizes)
    readings = np.zeros(sizes.sum())
    for epoch in range(8):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        batches = [order.batch(step) for step in steps]
        assert {number for number, _ in batches} <= {epoch}
        for step, (_, batch) in zip(steps, batches, strict=True):
            assert set(part_of[batch % sizes.sum()]) <= set(order.parts_ahead(step))
        whole = order._order_of(epoch)
        assert len(set(whole)) == len(whole) == order.steps_per_epoch * global_batch + order.dropped_per_epoch
        assert np.array_equal(np.concatenate([batch for _, batch in batches]), whole[: len(steps) * global_batch])
        readings += np.bincount(whole % sizes.sum(), minlength=sizes.sum())
    for weight in set(weights):
        alike = readings[weights[part_of] == weight]
        assert len(alike) == 0 or alike.max() - alike.min() <= 1
        assert abs(alike.sum() - 8 * round(weight * len(alike))) < 1e-9
