"""How many bytes a 14x14 token map takes on disk in each Parquet layout: `python benchmarks/token_encodings.py`."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLES, FRAMES, GRID, VOCAB = 64, 37, 196, 8192
TOKENS = "tokens.list.element.list.element"


def main() -> None:
    rng = np.random.default_rng(0)
    kinds = {
        "uniform": rng.integers(0, VOCAB, (SAMPLES, FRAMES, GRID)),
        "zipf": np.minimum(rng.zipf(1.3, (SAMPLES, FRAMES, GRID)), VOCAB - 1),
    }
    for kind, ids in kinds.items():
        tokens = ids.astype(np.uint16)
        maps = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), GRID)
        nested = pa.ListArray.from_arrays(np.arange(0, SAMPLES * FRAMES + 1, FRAMES, dtype=np.int32), maps)
        blobs = pa.array([row.tobytes() for row in tokens])
        for layout, column, options in (
            ("nested lists, plain", nested, {"use_dictionary": False}),
            ("nested lists, dictionary", nested, {"use_dictionary": True}),
            (
                "nested lists, byte stream split",
                nested,
                {"use_dictionary": False, "column_encoding": {TOKENS: "BYTE_STREAM_SPLIT"}},
            ),
            ("binary blobs", blobs, {"use_dictionary": False}),
        ):
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"tokens": column}), sink, compression="zstd", compression_level=3, **options)
            print(f"{kind:8s} {layout:34s} {len(sink.getvalue()) / SAMPLES / FRAMES:6.1f} bytes per frame")


if __name__ == "__main__":
    main()
