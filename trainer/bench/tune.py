"""`bevt tune`: short trials of a recipe on this machine, and the settings with which it is fastest.

First the model alone, with micro-batches of several sizes; then the model and the loader, with several numbers of
loader processes. The global batch is always the recipe's. One process is measured, with its share of the batch and of
the CPUs.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from bevt_core.bench.timing import device_name
from bevt_core.console.progress import say
from bevt_core.console.readable import count
from bevt_core.cpus import usable_cpus
from trainer.bench.choice import LoaderTrial, Result, StepTrial, choose_step, choose_workers, settings, speedup
from trainer.bench.step import OPTIM
from trainer.bench.subject import Subject
from trainer.bench.timed import STEPS, WARM_UP, timed_loading, timed_micro_batch
from trainer.data.batches import Samples, StreamBatches
from trainer.data.loader import AHEAD
from trainer.distributed.cpus import MAX_WORKERS, loader_workers, local_processes
from trainer.distributed.world import World
from trainer.engine.optim import build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.engine.step import Stepper
from trainer.setup.memory import Memory, largest_micro_batch, possible_micro_batches
from trainer.setup.plan import Plan, make_plan

LONGEST_S = 20.0  # a size is left out if one of its micro-batches would take longer
CPU_SHARE = 0.5  # of the machine's memory that a step on a CPU may take; running out of memory would end the process


@dataclass(frozen=True)
class Trials:
    """What is to be measured."""

    subject: Subject
    plan: Plan[Any]  # the default: what the command that trains would choose
    world: World
    numbers: Sequence[int]  # of micro-batches per process, descending: the smallest micro-batch first
    workers: Sequence[int]  # loader processes


def trials_of(subject: Subject, world: World, processes: int, memory: Memory) -> Trials:
    """Return the trials for a run of `processes` processes, whose micro-batches would fit `memory` by default.

    Raises UserError if no default fits.
    """
    plan = make_plan(subject.workload, processes, memory)
    possible = possible_micro_batches([order.global_batch for order in plan.orders.values()], processes)
    allowed = [number for number in possible if subject.workload.allows_split(number, processes)]
    return Trials(
        subject,
        plan,
        world,
        sorted({*doubled(allowed), plan.micro_batches}, reverse=True),
        workers_to_try(plan.recipe.loop.num_workers, processes, world.device),
    )


def doubled(numbers: Sequence[int]) -> list[int]:
    """Return the largest of the ascending `numbers`, the largest of at most half of it, and so on."""
    chosen: list[int] = []
    while numbers:
        chosen.append(numbers[-1])
        numbers = [number for number in numbers if 2 * number <= chosen[-1]]
    return chosen


def workers_to_try(num_workers: int | None, processes: int, device: torch.device) -> list[int]:
    """Return the numbers of loader processes to try, ascending: powers of two up to the CPUs of a rank, the default."""
    most = max(1, min(MAX_WORKERS, usable_cpus() // max(processes, local_processes()) - 1))
    tried = {2**power for power in range(most.bit_length())} | {loader_workers(num_workers, processes)}
    return sorted(tried if device.type == "cuda" else tried | {0})


def describe(trials: Trials) -> dict[str, Any]:
    """Return what the trials are of, for the summary."""
    plan, subject = trials.plan, trials.subject
    return {
        "device": device_name(trials.world.device),
        "precision": plan.recipe.loop.precision,
        "processes": plan.world_size,
        "global_batch": {name: order.global_batch for name, order in plan.orders.items()},
        "data": subject.data if subject.samples is not None else f"none: {subject.data} does not exist",
    }


def tune(trials: Trials, seconds: float) -> dict[str, Any]:
    """Measure all trials, each number of loader processes for `seconds`; return them, the choice and its overrides."""
    say(f"trying {count(len(trials.numbers), 'size')} of micro-batches")
    steps = [*step_trials(trials)]
    step = choose_step(steps)
    loading, samples = [], trials.subject.samples
    if step is not None and samples is not None:
        say(f"trying {', '.join(map(str, trials.workers))} loader processes, {seconds:g} s each")
        loading = [*loader_trials(trials, samples, step, seconds)]
    loader = choose_workers(loading)
    return {
        **describe(trials),
        "steps": [asdict(trial) for trial in steps],
        "loading": [asdict(trial) for trial in loading],
        "set": settings(step, loader, trials.plan.world_size),
        "step_speedup": speedup(steps, step),
        "loading_speedup": speedup(loading, loader),
    }


def step_trials(trials: Trials) -> Iterator[StepTrial]:
    """Measure a step for every size of micro-batch, and those that do not fit also with activation checkpointing."""
    plain = list(_with_one_model(trials, trials.numbers, checkpointed=False))
    yield from plain
    too_large = {trial.micro_batches for trial in plain if trial.result == "does not fit"}
    if trials.plan.recipe.loop.activation_checkpointing:
        too_large.add(trials.plan.micro_batches)
    if too_large:
        yield from _with_one_model(trials, sorted(too_large, reverse=True), checkpointed=True)


def _with_one_model(trials: Trials, numbers: Sequence[int], checkpointed: bool) -> Iterator[StepTrial]:
    """Measure steps with these numbers of micro-batches, descending; after one fails, no larger ones are tried."""
    plan, tried, micro_s = trials.plan, 1, 0.0
    result: Result = "measured"
    default = (plan.micro_batches, plan.recipe.loop.activation_checkpointing)
    stepper = stepper_of(trials, checkpointed)
    for number in numbers:
        sizes = sizes_of(trials, number)
        samples = sum(sizes.values())
        if result == "measured" and estimate_gb(trials, sizes, checkpointed) > memory_gb(trials.world.device):
            result = "does not fit"
        if result == "measured" and micro_s * samples / tried > LONGEST_S:
            result = "too slow to try"
        timed = timed_micro_batch(stepper, trials.subject, sizes) if result == "measured" else None
        trial = StepTrial(number, samples, checkpointed, result, (number, checkpointed) == default)
        if timed is not None:
            tried, micro_s = samples, timed.micro_s
            step_s = number * timed.micro_s + timed.optimizer_s
            of_rank = sum(sizes_of(trials, 1).values())
            trial = replace(trial, step_ms=1000 * step_s, samples_per_s=of_rank / step_s, peak_gb=timed.peak_gb)
        elif result == "measured":
            result = "does not fit"
            trial = replace(trial, result=result)
        yield trial


def sizes_of(trials: Trials, number: int) -> dict[str, int]:
    """Return the samples of the largest micro-batch, by stream, if each process has `number` micro-batches."""
    orders, processes = trials.plan.orders, trials.plan.world_size
    return {name: largest_micro_batch(order.global_batch, processes, number) for name, order in orders.items()}


def estimate_gb(trials: Trials, sizes: Mapping[str, int], checkpointed: bool) -> float:
    """Return the estimated memory of a step with such micro-batches, or 0 for a stage whose cost is not counted."""
    cost = trials.subject.workload.cost
    return 0.0 if cost is None else cost(checkpointed).step(sizes, sizes, 1).peak_gb


def memory_gb(device: torch.device) -> float:
    """Return the memory that an estimate may reach: all of a GPU's, where running out of memory can be tried."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e9
    return CPU_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def stepper_of(trials: Trials, checkpointed: bool) -> Stepper:
    """Return a stepper with a new model, on the device, and a learning rate at which random targets do no harm."""
    recipe, subject = trials.plan.recipe, trials.subject
    task = subject.task(checkpointed)
    optim = recipe.optim.model_copy(update={"lr": OPTIM.lr})
    schedule = CosineSchedule(total_steps=10**6, warmup_steps=0, warmup_start=1.0, final_share=1.0)
    optimizer = build_optimizer(task.model, optim, subject.lr_share)
    stepper = Stepper(task, optimizer, schedule, optim, recipe.loop, World(0, 1, trials.world.device))
    stepper.wrap()
    return stepper


def loader_trials(
    trials: Trials, samples: Mapping[str, Samples], step: StepTrial, seconds: float
) -> Iterator[LoaderTrial]:
    """Measure the micro-batches of `step`, loaded from the recipe's data by several numbers of processes."""
    plan, device = trials.plan, trials.world.device
    stepper = stepper_of(trials, step.activation_checkpointing)
    slices = plan.world_size * step.micro_batches
    streams = {name: (samples[name], order) for name, order in plan.orders.items()}
    default = loader_workers(plan.recipe.loop.num_workers, plan.world_size)
    for place, workers in enumerate(trials.workers):
        source = StreamBatches(
            streams,
            rank=slices - 1,  # the last slice is one of the largest
            world_size=slices,
            num_workers=workers,
            pin_memory=device.type == "cuda",
        )
        loaded = timed_loading(stepper, source, place * STEPS, WARM_UP + AHEAD * workers, seconds)
        step_s = step.micro_batches * (loaded.piece_s - loaded.optimizer_s) + loaded.optimizer_s
        yield LoaderTrial(workers, workers == default, 1000 * step_s, loaded.wait_s / loaded.piece_s)
