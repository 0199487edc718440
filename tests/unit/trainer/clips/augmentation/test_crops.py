"""Crops: the same geometry for all frames of a clip, within the frame, with the configured distribution."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from bevt_core.rng import rng_for
from schemas.recipes import AugmentConfig, RandAugmentConfig
from tests.support.builders import smooth_frame
from trainer.clips.augmentation.crops import augment_clip, crop_views, random_box, resize, view_boxes
from trainer.clips.augmentation.strong_augment import rand_augment

CONFIG = AugmentConfig(crop_px=32, area_share=(0.2, 1.0), flip_share=0.5)


def test_all_frames_get_the_same_geometry() -> None:
    still = torch.from_numpy(smooth_frame("still")).expand(5, -1, -1, -1)
    for seed in range(10):
        clip = augment_clip(still, CONFIG, rng_for(seed))
        assert clip.shape == (5, 32, 32, 3) and clip.dtype == torch.uint8
        assert (clip == clip[0]).all()


def test_a_draw_belongs_to_its_key() -> None:
    clip = torch.from_numpy(np.stack([smooth_frame(i) for i in range(3)]))
    first, again, other = (augment_clip(clip, CONFIG, rng_for("key", key)) for key in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("height, width", [(72, 96), (96, 72), (240, 320), (17, 400)])
def test_boxes_lie_in_the_frame_and_have_the_area(height: int, width: int) -> None:
    area, aspect = (0.3, 0.6), (0.8, 1.25)
    boxes = [random_box(height, width, area, aspect, rng_for("box", i)) for i in range(300)]
    for top, left, box_h, box_w in boxes:
        assert 0 <= top <= height - box_h and 0 <= left <= width - box_w
    if max(height, width) < 2 * min(height, width):
        shares = np.array([box.height * box.width / (height * width) for box in boxes])
        assert 0.27 < shares.min() < 0.33 and 0.55 < shares.max() < 0.63


def test_a_box_that_cannot_fit_is_the_centre_square() -> None:
    assert random_box(17, 400, (0.9, 1.0), (1.0, 1.0), rng_for(0)) == (0, 191, 17, 17)


def test_a_flip_is_a_mirror() -> None:
    clip = torch.from_numpy(np.stack([smooth_frame(i) for i in range(2)]))
    plain, flipped = (
        augment_clip(clip, AugmentConfig(crop_px=32, flip_share=share), rng_for("flip")) for share in (0.0, 1.0)
    )
    assert torch.equal(plain.flip(2), flipped)


def test_three_crops_go_along_the_long_side() -> None:
    assert [(box.top, box.left) for box in view_boxes(224, 299, 224, 3)] == [(0, 0), (0, 37), (0, 74)]
    assert [(box.top, box.left) for box in view_boxes(299, 224, 224, 3)] == [(0, 0), (37, 0), (74, 0)]
    assert [(box.top, box.left) for box in view_boxes(256, 340, 224, 1)] == [(16, 58)]


def test_views_are_scaled_then_cropped() -> None:
    clip = torch.from_numpy(np.stack([smooth_frame(i) for i in range(2)]))
    views = crop_views(clip, 36, 36, 3)
    assert views.shape == (3, 2, 36, 36, 3)
    assert torch.equal(views[1], resize(clip, 36, 48)[:, :, 6:42])


def test_resizing_is_antialiased_as_pillows() -> None:
    frame = smooth_frame("pillow", 96, 128)
    ours = resize(torch.from_numpy(frame)[None], 40, 60)[0].numpy()
    pillows = np.asarray(Image.fromarray(frame).resize((60, 40), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - pillows).max() <= 1  # measured: 1


STRONG = AugmentConfig(
    crop_px=32, flip_share=0.5, rand_augment=RandAugmentConfig(num_ops=4, magnitude=9), erase_share=0.5
)


def test_strong_augmentation_is_the_same_for_all_frames() -> None:
    still = torch.from_numpy(smooth_frame("still")).expand(4, -1, -1, -1)
    state, global_state = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002 - must not be touched
    clips = [augment_clip(still, STRONG, rng_for("strong", seed)) for seed in range(40)]
    assert all((clip == clip[0]).all() for clip in clips)
    assert len({clip.numpy().tobytes() for clip in clips}) == 40
    assert torch.equal(clips[7], augment_clip(still, STRONG, rng_for("strong", 7)))
    assert random.getstate() == state and (np.random.get_state()[1] == global_state).all()  # noqa: NPY002


def test_half_the_clips_are_erased() -> None:
    plain = AugmentConfig(crop_px=32, flip_share=0.0)
    erased = plain.model_copy(update={"erase_share": 0.5})
    clip = torch.from_numpy(smooth_frame("erase")).expand(2, -1, -1, -1)
    changed = [
        (augment_clip(clip, plain, rng_for(i)) != augment_clip(clip, erased, rng_for(i))).any(-1) for i in range(60)
    ]
    shares = np.array([float(change.float().mean()) for change in changed])
    assert 20 < (shares > 0).sum() < 40 and shares[shares > 0].min() > 0.01 and shares.max() < 0.4


@pytest.mark.parametrize("magnitude", [0.0, 2.3, 10.0])
def test_every_operation_of_rand_augment_runs(magnitude: float) -> None:
    """In 200 draws each of the 15 operations occurs; posterize once kept 0 bits, which Pillow rejects."""
    clip_THWC = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    config = RandAugmentConfig(num_ops=200, magnitude=magnitude)
    assert rand_augment(clip_THWC, config, rng_for("all", magnitude)).shape == clip_THWC.shape
