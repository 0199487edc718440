"""Joint batches from shards with 1 to 16 loader processes, and the share of 20 real steps that waits for data."""

import time

import torch
from common import joint_recipe, step
from made_shards import CORES, photo_shards

from trainer.data.batches import StreamBatches
from trainer.metrics.log import read_metrics
from trainer.pretrain.stage import HIDDEN_MULTIPLE, pretrain
from trainer.pretrain.streams import open_sources, open_streams

SETTLED = 5  # steps, after which kernels are loaded and batches are ahead


def main() -> None:
    with step("loader") as (options, result):
        batch = {"video": 2, "image": 4} if options.tiny else {"video": 8, "image": 64}
        name = "nano_joint" if options.tiny else "joint_swin_base_k400_in1k"
        overrides = [*photo_shards(options), *(f"streams.{s}.global_batch={n}" for s, n in batch.items())]
        overrides += ["model.vocab_size=64", "streams.video.clip_frames=8"] if options.tiny else []
        overrides += ["loop.micro_batches=1", "loop.processes=null", "loop.activation_checkpointing=false"]
        overrides += ["loop.hang_timeout_s=null", "loop.epochs=10", "optim.warmup_epochs=0"]
        recipe = joint_recipe(*overrides, name=name)
        on_gpu = options.device.type == "cuda"
        streams = open_streams(recipe, open_sources(recipe, torch.device("cpu")), HIDDEN_MULTIPLE if on_gpu else 1)
        for workers in (1, 2) if options.tiny else (1, 2, 4, 8, 16):
            source = StreamBatches(streams, rank=0, world_size=1, num_workers=workers, pin_memory=on_gpu)
            skipped, timed = 2 * workers, 2 * workers + 4
            for number, _ in enumerate(source.batches(0, skipped + timed)):
                if number == skipped - 1:
                    begun = time.perf_counter()
            rate = timed / (time.perf_counter() - begun)
            samples = sum(batch.values())
            result.add({"workers": workers, "batches_per_s": rate, "samples_per_s": samples * rate})

        steps, workers = (6, 1) if options.tiny else (20, max(1, min(12, CORES - 2)))
        run = options.work / "data-wait"
        settings = [f"loop.max_steps={steps}", f"loop.num_workers={workers}", "loop.checkpoint_every=1000"]
        pretrain(joint_recipe(*overrides, *settings, name=name), run)
        lines = read_metrics(run)[min(SETTLED, steps // 2) :]
        waited, taken = (sum(line[key] for line in lines) for key in ("data_wait_s", "step_s"))
        result.set(
            wait_workers=workers, wait_steps=len(lines), data_wait_share=waited / taken, step_s=taken / len(lines)
        )


if __name__ == "__main__":
    main()
