"""Pictures of token maps for tokenizers without a decoder: each token as the mean patch of the frames at hand.

Legend: N frames, P the tokenizer's input side, S its stride, C channels, h x w its grid, V ids.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.tokenizers.inspection import prepared, sampled_frames
from bevt_core.views.replay import apply_view, halve

STORED_FRAMES, STORED_PARTS = 512, 8  # whose stored tokens are averaged; parts on an object store are downloaded whole
ENCODED_FRAMES = 64  # that are encoded for it: 1 TFLOP with a ViT-B
UNSEEN = 128  # the grey of an id that none of these frames has


class Decoder(Protocol):
    """What draws token maps: a tokenizer with a decoder, or a `Mosaic`."""

    def decode(self, tokens_Nhw: Tensor) -> Tensor:
        """Ids `[N, h, w]` of any integer type -> uint8 frames `[N, P, P, C]`."""
        ...


class Mosaic(NamedTuple):
    """A patch per id, uint8 `[V, S, S, C]`: the mean of all patches with this id."""

    patches_VSSC: Tensor

    def decode(self, tokens_Nhw: Tensor) -> Tensor:
        """Ids `[N, h, w]` of any integer type -> uint8 frames `[N, P, P, C]`, the patches side by side."""
        tiles_NhwSSC = self.patches_VSSC[tokens_Nhw.cpu().to(torch.int64)]
        count, rows, columns, side, _, colours = tiles_NhwSSC.shape
        return tiles_NhwSSC.transpose(2, 3).reshape(count, rows * side, columns * side, colours)


def decoder_for(tokenizer: Tokenizer, data: TokenSet | FrameStore) -> Decoder:
    """Return the tokenizer if it can decode, otherwise a mosaic of frames of `data`, which is encoded if it is frames.

    Raises UserError for a frame store without frames.
    """
    if tokenizer.can_decode:
        return tokenizer
    pairs = _stored(data, tokenizer.input_px) if isinstance(data, TokenSet) else _encoded(data, tokenizer)
    return mosaic_of(pairs, tokenizer.vocab_size)


def mosaic_of(pairs: Iterable[tuple[np.ndarray, np.ndarray]], vocab_size: int) -> Mosaic:
    """Average the patches of each id over (uint8 frame P P C, its ids h w); an id that no frame has is grey."""
    sums_VX, counts_V, shape_SSC = None, np.zeros(vocab_size, np.int64), (1, 1, 3)
    for frame_PPC, ids_hw in pairs:
        rows, columns = ids_hw.shape
        side = len(frame_PPC) // rows
        shape_SSC = (side, side, frame_PPC.shape[2])
        tiles_hwSSC = frame_PPC.reshape(rows, side, columns, side, -1).swapaxes(1, 2)
        if sums_VX is None:
            sums_VX = np.zeros((vocab_size, side * side * frame_PPC.shape[2]), np.float32)
        np.add.at(sums_VX, ids_hw.reshape(-1), tiles_hwSSC.reshape(rows * columns, -1))
        counts_V += np.bincount(ids_hw.reshape(-1), minlength=vocab_size)
    if sums_VX is None:
        sums_VX = np.zeros((vocab_size, 3), np.float32)
    means_VX = np.where(counts_V[:, None] > 0, sums_VX / np.maximum(counts_V, 1)[:, None], UNSEEN)
    return Mosaic(torch.from_numpy(means_VX.round().astype(np.uint8)).reshape(vocab_size, *shape_SSC))


def _stored(token_set: TokenSet, input_px: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield up to STORED_FRAMES frames of the set, spread over it, under views in turn, with their stored tokens."""
    store, num_views = token_set.frames, token_set.manifest.views.num_views
    index = store.index.select(["part", "frame_start", "num_frames"])
    parts, starts, lengths = (column.to_numpy() for column in index.columns)
    non_empty = np.unique(parts)
    chosen = non_empty[_spread(len(non_empty), STORED_PARTS)].tolist()
    for part in chosen:
        first, end = np.searchsorted(parts, [part, part + 1]).tolist()
        in_part = _spread(end - first, STORED_FRAMES // len(chosen))
        stored = token_set.read_view(part, part % num_views)
        for row in in_part.tolist():
            length = int(lengths[first + row])
            for at in _spread(length, STORED_FRAMES // len(chosen) // len(in_part)).tolist():
                frame_HWC = store.read_frames(part, int(starts[first + row]) + at, 1)[0]
                view_PPC = halve(apply_view(frame_HWC, stored.views[row]), input_px)
                yield view_PPC, stored.tokens[row][at].astype(np.int64)


def _encoded(store: FrameStore, tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    frames_NPPC = prepared(sampled_frames(store, ENCODED_FRAMES), tokenizer.input_px, halve)
    yield from zip(frames_NPPC.numpy(), tokenizer.encode(frames_NPPC).cpu().numpy(), strict=True)


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers 0..count-1, evenly spread and increasing."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
