"""The fine-tuning model: the pretrained 3-D stem and encoder with a linear classifier (BEVT, section 4.1).

Legend: B batch, T H W grid, C channels, D width of the encoder's last stage, V classes.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bevt_core.models.swin import init_weights


class Classifier(nn.Module):
    """Stem, encoder, norm, mean over all positions, dropout, linear layer."""

    def __init__(
        self,
        *,
        stem: nn.Module,
        encoder: nn.Module,
        dim: int,
        num_classes: int,
        dropout: float,
        config: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.stem, self.encoder = stem, encoder
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(dim, num_classes)
        self.config = dict(config)
        init_weights(self.fc)

    def features(self, clip_BCTHW: Tensor) -> Tensor:
        """Return the mean of the last stage over time and space, after the norm: (B, D)."""
        x_BTHWC = self.encoder(self.stem(clip_BCTHW))[-1]
        features_BD: Tensor = self.norm(x_BTHWC).mean(dim=(1, 2, 3))
        return features_BD

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """Return class logits: (B, 3, T, H, W) -> (B, V)."""
        logits_BV: Tensor = self.fc(self.dropout(self.features(clip_BCTHW)))
        return logits_BV
