"""Window attention of every implementation at all shapes of Swin-B (`bevt bench attention`)."""

from common import step

from bevt_core.attention_benchmark import attention_cases, attention_rows, totals_ms


def main() -> None:
    with step("attention") as (options, result):
        batch = {"video": 1, "image": 2} if options.tiny else {"video": 8, "image": 64}
        cases = attention_cases("nano", 64) if options.tiny else attention_cases("base", 224)
        repeats = 2 if options.tiny else 10
        dtype = "fp32" if options.device.type == "cpu" else "bf16"
        result.set(size="nano" if options.tiny else "base", dtype=dtype, batch=batch)
        for row in attention_rows(cases, batch, device=options.device, dtype=dtype, repeats=repeats):
            result.add(row)
            result.content["totals_ms"] = totals_ms(result.content["rows"])


if __name__ == "__main__":
    main()
