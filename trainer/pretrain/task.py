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
        return {TERMS[name]: int((part["hidden"] >= 0).sum()) for name, part in batch.items()}

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        inputs = {
            name: StreamBatch(normalise(part["clip"]), self._tokens(name, part), part["mask"], part["hidden"])
            for name, part in batch.items()
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

    def _tokens(self, stream: str, part: Batch) -> torch.Tensor:
        if stream not in self.tokenizers:
            tokens_BTHW: torch.Tensor = part["tokens"]
            return tokens_BTHW
        return tokens_in_step(self.tokenizers[stream], part["frames"])

    def _targets(self, part: StreamBatch) -> torch.Tensor:
        """Count the hidden tokens by id, without synchronising with the device."""
        targets_M = part.tokens_BTHW.flatten().index_select(0, part.hidden_M.clamp(min=0))
        counts_V = torch.zeros(self.vocab_size, device=targets_M.device)
        return counts_V.index_add_(0, targets_M, (part.hidden_M >= 0).float())
