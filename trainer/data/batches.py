"""The batches of a step, made of samples.

A batch is a function of (seed, step, rank, world size), so checkpoints contain no loader state.
Legend: B samples, T frames of a clip, H W pixels, C channels.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bevt_core.masking import hidden_positions
from trainer.data.clip_dataset import ClipDataset
from trainer.data.loader import make_loader
from trainer.data.order import StreamOrder, rank_slice
from trainer.engine.task import Batch, split


class Samples(Protocol):
    """Samples by (epoch, position), each with its `sample_id`. Must be picklable for the loader's workers."""

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]: ...


class StreamBatches(Dataset[list[Batch]]):
    """The micro-batches of this rank's slice of every stream's global batch, by step. A `BatchSource` of the loop."""

    def __init__(
        self,
        streams: Mapping[str, tuple[Samples, StreamOrder]],
        *,
        rank: int,
        world_size: int,
        num_workers: int,
        pin_memory: bool,
        micro_batches: int = 1,
    ) -> None:
        self.streams = dict(streams)
        self.rank, self.world_size = rank, world_size
        self.num_workers, self.pin_memory, self.micro_batches = num_workers, pin_memory, micro_batches

    def __getitem__(self, step: int) -> list[Batch]:
        """Return the collated samples of every stream, by micro-batch."""
        micros: list[Batch] = [{} for _ in range(self.micro_batches)]
        for name, (dataset, order) in self.streams.items():
            epoch, positions = order.batch(step)
            if isinstance(dataset, ClipDataset):
                dataset.read_ahead(order, step)
            mine = rank_slice(positions, self.rank, self.world_size)
            for micro, chosen in zip(micros, split(mine, self.micro_batches), strict=True):
                micro[name] = make_batch(dataset, [dataset[epoch, int(position)] for position in chosen])
        return micros

    def batches(self, first: int, stop: int) -> Iterable[list[Batch]]:
        return make_loader(self, first, stop, num_workers=self.num_workers, pin_memory=self.pin_memory)

    def samples_in(self, batch: Batch) -> list[str]:
        return [sample_id for stream in batch.values() for sample_id in stream["sample_id"]]


def make_batch(dataset: Samples, samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Collate the dataset's samples; for masked clips add `hidden`, the positions to predict, int64 (M,)."""
    batch = collate(samples)
    if isinstance(dataset, ClipDataset):
        batch["hidden"] = hidden_positions(batch["mask"], dataset.clip_frames, dataset.hidden_multiple)
    return batch


def collate(samples: Sequence[Mapping[str, Any]]) -> Batch:
    """Stack the tensors of the samples; everything else becomes a list."""
    columns = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {key: torch.stack(c) if isinstance(c[0], Tensor) else c for key, c in columns.items()}
