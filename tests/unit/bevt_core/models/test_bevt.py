"""The two-stream model: masking, predictions, and the modules that streams share."""

import pytest
import torch
from torch import Tensor

from bevt_core.masking import hidden_positions, stretch_mask
from bevt_core.models.bevt import Bevt, StreamBatch
from bevt_core.models.build import SWIN_SIZES, build_bevt, build_classifier

VOCAB = 32
NANO = SWIN_SIZES["nano"]


@pytest.fixture(scope="module")
def model() -> Bevt:
    torch.manual_seed(0)
    return build_bevt(**NANO, vocab_size=VOCAB).eval()


def batch_of(stream: str, batch_size: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Random pixels, tokens and mask of 64-px clips of 8 frames, or images: 8 x 8 tokens, tubelets of 2 frames."""
    generator = torch.Generator().manual_seed(1)
    frames, tubelets = (8, 4) if stream == "video" else (1, 1)
    clip_BCTHW = torch.randn(batch_size, 3, frames, 64, 64, generator=generator)
    tokens_BTHW = torch.randint(VOCAB, (batch_size, frames, 8, 8), generator=generator)
    mask_BTHW = torch.rand(batch_size, tubelets, 8, 8, generator=generator) < 0.4
    return clip_BCTHW, tokens_BTHW, mask_BTHW


def with_positions(batch: tuple[Tensor, Tensor, Tensor]) -> StreamBatch:
    clip_BCTHW, tokens_BTHW, mask_BTHW = batch
    return StreamBatch(clip_BCTHW, tokens_BTHW, mask_BTHW, hidden_positions(mask_BTHW, tokens_BTHW.shape[1]))


@pytest.mark.parametrize(("stream", "positions"), [("video", 8 * 64), ("image", 64)])
def test_features_cover_the_token_grid(model: Bevt, stream: str, positions: int) -> None:
    clip, tokens, mask = batch_of(stream)
    assert model.features(clip, mask, stream).shape == (2, positions, 128)
    assert model.predict(clip, None, stream).shape == tokens.shape


@pytest.mark.parametrize("stream", ["video", "image"])
def test_masked_pixels_do_not_matter(model: Bevt, stream: str) -> None:
    clip, _, mask = batch_of(stream)
    hidden_pixels = stretch_mask(mask, clip.shape[2:])[:, None]
    repainted = torch.where(hidden_pixels, torch.randn_like(clip), clip)
    assert torch.equal(model.features(clip, mask, stream), model.features(repainted, mask, stream))
    assert not torch.equal(model.features(clip, None, stream), model.features(repainted, None, stream))


def test_the_loss_is_the_mean_over_masked_frames(model: Bevt) -> None:
    clip, tokens, mask = batch_of("video")
    logits_BNV = model.lm_head(model.features(clip, mask, "video"))
    log_p_BN = logits_BNV.log_softmax(dim=-1).gather(-1, tokens.flatten(1)[..., None]).squeeze(-1)
    hidden_BN = mask.repeat_interleave(2, dim=1).flatten(1)
    assert model.loss(clip, tokens, mask, "video").item() == pytest.approx(-log_p_BN[hidden_BN].mean().item(), abs=1e-5)

    right = (logits_BNV.argmax(dim=-1) == tokens.flatten(1)) & hidden_BN
    for multiple in (1, 100):
        result = model.masked_loss_sum(clip, tokens, mask, hidden_positions(mask, 8, multiple), "video")
        assert result.num_masked == hidden_BN.sum()
        assert result.num_correct == right.sum()
        assert result.loss_sum.item() == pytest.approx(-log_p_BN[hidden_BN].sum().item(), rel=1e-5)


def test_hidden_positions_by_hand() -> None:
    """Two tubelets of two frames on a grid of one row and two columns."""
    mask_BTHW = torch.tensor([[[[True, False]], [[False, True]]]])
    assert hidden_positions(mask_BTHW, 4).tolist() == [0, 2, 5, 7]
    assert hidden_positions(mask_BTHW, 4, 3).tolist() == [0, 2, 5, 7, -1, -1]


def test_one_forward_serves_both_streams_and_reaches_every_parameter() -> None:
    model = build_bevt(**NANO, vocab_size=VOCAB)
    losses = model({stream: with_positions(batch_of(stream)) for stream in ("video", "image")})
    sum(loss.loss_sum for loss in losses.values()).backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    assert untouched == []


def test_a_batch_without_masked_positions_has_a_zero_loss(model: Bevt) -> None:
    clip, tokens, mask = batch_of("image")
    nothing_M = torch.zeros(0, dtype=torch.int64)
    result = model.masked_loss_sum(clip, tokens, torch.zeros_like(mask), nothing_M, "image")
    assert (result.loss_sum.item(), result.num_masked.item()) == (0, 0)


def two_targets() -> tuple[Bevt, Bevt, dict[str, StreamBatch]]:
    """A model with one target, the same with a second one, and a batch of both streams for the latter."""
    models = []
    for heads in ({}, {"other": 48}):
        torch.manual_seed(0)
        models.append(build_bevt(**NANO, vocab_size=VOCAB, more_heads=heads))
    batch = {}
    for stream in ("video", "image"):
        first = with_positions(batch_of(stream))
        other_BTHW = torch.randint(48, first.tokens_BTHW.shape, generator=torch.Generator().manual_seed(2))
        batch[stream] = first._replace(more_tokens={"other": other_BTHW})
    return models[0], models[1], batch


def test_two_heads_are_two_losses_computed_by_hand() -> None:
    _, model, batch = two_targets()
    for stream, result in model(batch).items():
        clip, tokens, mask, _, more = batch[stream]
        features_BND = model.features(clip, mask, stream)
        hidden_BN = mask.repeat_interleave(tokens.shape[1] // mask.shape[1], dim=1).flatten(1)
        for head, wanted, found in (
            (model.lm_head, tokens, result),
            (model.head("other"), more["other"], result.more["other"]),
        ):
            log_p_BNV = head(features_BND).log_softmax(dim=-1)
            log_p_BN = log_p_BNV.gather(-1, wanted.flatten(1)[..., None]).squeeze(-1)
            right_BN = (log_p_BNV.argmax(dim=-1) == wanted.flatten(1)) & hidden_BN
            assert found.loss_sum.item() == pytest.approx(-log_p_BN[hidden_BN].sum().item(), rel=1e-5)
            assert (found.num_masked, found.num_correct) == (hidden_BN.sum(), right_BN.sum())
        assert model.predict(clip, None, stream, "other").max() < 48
        assert torch.equal(
            model.predict(clip, None, stream), model.lm_head(model.decode(clip, None, stream)).argmax(-1)
        )


def test_a_further_target_changes_nothing_of_the_first() -> None:
    """The same initial weights, the same loss, and with weight 0 the same gradients, all bit for bit."""
    one, two, batch = two_targets()
    assert two.state_dict().keys() - one.state_dict().keys() == {"lm_head_other.weight", "lm_head_other.bias"}
    assert all(torch.equal(tensor, two.state_dict()[key]) for key, tensor in one.state_dict().items())
    assert two.config == one.config | {"more_heads": {"other": 48}}
    alone = one({stream: part._replace(more_tokens={}) for stream, part in batch.items()})
    both = two(batch)
    assert all(torch.equal(alone[stream].loss_sum, both[stream].loss_sum) for stream in batch)
    torch.stack([loss.loss_sum for loss in alone.values()]).sum().backward()
    terms = [(loss.loss_sum, 0.0 * loss.more["other"].loss_sum) for loss in both.values()]
    torch.stack([term for pair in terms for term in pair]).sum().backward()
    gradients = {name: p.grad for name, p in two.named_parameters()}
    assert all(torch.equal(p.grad, gradients[name]) for name, p in one.named_parameters())
    assert not gradients["lm_head_other.weight"].any()


def test_sharing_is_a_route() -> None:
    shared = build_bevt(**NANO, vocab_size=VOCAB)
    separate = build_bevt(**NANO, vocab_size=VOCAB, share_encoder="separate")
    encoder = sum(p.numel() for p in shared.encoders["shared"].parameters())
    extra = sum(p.numel() for p in separate.parameters()) - sum(p.numel() for p in shared.parameters())
    assert extra == encoder
    assert separate.route == {"video": "video", "image": "image"}
    assert separate({"video": with_positions(batch_of("video"))}).keys() == {"video"}


def test_a_mask_on_the_wrong_grid_names_both_sizes(model: Bevt) -> None:
    clip, _, _ = batch_of("video")
    with pytest.raises(ValueError, match=r"\(4, 5, 5\).*\(4, 8, 8\)"):
        model.features(clip, torch.zeros(2, 4, 5, 5, dtype=torch.bool), "video")


def test_the_classifier_pools_the_last_stage() -> None:
    classifier = build_classifier(**NANO, num_classes=7).eval()
    clip, _, _ = batch_of("video")
    assert classifier.features(clip).shape == (2, 128)
    assert classifier(clip).shape == (2, 7)
