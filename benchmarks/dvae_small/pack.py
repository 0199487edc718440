"""Store a tokenizer's weights in half precision: `python benchmarks/dvae_small/pack.py TOKENIZER OUT`."""

import argparse
from pathlib import Path

from bevt_core.tokenizers.description import DECODER, ENCODER, read_description
from bevt_core.tokenizers.weights_files import read_state, save_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    stored = read_description(options.tokenizer)
    assert stored.decoder_sha256 is not None
    save_tokenizer(
        options.out,
        read_state(options.tokenizer, ENCODER, stored.encoder_sha256),
        read_state(options.tokenizer, DECODER, stored.decoder_sha256),
        kind=stored.kind,
        sizes=stored.sizes,
        input_px=stored.input_px,
        origin=stored.origin,
        storage="float16",
    )


if __name__ == "__main__":
    main()
