"""300 joint steps of the nano model on clips of camera motion: the loss must fall."""

import statistics

from common import joint_recipe, step
from made_shards import motion_shards

from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import pretrain


def main() -> None:
    with step("nano") as (options, result):
        clips, images, steps = (32, 32, 20) if options.tiny else (512, 512, 300)
        batch = 8 if options.tiny else 32
        on_gpu = options.device.type == "cuda"
        overrides = motion_shards(options, options.work / "nano", clips, images)
        overrides += [f"streams.{stream}.global_batch={batch}" for stream in ("video", "image")]
        overrides += ["loop.epochs=1000", f"loop.max_steps={steps}", "loop.checkpoint_every=1000"]
        overrides += [f"loop.precision={'bf16' if on_gpu else 'fp32'}", f"loop.num_workers={4 if on_gpu else 0}"]
        pretrain(joint_recipe(*overrides, name="nano_joint"), options.work / "nano-run")
        lines = read_metrics(options.work / "nano-run")
        few = max(1, steps // 15)
        first, last = (statistics.mean(line["loss"] for line in part) for part in (lines[:few], lines[-few:]))
        step_s = statistics.median(line["step_s"] for line in lines[few:])
        result.set(steps=len(lines), first_loss=first, last_loss=last, loss_falls=last < first, step_ms=1000 * step_s)
        if not last < first:
            raise RuntimeError(f"the mean loss went from {first} to {last} in {steps} steps")


if __name__ == "__main__":
    main()
