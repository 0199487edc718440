"""What else could make pretraining pay: the runs of `run.py --leads`. Each changes one thing about BEVT.

The kernel of the video stem at the start, the weight of the image loss, the number of images in a step; and
fine-tuning with the learning rate and layer decay that are best for each start on held-out training clips.
"""

from collections.abc import Iterator
from itertools import product

from label_sets import held_out
from plan import Run, finetune, pretrain
from sizes import Study

KERNELS = ("centre", "noise")  # as in kernels.py; BEVT itself has the published inflation
CHANGES = {
    "image_loss_half": "--set streams.image.loss_weight=0.5",
    "image_loss_double": "--set streams.image.loss_weight=2.0",
    "images_half": "--set streams.image.global_batch=16",
    "images_double": "--set streams.image.global_batch=64",
}
TUNED_STARTS = ("scratch", "image", "video", "joint_init")
TRIALS = tuple(product((5e-4, 1e-3, 2e-3), (1.0, 0.75)))  # learning rate, layer decay


def leads(study: Study) -> list[Run]:
    found = [trial(study, start, lr, decay) for start in TUNED_STARTS for lr, decay in TRIALS]
    for seed in study.seeds:
        found += [*joint_changed(study, seed), *(tuned(study, seed, start) for start in TUNED_STARTS)]
    return found


def joint_changed(study: Study, seed: int) -> Iterator[Run]:
    """BEVT with each change, and its fine-tuning."""
    streams, image = [("image", "images/dvae-v2"), ("video", "videos/dvae-v2")], f"pretrain/image_{seed}"
    for kernel in KERNELS:
        made = f"starts/{kernel}_{seed}"
        change = f"benchmarks/study/kernels.py {{out}}/{image} {{out}}/{made} --kernel {kernel} --seed {seed}"
        yield Run(made, change, f"{made}/weights.safetensors", (image,))
        yield pretrain(study, seed, f"kernel_{kernel}", streams, study.unlabelled, init=made)
        yield finetune(study, seed, f"kernel_{kernel}", study.share)
    for name, option in CHANGES.items():
        yield pretrain(study, seed, name, streams, study.unlabelled, option, init=image)
        yield finetune(study, seed, name, study.share)


def trial(study: Study, start: str, lr: float, decay: float) -> Run:
    """One of the trials of `start`, with the first seed."""
    options = f"--set optim.lr={lr:g} --set optim.layer_decay={decay:g}"
    run = f"trials/{start}_{lr:g}_{decay:g}"
    return finetune(study, study.seeds[0], start, study.share, held_out(study), options=options, run=run)


def tuned(study: Study, seed: int, start: str) -> Run:
    """The fine-tuning with the settings of the best trial, tested on the test clips."""
    run = finetune(study, seed, start, study.share, run=f"tuned/{start}_{study.share:g}_{seed}")
    trials = tuple(f"trials/{start}_{lr:g}_{decay:g}" for lr, decay in TRIALS)
    return Run(run.name, f"benchmarks/study/tuned.py {{out}} {start} {run.command}", run.product, run.needs + trials)
