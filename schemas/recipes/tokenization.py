"""The recipe of `bevt tokenize`: raw data -> frame store and token set. Sources beside the numbers."""

from typing import Literal

from schemas.base import PlainName, Record
from schemas.frames import PoolSpec
from schemas.ranges import Attempts, Batch, Seconds, Seed
from schemas.views import ViewSpec

# tf32: float32 weights whose products a GPU rounds to TF32; the CPU has no such products
TokenizerDtype = Literal["float32", "tf32", "float16", "bfloat16"]


class TokenizeRecipe(Record):
    """Raw data -> frame store + token set."""

    kind: Literal["tokenize"]
    title: str
    dataset: str  # a key of pipeline.sources.SOURCES
    split: str
    root: str  # where the raw files are
    out: str  # where frames/ and tokens/ go
    tokenizer: str  # a name or a tokenizer directory; `default`: dalle where it is found, else the embedded one
    tokenizer_dtype: TokenizerDtype = "float32"  # of its networks; in the set's identity
    tokenizer_compiled: bool = False  # by torch.compile; in the set's identity too
    # frames per pass through its network, in the identity too; null: 16 on CPUs, what fills the card on GPUs
    tokenizer_pass_frames: Batch | None = None
    token_set: PlainName | None = None  # below tokens/; null: the tokenizer's kind and views
    pool: PoolSpec
    views: ViewSpec
    seed: Seed
    sources_per_part: Batch  # at most
    min_parts: Batch = 8  # where there are so many sources: parts of a small set have fewer
    batch_frames: Batch  # frames per tokenizer call, rounded up to whole passes; changes no token
    decode_timeout_s: Seconds  # per source; what takes longer is rejected
    attempts: Attempts  # tries per source before it is rejected for a time-out or a crash
