"""Window attention of every implementation at all shapes of Swin-B (`bevt bench attention`)."""

import functools

from common import step

from bevt_core.bench.attention import attention_cases, attention_rows, default_implementations, totals_ms

FLEX_S = 30.0  # more than compiling and measuring it takes at one shape


def main() -> None:
    with step("attention") as (options, result):
        batch = {"video": 1, "image": 2} if options.tiny else {"video": 8, "image": 64}
        cases = attention_cases("nano", 64) if options.tiny else attention_cases("base", 224)
        repeats = 2 if options.tiny else 10
        dtype = "fp32" if options.device.type == "cpu" else "bf16"
        result.set(size="nano" if options.tiny else "base", dtype=dtype, batch=batch)
        measure = functools.partial(attention_rows, batch=batch, device=options.device, dtype=dtype, repeats=repeats)
        for name in default_implementations(options.device):
            for case in cases:
                if name == "flex" and options.seconds_left() < FLEX_S:
                    result.add({"implementation": name, "case": case.name, "skipped": "no time was left to compile it"})
                    continue
                (row,) = measure([case], implementations=[name])
                result.add(row)
        result.set(totals_ms=totals_ms(result.content["rows"]))


if __name__ == "__main__":
    main()
