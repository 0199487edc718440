"""The joint step with each block compiled (`loop.compile: blocks`). Its first step holds the compilation."""

from common import SkipStep, attempt, step
from step_sizes import sizes_of

from trainer.bench.step import bench_train_step


def main() -> None:
    with step("compiled_step") as (options, result):
        if options.device.type == "cpu":
            raise SkipStep("compiling takes minutes on a CPU, and says nothing about a GPU")
        result.add(attempt({}, lambda: bench_train_step(**sizes_of(options, 8, 64), compile_blocks=True)))


if __name__ == "__main__":
    main()
