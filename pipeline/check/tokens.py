"""Check that stored tokens match the stored frames: tokenize the frames again, part by part, and compare."""

import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from bevt_core.console.inert import one_line
from bevt_core.console.progress import ProgressLine
from bevt_core.dataset.commits import part_name
from bevt_core.dataset.token_set import TokenSet
from bevt_core.rng import rng_for
from bevt_core.storage.files import read_record
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers import load_tokenizer, tokenizer_of
from bevt_core.tokenizers.base import Tokenizer
from pipeline.check.problems import REPAIR, Problem
from pipeline.job.tokenize_part import FramePart, PartTokenizer, draw_views
from schemas.frames import INDEX_SCHEMA
from schemas.tokens import TokenPartCommit

BATCH_FRAMES = 128  # frames per call of the tokenizer; ids do not depend on it
SAME_DEVICE = 1.0  # share of equal tokens
# Devices round differently at near-ties, and more so at lower precision. Compared with float32, 0.4 % of the ids of a
# small dVAE with DALL-E's networks change in (emulated) tf32, 0.7 % in float16 and 6 % in bfloat16 (docs/log.md).
OTHER_DEVICE = {"float32": 0.999, "tf32": 0.98, "float16": 0.98, "bfloat16": 0.85}


def compare_tokens(
    tokens_dir: AnyPath, sample: int | None, tokenizer_path: str | None, problems: list[Problem]
) -> tuple[int, int]:
    """Tokenize `sample` samples (None: all) again under all views and return the counts (equal, compared) of tokens.

    The views are drawn again too. Parts that differ are appended to `problems`. Raises UserError if the tokenizer is
    not found.
    """
    token_set = TokenSet(tokens_dir)
    tokenizer = _tokenizer_like(token_set, tokenizer_path)
    parts = PartTokenizer(tokenizer, BATCH_FRAMES, os.cpu_count() or 1)
    chosen = _choose(token_set.frames.samples["part"].to_numpy(), sample)
    found: dict[int, tuple[int, int]] = {}
    with ProgressLine(f"tokenize {one_line(tokens_dir.name)} again", len(chosen), unit="parts") as progress:
        for part, rows in chosen.items():
            found[part] = _compare_part(parts, token_set, part, rows, problems)
            progress.add(1)
    same_device = {part: counts for part, counts in found.items() if _made_here(token_set, part, tokenizer)}
    other_device = {part: counts for part, counts in found.items() if part not in same_device}
    other_floor = OTHER_DEVICE[token_set.manifest.tokenizer.dtype]
    for floor, counted in ((SAME_DEVICE, same_device), (other_floor, other_device)):
        equal, compared = _total(counted)
        if equal >= floor * compared:
            continue
        for part, (same, total) in counted.items():
            if same < floor * total:
                what = f"{same / total:.4%} of its tokens match the frames, expected {floor:.1%} or more"
                problems.append(Problem(_path_of(token_set, part), what, REPAIR))
    return _total(found)


def _tokenizer_like(token_set: TokenSet, tokenizer_path: str | None) -> Tokenizer:
    """Load the tokenizer that made the set, with its settings; without a GPU, on the CPU in the nearest precision."""
    made_by = token_set.manifest.tokenizer
    folder = tokenizer_of(token_set.path, made_by, tokenizer_path)
    if made_by.device_kind != "cpu" and torch.cuda.is_available():
        tokenizer = load_tokenizer(folder, "cuda", made_by.dtype, made_by.frames_per_pass)
    else:
        tokenizer = load_tokenizer(folder, "cpu", "float32" if made_by.dtype == "tf32" else made_by.dtype)
    return tokenizer.compile() if made_by.compiled else tokenizer


def _made_here(token_set: TokenSet, part: int, tokenizer: Tokenizer) -> bool:
    """Whether an equal tokenizer made the part on a CPU, or on this GPU model: then all tokens must be equal."""
    made_by = token_set.manifest.tokenizer
    if tokenizer.identity() != made_by.by_kind():
        return False
    if made_by.device_kind == "cpu":
        return True
    commit = read_record(token_set.path / f"{part_name(part)}.json", TokenPartCommit)
    recorded = None if commit is None else commit.gpu_model
    return tokenizer.gpu_model() == (recorded or made_by.device_kind)  # older sets record the model in device_kind


def _total(counts: Mapping[int, tuple[int, int]]) -> tuple[int, int]:
    equal, compared = (sum(column) for column in zip((0, 0), *counts.values(), strict=True))
    return equal, compared


def _compare_part(
    parts: PartTokenizer, token_set: TokenSet, part: int, rows: list[int], problems: list[Problem]
) -> tuple[int, int]:
    """The counts (equal, compared) of tokens of the samples `rows` of a part. A frame is decoded once for all views."""
    spec, frames = token_set.manifest.views, token_set.frames
    index = frames.read_index(part).take(rows)
    stored = [token_set.read_view(part, view) for view in range(spec.num_views)]
    drawn = draw_views(spec, index)
    sample_ids = index["sample_id"].to_pylist()
    for view, expected_views in enumerate(drawn):
        for row, sample_id, expected in zip(rows, sample_ids, expected_views, strict=True):
            if stored[view].views[row] != expected:
                what = f"view {view} of {sample_id!r} does not match its seed"
                problems.append(Problem(_path_of(token_set, part), what, REPAIR))
                return 0, 0
    spans = zip(index["frame_start"].to_pylist(), index["num_frames"].to_pylist(), strict=True)
    jpegs = [frames.read_jpegs(part, start, count) for start, count in spans]
    starts = np.cumsum([0, *map(len, jpegs)], dtype=np.int64)[:-1]
    column = index.schema.get_field_index("frame_start")
    index = index.set_column(column, INDEX_SCHEMA.field("frame_start"), pa.array(starts))
    again_VFhw, *_ = parts.tokens(FramePart(index, [jpeg for sample_jpegs in jpegs for jpeg in sample_jpegs]), drawn)
    stored_VFhw = np.stack([np.concatenate([view.tokens[row] for row in rows]) for view in stored])
    return int((again_VFhw == stored_VFhw).sum()), stored_VFhw.size


def _path_of(token_set: TokenSet, part: int) -> str:
    return str(token_set.path / f"{part_name(part)}.parquet")


def _choose(part_of_sample: np.ndarray, sample: int | None) -> dict[int, list[int]]:
    """The rows to compare, by part: of `sample` random samples, or of all if None."""
    positions = np.arange(len(part_of_sample))
    if sample is not None and sample < len(positions):
        positions = np.sort(rng_for("verify", len(positions)).choice(positions, sample, replace=False))
    first = np.searchsorted(part_of_sample, np.arange(part_of_sample.max(initial=0) + 1))
    chosen: dict[int, list[int]] = {}
    for position in positions.tolist():
        part = int(part_of_sample[position])
        chosen.setdefault(part, []).append(int(position - first[part]))
    return chosen
