"""Masked token prediction as a training task: its targets, losses and their weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bevt_core.models.bevt import MaskedLoss, StreamBatch
from bevt_core.models.stems import normalise
from bevt_core.tokenizers.base import Tokenizer
from trainer.data.clip_dataset import MORE_TOKENS
from trainer.data.online import tokens_in_step
from trainer.engine.task import Batch, Term

TERMS = {"image": "mim", "video": "mvm"}  # the paper's L_MIM and L_MVM


class PretrainTask:
    """L = L_MIM + lambda L_MVM (paper section 3.3) over the streams of a batch.

    The term of a stream's further target adds its name, as in `mvm_NAME`.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, float],
        vocab_size: int,
        tokenizers: Mapping[str, Tokenizer],
        more_weights: Mapping[str, Mapping[str, float]] | None = None,
        more_heads: Mapping[str, int] | None = None,
    ) -> None:
        """`tokenizers` are for streams without stored tokens; they are not part of the model.

        `more_weights` are relative to those of the first targets, by stream and further target. `more_heads` has the
        vocabulary sizes of the further targets.
        """
        self.model = model
        self.weights, self.vocab_size, self.tokenizers = dict(weights), vocab_size, dict(tokenizers)
        self.more_weights, self.more_heads = dict(more_weights or {}), dict(more_heads or {})

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of hidden tokens by loss term."""
        counts: dict[str, int] = {}
        for name, inputs in batch.items():
            hidden = int((inputs["hidden"] >= 0).sum())
            counts |= dict.fromkeys([TERMS[name], *(term_of(name, target) for target in more_tokens(inputs))], hidden)
        return counts

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Term]:
        inputs = {
            name: StreamBatch(
                normalise(stream["clip"]),
                self._tokens(name, stream),
                stream["mask"],
                stream["hidden"],
                more_tokens(stream),
            )
            for name, stream in batch.items()
        }
        terms = {}
        for name, result in model(inputs).items():
            stream, weight = inputs[name], self.weights[name]
            terms[TERMS[name]] = term(result, weight, stream.tokens_BTHW, stream.hidden_M, self.vocab_size)
            for target, further in result.more.items():
                terms[term_of(name, target)] = term(
                    further,
                    weight * self.more_weights[name][target],
                    stream.more_tokens[target],
                    stream.hidden_M,
                    self.more_heads[target],
                )
        return terms

    def _tokens(self, name: str, stream: Batch) -> Tensor:
        """Return the stream's tokens: stored ones, or those of its tokenizer: int64 (B, T, h, w)."""
        if name not in self.tokenizers:
            tokens_BThw: Tensor = stream["tokens"]
            return tokens_BThw
        return tokens_in_step(self.tokenizers[name], stream["frames"])


def term_of(stream: str, target: str) -> str:
    """Return the name of the loss term of a stream's further target."""
    return f"{TERMS[stream]}_{target}"


def more_tokens(batch: Batch) -> dict[str, Tensor]:
    """Return the tokens of the further targets in a batch of one stream, by name: int64 (B, T, h, w)."""
    return {key.removeprefix(MORE_TOKENS): value for key, value in batch.items() if key.startswith(MORE_TOKENS)}


def term(result: MaskedLoss, weight: float, tokens_BTHW: Tensor, hidden_M: Tensor, vocab_size: int) -> Term:
    """Return the loss term of one target, with its accuracy and the histogram of its hidden tokens."""
    histogram_V = hidden_histogram(tokens_BTHW, hidden_M, vocab_size)
    return Term(result.loss_sum, weight, sums={"acc": result.num_correct}, histograms={"target": histogram_V})


def hidden_histogram(tokens_BTHW: Tensor, hidden_M: Tensor, vocab_size: int) -> Tensor:
    """Count the hidden tokens by id, without waiting for the device: float (V,)."""
    targets_M = tokens_BTHW.flatten().index_select(0, hidden_M.clamp(min=0))
    counts_V = torch.zeros(vocab_size, device=targets_M.device)
    return counts_V.index_add_(0, targets_M, (hidden_M >= 0).float())
