"""Recipes of `bevt tokenize`: raw data -> frame store and token set. Comments name the origin of the numbers."""

from typing import Literal

from pydantic import model_validator

from schemas.base import PlainName, Record
from schemas.frames import PoolSpec, VideoDecoder
from schemas.ranges import Attempts, Batch, Seconds, Seed, Weight
from schemas.views import ViewSpec

# tf32: float32 weights with TF32 matrix products; needs a GPU
TokenizerDtype = Literal["float32", "tf32", "float16", "bfloat16"]


class TokenizeRecipe(Record):
    """Raw data -> frame store + token set."""

    kind: Literal["tokenize"]
    title: str  # a description
    dataset: str  # a key of pipeline.sources.SOURCES
    split: str  # name of the split, such as train
    root: str  # folder of the raw data
    out: str  # folder for frames/ and tokens/
    tokenizer: str  # a name or a tokenizer directory; `default`: dalle if it is found, else the bundled one
    tokenizer_dtype: TokenizerDtype = "float32"  # of its networks; part of the set's identity
    tokenizer_compiled: bool = False  # by torch.compile; part of the set's identity
    # frames per pass through its network, part of the identity; null: 16 on CPUs, as many as fill the GPU on GPUs
    tokenizer_pass_frames: Batch | None = None
    token_set: PlainName | None = None  # folder below tokens/; null: named after the tokenizer's kind and the views
    prefix: PlainName | None = None  # in a store that mixes data sets: of its sample ids and class names
    weight: Weight = 1.0  # in such a store: readings of each sample per epoch, on average
    pool: PoolSpec
    views: ViewSpec
    seed: Seed  # of the order of sources and the phase of pools
    sources_per_part: Batch  # at most, unless there would be more than `max_parts`
    min_parts: Batch = 8  # if there are enough sources; the parts of a small set have fewer sources
    max_parts: Batch = 20_000  # the parts of a huge set have more sources; each part costs files and the driver's time
    batch_frames: Batch  # frames per tokenizer call, rounded up to whole passes; does not change tokens
    decoder: VideoDecoder = "pyav"  # tried first; PyAV reads the files that another cannot, and gives the same frames
    decode_timeout_s: Seconds  # per source; slower ones are rejected
    attempts: Attempts  # attempts per source before it is rejected for a time-out or crash

    @model_validator(mode="after")
    def _check_weight(self) -> "TokenizeRecipe":
        if self.weight != 1 and self.prefix is None:
            raise ValueError(f"weight: {self.weight:g} without a prefix; only stores that mix data sets have weights")
        return self
