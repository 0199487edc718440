"""The joint step with the tokenizer in it, in every precision of the tokenizer."""

from common import attempt, step
from step_sizes import TOKENIZER_DTYPES, random_tokenizer, sizes_of

from bevt_core.tokenizers import load_tokenizer
from trainer.bench.step import bench_train_step


def main() -> None:
    with step("online_step") as (options, result):
        folder = random_tokenizer(options)
        sizes = sizes_of(options, 1, 2) if options.tiny else sizes_of(options, 8, 64)
        for dtype in TOKENIZER_DTYPES:

            def measure(dtype: str = dtype) -> dict:
                return bench_train_step(**sizes, tokenizer=load_tokenizer(folder, options.device, dtype))

            result.add(attempt({"tokenizer_dtype": dtype}, measure))


if __name__ == "__main__":
    main()
