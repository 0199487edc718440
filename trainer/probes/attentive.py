"""The attentive probe of V-JEPA: one learned query attends to all positions of a clip, followed by a linear layer.

Bardes et al. 2024, https://arxiv.org/abs/2404.08471. Not checked against their code: cross-attention and MLP, 20 epochs
of AdamW.
Legend: N videos, P positions of a clip, C channels, V classes.
"""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bevt_core.console.progress import ProgressLine
from bevt_core.models.swin import Mlp, init_weights
from bevt_core.rng import rng_for
from schemas.errors import UserError

EPOCHS, MIN_STEPS = 20, 500  # more epochs if 20 epochs have fewer steps
BATCH = 32  # videos
LR, WEIGHT_DECAY = 1e-3, 0.01  # cosine decay to 0, one step per epoch
HEAD_DIM = 64  # channels of an attention head; a single head if this does not divide the features' width
GROUPS_AT_ONCE = 8  # row groups among which videos are shuffled; bounds the memory


class Features(Protocol):
    """Row groups of features (N, P, C) and labels (N)."""

    def __len__(self) -> int: ...
    def __getitem__(self, group: int) -> tuple[Tensor, Tensor]: ...


class AttentiveProbe(nn.Module):
    """Query, cross-attention, MLP, linear layer: (N, P, C) -> (N, V)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.num_heads = max(1, dim // HEAD_DIM) if dim % HEAD_DIM == 0 else 1
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.fc = nn.Linear(dim, num_classes)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.query, std=0.02)

    def forward(self, x_NPC: Tensor) -> Tensor:
        query_N1C = self.query.expand(len(x_NPC), -1, -1)
        k, v = self.kv(self.norm1(x_NPC)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (self.q(query_N1C), k, v))
        attended_N1C = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y_N1C = query_N1C + self.proj(attended_N1C)
        y_N1C = y_N1C + self.mlp(self.norm2(y_N1C))
        logits_NV: Tensor = self.fc(self.norm3(y_N1C[:, 0]))
        return logits_NV


def fit_attentive(train: Features, num_classes: int, seed: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Train a probe, with all random draws from `seed`. Return a function: features (N, P, C) -> logits (N, V)."""
    shapes = [shape for shape in (train[group][0].shape for group in range(len(train))) if shape[0]]
    if not shapes:
        raise UserError("no features to train on; an attentive probe needs labelled training videos")
    num_videos = sum(shape[0] for shape in shapes)
    torch.manual_seed(seed)  # the initial weights
    probe = AttentiveProbe(shapes[0][-1], num_classes).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    epochs = max(EPOCHS, math.ceil(MIN_STEPS * BATCH / num_videos))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    with ProgressLine("attentive probe", epochs, unit="epochs") as progress:
        for epoch in range(epochs):
            for features_NPC, label_N in _batches(train, seed, epoch):
                loss = F.cross_entropy(probe(features_NPC.to(device)), label_N.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            progress.add(1)
    probe.eval()

    @torch.no_grad()
    def classify(features_NPC: Tensor) -> Tensor:
        logits_NV: Tensor = probe(features_NPC.to(device))
        return logits_NV

    return classify


def _batches(train: Features, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all videos once: row groups in a random order, videos shuffled among a few of them."""
    rng = rng_for("attentive", seed, epoch)
    order = rng.permutation(len(train))
    for some in np.split(order, range(GROUPS_AT_ONCE, len(order), GROUPS_AT_ONCE)):
        row_groups = [row_group for row_group in (train[int(group)] for group in some) if len(row_group[1])]
        if not row_groups:
            continue
        features_NPC, labels_N = (torch.cat(column) for column in zip(*row_groups, strict=True))
        shuffled = torch.from_numpy(rng.permutation(len(labels_N)))
        for at in shuffled.split(BATCH):
            yield features_NPC[at], labels_N[at]
