"""Number types with plausible ranges: a value outside is a typing mistake or an attack.

The limits are far above any training today, and low enough that a product of a few of them fits into 64 bits.
"""

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]  # of a whole
Strength = Annotated[float, Field(ge=0.0, le=1e6)]  # the weight of a term of a loss
Weight = Annotated[float, Field(ge=0.001, le=1000.0)]  # readings of a sample per epoch
Seconds = Annotated[float, Field(gt=0.0, le=1e7)]
Epochs = Annotated[float, Field(gt=0.0, le=1e6)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Steps = Annotated[int, Field(ge=1, le=10**9)]
Batch = Annotated[int, Field(ge=1, le=10**6)]  # clips, crops or frames
Frames = Annotated[int, Field(ge=1, le=10**6)]  # number of frames, or distance between two
Pixels = Annotated[int, Field(ge=1, le=16_384)]  # length of a side
CropPixels = Annotated[int, Field(ge=16, le=16_384)]
Attempts = Annotated[int, Field(ge=1, le=1000)]
Processes = Annotated[int, Field(ge=1, le=100_000)]
Width = Annotated[int, Field(ge=1, le=16_384)]  # channels
Heads = Annotated[int, Field(ge=1, le=1024)]
Depth = Annotated[int, Field(ge=1, le=1000)]  # blocks or layers
Side = Annotated[int, Field(ge=1, le=1024)]  # of a patch, a window or a grid, in positions
Vocabulary = Annotated[int, Field(ge=2, le=65_536)]  # ids are stored as uint16
Count = Annotated[int, Field(ge=0, le=10**12)]  # of items in a dataset
Size3 = tuple[Side, Side, Side]  # time, rows, columns

MAX_FRAMES_PER_STEP = 10**7  # per optimizer step
MAX_FRAME_PIXELS = 64_000_000  # per frame of a source, and per stored frame; 8K has 33 million
MAX_PARAMETERS = 10**11  # per encoder


def check_frames_per_step(batch: int, frames: int, names: str) -> None:
    """Raise ValueError for implausibly many frames per step; `names` are the keys of both numbers, for the message."""
    if batch * frames > MAX_FRAMES_PER_STEP:
        raise ValueError(f"{names}: {batch} x {frames} frames per step, expected at most {MAX_FRAMES_PER_STEP}")


def check_parameters(blocks: int, width: int) -> None:
    """Raise ValueError for transformer blocks with implausibly many weights (12 width^2 each)."""
    if 12 * blocks * width**2 > MAX_PARAMETERS:
        raise ValueError(
            f"embed_dim gives {blocks} blocks of width {width}, about {12 * blocks * width**2:.0e} parameters; "
            f"expected at most {MAX_PARAMETERS:.0e}"
        )
