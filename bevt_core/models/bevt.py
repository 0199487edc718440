"""BEVT: one encoder learns to predict the tokens of masked image patches and of masked video tubes.

https://arxiv.org/abs/2112.01529, section 3. Masks are True at positions that are hidden from the model and predicted.
Each stream has its own decoder, from the encoder's stages, finest first, to the token grid. A model may predict the
tokens of several tokenizers with the same grid, its targets, with an LM head for each.
Legend: B batch, T H W grid (pixels, tubelets or tokens), C channels, N = T*H*W token positions of a sample,
D width of the decoder, M masked positions of a batch (with padding), V vocabulary.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevt_core.masking import hidden_positions, stretch_mask
from bevt_core.models.swin import init_weights

Stream = Literal["video", "image"]

IGNORED = -100  # a target that the loss skips
NO_MORE: Mapping[str, Any] = MappingProxyType({})  # of a stream with one target


class MaskedLoss(NamedTuple):
    """Sums over the masked positions of a batch, to be added over micro-batches and ranks before dividing."""

    loss_sum: Tensor
    num_masked: Tensor
    num_correct: Tensor
    more: "Mapping[str, MaskedLoss]" = NO_MORE  # of the further targets, by name


class StreamBatch(NamedTuple):
    """A batch of one stream: pixels, tokens of every frame, mask at tubelet resolution, and its hidden positions."""

    clip_BCTHW: Tensor
    tokens_BTHW: Tensor
    mask_BTHW: Tensor
    hidden_M: Tensor  # `hidden_positions` of the mask, padded with -1
    more_tokens: Mapping[str, Tensor] = NO_MORE  # of the further targets, by name: like `tokens_BTHW`


class Bevt(nn.Module):
    """The two-stream model.

    `route` names the encoder of each stream: {"video": "shared", "image": "shared"} for one encoder, two names for two.
    The mask token, the final norm and the LM heads are shared by the streams, as in the original code. `lm_head`
    predicts the first target; `more_heads` has the vocabulary sizes of the further ones, by name, whose heads are
    `lm_head_NAME`.
    `config` has the arguments that the model was built from; it is stored with saved weights.
    """

    def __init__(
        self,
        *,
        stems: Mapping[str, nn.Module],
        encoders: Mapping[str, nn.Module],
        route: Mapping[Stream, str],
        decoders: Mapping[str, nn.Module],
        embed_dim: int,
        decoder_dim: int,
        vocab_size: int,
        config: Mapping[str, Any],
        more_heads: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.stems, self.encoders, self.decoders = map(nn.ModuleDict, (stems, encoders, decoders))
        self.mask_token = nn.Parameter(torch.zeros(embed_dim))
        self.norm = nn.LayerNorm(decoder_dim)
        self.lm_head = nn.Linear(decoder_dim, vocab_size)
        self.route, self.config = dict(route), dict(config)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.decoders.apply(init_weights)
        init_weights(self.lm_head)
        for name, size in sorted((more_heads or {}).items()):  # last: the other weights do not depend on them
            head = nn.Linear(decoder_dim, size)
            init_weights(head)
            self.add_module(f"lm_head_{name}", head)

    def head(self, target: str | None = None) -> nn.Linear:
        """Return the LM head of a further target, or of the first. Raises AttributeError for an unknown name."""
        head: nn.Linear = self.lm_head if target is None else getattr(self, f"lm_head_{target}")
        return head

    def forward(self, batch: Mapping[Stream, StreamBatch]) -> dict[Stream, MaskedLoss]:
        """Return L_MIM and L_MVM as sums, for all streams in one call, so that DDP wraps a single forward."""
        return {stream: self.masked_loss_sum(*part[:4], stream, *part[4:]) for stream, part in batch.items()}

    def masked_loss_sum(
        self,
        clip_BCTHW: Tensor,
        tokens_BTHW: Tensor,
        mask_BTHW: Tensor,
        hidden_M: Tensor,
        stream: Stream,
        more_tokens: Mapping[str, Tensor] = NO_MORE,
    ) -> MaskedLoss:
        """Sum the cross-entropy over the hidden positions; the LM heads run only there.

        `tokens_BTHW` has one T per frame, `mask_BTHW` one per tubelet, and `hidden_M` is the mask's `hidden_positions`.
        `more_tokens` are those of the further targets, by name.
        """
        features_BTHWD = self.decode(clip_BCTHW, mask_BTHW, stream)
        at_M = hidden_M.clamp(min=0)  # padding reads position 0; its target is IGNORED
        hidden_MD = features_BTHWD.flatten(0, 3).index_select(0, at_M)
        first = masked_loss(self.lm_head(hidden_MD), tokens_BTHW, hidden_M)
        more = {
            name: masked_loss(self.head(name)(hidden_MD), further_BTHW, hidden_M)
            for name, further_BTHW in more_tokens.items()
        }
        return first._replace(more=more)

    def loss(self, clip_BCTHW: Tensor, tokens_BTHW: Tensor, mask_BTHW: Tensor, stream: Stream) -> Tensor:
        """Return the mean cross-entropy over the masked positions: L_MIM of images, L_MVM of videos."""
        hidden_M = hidden_positions(mask_BTHW, tokens_BTHW.shape[1])
        result = self.masked_loss_sum(clip_BCTHW, tokens_BTHW, mask_BTHW, hidden_M, stream)
        return result.loss_sum / result.num_masked

    def features(self, clip_BCTHW: Tensor, mask_BTHW: Tensor | None = None, stream: Stream = "video") -> Tensor:
        """Return the decoder's output after the final norm, one row per token position: (B, N, D)."""
        return self.decode(clip_BCTHW, mask_BTHW, stream).flatten(1, 3)

    def pooled(self, clip_BCTHW: Tensor, stream: Stream = "video") -> Tensor:
        """Return the encoder's last stage for an unmasked clip, mean over positions, as for a classifier: (B, C)."""
        stages = self.encoders[self.route[stream]](self.stems[stream](clip_BCTHW))
        pooled_BC: Tensor = stages[-1].mean(dim=(1, 2, 3))
        return pooled_BC

    @torch.no_grad()
    def predict(
        self,
        clip_BCTHW: Tensor,
        mask_BTHW: Tensor | None = None,
        stream: Stream = "video",
        target: str | None = None,
    ) -> Tensor:
        """Return the likeliest token at every position, masked or not: (B, T, H, W); by default of the first target."""
        tokens_BTHW: Tensor = self.head(target)(self.decode(clip_BCTHW, mask_BTHW, stream)).argmax(dim=-1)
        return tokens_BTHW

    def decode(self, clip_BCTHW: Tensor, mask_BTHW: Tensor | None, stream: Stream) -> Tensor:
        """Apply stem, mask tokens, encoder, decoder, norm: pixels (B, 3, T, H, W) -> token grid (B, T, H, W, D)."""
        x_BTHWC = self.stems[stream](clip_BCTHW)
        if mask_BTHW is not None:
            hidden_BTHW = stretch_mask(mask_BTHW, x_BTHWC.shape[1:4])
            x_BTHWC = torch.where(hidden_BTHW[..., None], self.mask_token.to(x_BTHWC.dtype), x_BTHWC)
        stages = self.encoders[self.route[stream]](x_BTHWC)
        y_BTHWD: Tensor = self.norm(self.decoders[stream](stages))
        return y_BTHWD


def masked_loss(logits_MV: Tensor, tokens_BTHW: Tensor, hidden_M: Tensor) -> MaskedLoss:
    """Sum the cross-entropy of the logits at the hidden positions; positions of -1 are padding and are skipped."""
    logits_MV = logits_MV.float()
    at_M = hidden_M.clamp(min=0)
    targets_M = torch.where(hidden_M >= 0, tokens_BTHW.flatten().index_select(0, at_M), IGNORED)
    return MaskedLoss(
        loss_sum=F.cross_entropy(logits_MV, targets_M, ignore_index=IGNORED, reduction="sum"),
        num_masked=(hidden_M >= 0).sum(),
        num_correct=(logits_MV.detach().argmax(dim=-1) == targets_M).sum(),
    )


class Upsample(nn.ConvTranspose3d):
    """A transposed convolution with stride = kernel, channels last: each position becomes a block."""

    def __init__(self, in_dim: int, out_dim: int, factor_THW: tuple[int, int, int]) -> None:
        super().__init__(in_dim, out_dim, kernel_size=factor_THW, stride=factor_THW)

    def forward(self, x_BTHWC: Tensor) -> Tensor:  # type: ignore[override]
        B, T, H, W, _ = x_BTHWC.shape
        t, h, w = self.kernel_size
        assert self.bias is not None  # always created by this class
        x = torch.einsum("bthwi,ioxyz->btxhywzo", x_BTHWC, self.weight)
        return x.reshape(B, T * t, H * h, W * w, -1) + self.bias


class FuseStages(nn.Module):
    """Upsample the last stage to the grid of the one before and fuse the two: -> (B, T, H, W, out_dim)."""

    def __init__(self, fine_dim: int, coarse_dim: int, out_dim: int) -> None:
        super().__init__()
        self.up_space = Upsample(coarse_dim, coarse_dim, (1, 2, 2))
        self.fuse = nn.Linear(fine_dim + coarse_dim, out_dim)

    def forward(self, stages_BTHWC: Sequence[Tensor]) -> Tensor:
        fine_BTHWC, coarse_BTHWC = stages_BTHWC[-2:]
        _, _, H, W, _ = fine_BTHWC.shape
        up_BTHWC = self.up_space(coarse_BTHWC)[:, :, :H, :W]  # an odd grid was padded before merging
        y_BTHWD: Tensor = self.fuse(torch.cat([fine_BTHWC, up_BTHWC], dim=-1))
        return y_BTHWD


class LastStage(nn.Module):
    """A linear layer on the output of an encoder with one resolution: -> (B, T, H, W, out_dim)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.fuse = nn.Linear(dim, out_dim)

    def forward(self, stages_BTHWC: Sequence[Tensor]) -> Tensor:
        y_BTHWD: Tensor = self.fuse(stages_BTHWC[-1])
        return y_BTHWD


class ToFrames(nn.Module):
    """Another decoder, then upsampling from tubelets to frames: T grows by the stem's temporal stride."""

    def __init__(self, decoder: nn.Module, dim: int, tubelet: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.up_time = Upsample(dim, dim, (tubelet, 1, 1))

    def forward(self, stages_BTHWC: Sequence[Tensor]) -> Tensor:
        y_BTHWD: Tensor = self.up_time(self.decoder(stages_BTHWC))
        return y_BTHWD
