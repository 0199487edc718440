"""Weighted k-nearest-neighbour classification of features, as in DINO's evaluation, without training.

Legend: N samples, C channels, K neighbours, V classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from schemas.errors import UserError

NEIGHBOURS, TEMPERATURE = 20, 0.07  # Caron et al. 2021 (DINO), appendix F.1
ROWS_AT_ONCE = 1024  # of test features; bounds the memory for similarities


def knn_predict(
    train_NC: Tensor,
    train_labels_N: Tensor,
    test_NC: Tensor,
    num_classes: int,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Return a class (int64) for every test feature: the vote of its `k` nearest training features.

    Nearest means the highest cosine similarity s, and a vote has weight exp(s / temperature), as in `knn_classifier` of
    facebookresearch/dino, eval_knn.py. With fewer than `k` training features all of them vote.
    """
    if len(train_NC) == 0:
        raise UserError("no features to compare with; kNN needs at least one labelled training sample")
    bank_CN = F.normalize(train_NC.float(), dim=1).T
    labels_N = train_labels_N.to(bank_CN.device)
    predicted = []
    for rows_NC in F.normalize(test_NC.float(), dim=1).to(bank_CN.device).split(ROWS_AT_ONCE):
        similarity_NK, nearest_NK = (rows_NC @ bank_CN).topk(min(k, bank_CN.shape[1]), dim=1)
        weight_NK = torch.exp((similarity_NK - 1) / temperature)  # minus 1: a weight is at most 1; the vote is the same
        votes_NV = weight_NK.new_zeros(len(rows_NC), num_classes)
        predicted.append(votes_NV.scatter_add_(1, labels_N[nearest_NK], weight_NK).argmax(dim=1))
    return torch.cat(predicted) if predicted else labels_N.new_zeros(0)
