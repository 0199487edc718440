"""The encoder and the step compile as one graph. Numerics of the compiler's own kernels are checked in a slow test."""

import pytest
import torch
from torch._dynamo.utils import counters

from bevt_core.masking import hidden_positions
from bevt_core.models.bevt import StreamBatch
from bevt_core.models.build import build_bevt
from bevt_core.models.swin import VideoSwin
from trainer.distributed.sharding import compile_blocks
from trainer.setup.models import checkpoint_activations

# 64 px: grids of 8, 4 and 2, with 4 x 4 tokens
SIZES = {"embed_dim": 48, "depths": (2, 2, 2), "num_heads": (2, 4, 8), "window": (4, 4, 4), "patch": (2, 8, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("grid", [(4, 8, 8), (1, 8, 8)], ids=["video", "image"])
def test_the_encoder_is_one_graph(backend: str, grid: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    encoder = VideoSwin(8, depths=(2, 1), num_heads=(2, 2), window=(2, 4, 4))
    x_BTHWC = torch.randn(2, *grid, 8)
    compiled = torch.compile(encoder, fullgraph=True, backend=backend)  # fullgraph: an error where a graph would break
    gradients = []
    for run in (encoder, compiled):
        encoder.zero_grad()
        run(x_BTHWC)[-1].square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(eager, traced, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_features_are_one_graph_with_mask_and_decoder() -> None:
    torch.manual_seed(0)
    model = build_bevt(**SIZES, vocab_size=32).eval()
    clip_BCTHW, mask_BTHW = torch.randn(2, 3, 8, 64, 64), torch.rand(2, 4, 4, 4) < 0.5
    compiled = torch.compile(model.features, fullgraph=True, backend="aot_eager")
    expected = model.features(clip_BCTHW, mask_BTHW, "video")
    torch.testing.assert_close(compiled(clip_BCTHW, mask_BTHW, "video"), expected, atol=1e-5, rtol=0)


def joint_batch(share: float) -> dict[str, StreamBatch]:
    """Both streams, with hidden positions padded to one length, as on a GPU."""
    batch = {}
    for stream, frames, tubelets in (("video", 8, 4), ("image", 1, 1)):
        mask_BTHW = torch.rand(2, tubelets, 4, 4) < share
        tokens_BTHW = torch.randint(32, (2, frames, 4, 4))
        hidden_M = hidden_positions(mask_BTHW, frames, 256)
        batch[stream] = StreamBatch(torch.randn(2, 3, frames, 64, 64), tokens_BTHW, mask_BTHW, hidden_M)
    return batch


def test_the_whole_loss_is_one_graph() -> None:
    """With a further target in the video stream."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = build_bevt(**{**SIZES, "depths": (2, 1, 1)}, vocab_size=32, more_heads={"other-v2": 32})
    batch = joint_batch(0.5)
    batch["video"] = batch["video"]._replace(more_tokens={"other-v2": batch["video"].tokens_BTHW})
    explained = torch._dynamo.explain(model)(batch)
    assert explained.graph_count == 1 and explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize(
    ("backend", "checkpointed"),
    [
        ("aot_eager", True),
        pytest.param("aot_eager", False, marks=pytest.mark.slow),
        pytest.param("inductor", True, marks=pytest.mark.slow),
        pytest.param("inductor", False, marks=pytest.mark.slow),
    ],
)
def test_compiled_blocks_compute_what_they_did(backend: str, checkpointed: bool) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    sizes = {"embed_dim": 16, "depths": (1, 4), "num_heads": (1, 2), "window": (4, 4, 4), "patch": (2, 16, 16)}
    sizes |= {"drop_path": 1e-9}  # another rate in each block, and nothing dropped
    plain = build_bevt(**sizes, vocab_size=32)
    compiled = build_bevt(**sizes, vocab_size=32)
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled, backend)
    batch, gradients = joint_batch(0.5), []
    for model in (plain, compiled):
        if checkpointed:
            checkpoint_activations(model)
        sum(result.loss_sum for result in model(batch).values()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(eager, traced, atol=1e-4, rtol=1e-4)
    # two streams x (the first block, which never drops; the second stage's plain blocks; its shifted ones)
    assert counters["stats"]["unique_graphs"] == 6
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_step_compiles_and_new_masks_need_no_new_graphs(backend: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    model = build_bevt(**SIZES, vocab_size=32)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        batch = joint_batch(share)
        losses, gradients = [], []
        for run in (model, compiled):
            model.zero_grad()
            results = run(batch)
            loss = sum(result.loss_sum for result in results.values())
            loss.backward()
            losses.append(loss.detach())
            gradients.append(model.lm_head.weight.grad.clone())
        torch.testing.assert_close(*losses, atol=1e-3, rtol=1e-5)
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
