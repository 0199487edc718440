"""The invariant: tokenizing what the trainer feeds to the model again gives the stored tokens, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bevt_core.dataset.token_set import TokenSet
from bevt_core.tokenizers import load_tokenizer
from bevt_core.views.replay import halve
from pipeline.job.run import tokenize
from pipeline.synthetic.camera_motion import make_camera_motion_set
from schemas.models import BlockMask, TubeMask
from tests.support.inline_jobs import without_ray
from tests.support.tiny_jobs import tiny_recipe
from trainer.data.clip_dataset import TokenDataset

CASES = {  # recipe overrides, clip length, mask
    "video": ([], 4, TubeMask(kind="tube", ratio=0.5, min_block=2)),
    "image": (["views.jitter=0.4", "views.num_views=3"], 1, BlockMask(kind="block", ratio=0.5, min_block=2)),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    sizes = {"train_clips_per_class": 1, "test_clips_per_class": 1, "unlabelled_clips": 1, "images": 11}
    make_camera_motion_set(folder, **sizes, workers=1)
    return folder


@pytest.mark.parametrize("stream", CASES)
def test_every_sample_in_every_view(stream: str, raw: Path, tiny_tokenizer: Path, tmp_path: Path) -> None:
    overrides, clip_frames, mask = CASES[stream]
    root = raw / ("train" if stream == "video" else "images")
    with without_ray():
        summary = tokenize(tiny_recipe(root, tmp_path / "set", tiny_tokenizer, *overrides), progress="off")
    token_set = TokenSet(summary["tokens_dir"])
    tokenizer = load_tokenizer(str(tiny_tokenizer))
    dataset = TokenDataset(
        token_set, name=stream, seed=0, clip_frames=clip_frames, tubelet=min(2, clip_frames), mask=mask, cached_parts=2
    )
    num_views = token_set.manifest.views.num_views
    seen = set()
    for epoch in range(num_views):  # every view once
        for position in range(len(dataset)):
            sample = dataset[epoch, position]
            seen.add((sample["sample_id"], sample["clip"].numpy().tobytes()))
            frames = np.stack([halve(frame, tokenizer.input_px) for frame in sample["clip"].numpy()])
            assert torch.equal(tokenizer.encode(torch.from_numpy(frames)), sample["tokens"]), (epoch, position)
    assert len(seen) == len(dataset) * num_views
