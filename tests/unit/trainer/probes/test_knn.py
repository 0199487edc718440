"""kNN on features against a plain loop, and cases with a known answer."""

import math

import pytest
import torch

from schemas.errors import UserError
from trainer.probes.knn import ROWS_AT_ONCE, knn_predict


def _by_hand(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, k: int, temperature: float) -> list[int]:
    """The definition, one test feature at a time."""
    predicted = []
    for feature in test:
        similarities = [float(torch.cosine_similarity(feature, other, dim=0)) for other in train]
        nearest = sorted(range(len(train)), key=lambda i: -similarities[i])[:k]
        votes: dict[int, float] = {}
        for i in nearest:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(similarities[i] / temperature)
        predicted.append(max(votes, key=lambda label: votes[label]))
    return predicted


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (500, 0.07)])
def test_votes_as_the_definition_says(k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(k)
    train, test = torch.randn(60, 5, generator=generator), torch.randn(40, 5, generator=generator)
    labels = torch.randint(4, (60,), generator=generator)
    assert knn_predict(train, labels, test, 4, k, temperature).tolist() == _by_hand(train, labels, test, k, temperature)


def test_lengths_of_features_do_not_matter() -> None:
    train, labels = torch.tensor([[100.0, 0.0], [0.0, 0.1]]), torch.tensor([0, 1])
    assert knn_predict(train, labels, torch.tensor([[0.01, 0.02]]), 2, k=1).tolist() == [1]


def test_many_near_neighbours_outvote_the_nearest() -> None:
    angles = torch.tensor([0.0, 0.1, 0.11, 0.12])
    train, labels = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 1, 1, 1])
    test = torch.tensor([[1.0, 0.0]])
    assert knn_predict(train, labels, test, 2, k=4).tolist() == [1]
    assert knn_predict(train, labels, test, 2, k=4, temperature=1e-3).tolist() == [
        0
    ]  # with sharp weights the nearest decides


def test_many_are_told_in_chunks() -> None:
    test = torch.randn(ROWS_AT_ONCE + 3, 4)
    assert torch.equal(knn_predict(torch.eye(4), torch.arange(4), test, 4, k=1), test.argmax(dim=1))


def test_without_features_to_compare_with_it_says_so() -> None:
    none, labels = torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(UserError, match="labelled training sample"):
        knn_predict(none, labels, torch.ones(1, 2), 2)
