"""Pictures of predictions in a run's TensorBoard files."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bevt_core.models.build import SWIN_SIZES, build_bevt
from bevt_core.tokenizers import load_tokenizer
from bevt_core.tokenizers.mosaics import decoder_for
from schemas.errors import UserError
from tests.support.builders import make_token_set
from tests.support.frames import GreyTokenizer
from tests.support.pretraining import dataset_of
from trainer.data.order import StreamOrder
from trainer.pretrain.pictures import PictureEvaluation, check_tokenizer, picture_data, prediction_rows
from trainer.pretrain.streams import StoredSource


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_token_set(tmp_path_factory.mktemp("videos"), grid=8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_bevt(**SWIN_SIZES["nano"], vocab_size=64)


def test_visible_tokens_are_shown_unchanged(videos, model):
    sample = dataset_of(videos)[0, 0]
    rows, labels = prediction_rows(model, GreyTokenizer(), sample["clip"], sample["tokens"], sample["mask"], "video")
    assert [len(row) for row in rows] == [8] * 4 and labels[0] == "clip" and "correct" in labels[2]
    predicted, true = (np.stack(row)[:, ::8, ::8, 0] for row in rows[2:])
    hidden = sample["mask"].repeat_interleave(2, 0).numpy()
    assert (predicted == true)[~hidden].all() and (predicted != true)[hidden].any()
    assert np.array_equal(true, sample["tokens"].numpy())


def test_a_tokenizer_without_decoder_is_drawn_as_mean_patches(videos, model):
    tokenizer = SimpleNamespace(can_decode=False, input_px=64, vocab_size=64)
    decoder = decoder_for(tokenizer, picture_data(StoredSource(videos, cached_parts=1)))
    sample = dataset_of(videos)[0, 0]
    rows, _ = prediction_rows(model, decoder, sample["clip"], sample["tokens"], sample["mask"], "video")
    assert [np.shape(row) for row in rows] == [(8, 64, 64, 3)] * 4
    assert len(np.unique(rows[3])) > 10


def test_a_picture_is_logged_at_its_step(videos, model, tmp_path):
    dataset = dataset_of(videos)
    streams = {"video": (dataset, StreamOrder(dataset.part_sizes, 6, 2, (0, "video")))}
    evaluation = PictureEvaluation(model, GreyTokenizer(), GreyTokenizer(), streams, run_dir=tmp_path)
    assert [evaluation(done) for done in (3, 6)] == [{}] * 2
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [image.step for image in events.Images("prediction/video")] == [3, 6]


def test_pictures_need_the_tokenizer_of_the_tokens(videos):
    with pytest.raises(
        UserError, match=r"tokens were made by test with weights 000000000000, but tokenizer dvae-small has weights"
    ):
        check_tokenizer(load_tokenizer("dvae-small"), "dvae-small", {"video": StoredSource(videos, cached_parts=1)})
