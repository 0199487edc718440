"""Masked token prediction as a training task: its targets, losses and their weights."""

from collections.abc import Mapping

import torch
from torch import nn

from bevt_core.models.bevt import StreamBatch
from bevt_core.models.stems import normalise
from bevt_core.tokenizers.base import Tokenizer
from trainer.data.online import tokens_in_step
from trainer.engine.task import Batch, Term

TERMS = {"image": "mim", "video": "mvm"}  # the paper's L_MIM and L_MVM


class PretrainTask:
    """L = L_MIM + lambda L_MVM (paper section 3.3) over the streams of a batch."""

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, float],
        vocab_size: int,
        tokenizers: Mapping[str, Tokenizer],
    ) -> None:
        """`tokenizers` are for streams without stored tokens; they are not part of the model."""
        self.model = model
        self.weights, self.vocab_size, self.tokenizers = dict(weights), vocab_size, dict(tokenizers)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of hidden tokens by loss term."""
        return {TERMS[name]: int((inputs["hidden"] >= 0).sum()) for name, inputs in batch.items()}

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        inputs = {
            name: StreamBatch(normalise(stream["clip"]), self._tokens(name, stream), stream["mask"], stream["hidden"])
            for name, stream in batch.items()
        }
        terms = {}
        for name, result in model(inputs).items():
            terms[TERMS[name]] = Term(
                result.loss_sum,
                weight=self.weights[name],
                sums={"acc": result.num_correct},
                histograms={"target": self._targets(inputs[name])},
            )
        return terms

    def _tokens(self, name: str, stream: Batch) -> torch.Tensor:
        """Return the stream's tokens: stored ones, or those of its tokenizer: int64 (B, T, h, w)."""
        if name not in self.tokenizers:
            tokens_BThw: torch.Tensor = stream["tokens"]
            return tokens_BThw
        return tokens_in_step(self.tokenizers[name], stream["frames"])

    def _targets(self, stream: StreamBatch) -> torch.Tensor:
        """Count the hidden tokens by id, without waiting for the device: float (V,)."""
        targets_M = stream.tokens_BTHW.flatten().index_select(0, stream.hidden_M.clamp(min=0))
        counts_V = torch.zeros(self.vocab_size, device=targets_M.device)
        return counts_V.index_add_(0, targets_M, (stream.hidden_M >= 0).float())
