"""A toy task and its source for tests of the training loop."""

from dataclasses import dataclass

import torch
from torch import nn

from schemas.recipes import LoopConfig, OptimConfig
from trainer.distributed.world import World
from trainer.engine.loop import fit
from trainer.engine.optim import build_optimizer
from trainer.engine.schedule import CosineSchedule
from trainer.engine.task import Term, split
from trainer.metrics.log import read_metrics

CPU = World(rank=0, size=1, device=torch.device("cpu"))
BATCH, STEPS = 6, 8


class ToyTask:
    """Two-term regression with dropout; every second sample counts for the second term."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def counts(self, batch):
        return {"all": len(batch["x"]), "some": int(batch["chosen"].sum())}

    def losses(self, model, batch, step):
        error = (model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().squeeze(1)
        chosen = batch["chosen"].float()
        return {
            "all": Term(error.sum(), sums={"big": (error > 1).sum()}, histograms={"class": torch.ones(4)}),
            "some": Term((error * chosen).sum(), weight=0.5),
        }


@dataclass
class ToySource:
    """Batches by step; sample ids are `step-position`. `poison` is the id of a sample that is not a number."""

    poison: tuple[str, ...] = ()
    micro_batches: int = 1

    def batches(self, first, stop):
        for step in range(first, stop):
            x = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step))
            ids = [f"{step}-{i}" for i in range(BATCH)]
            for i, name in enumerate(ids):
                if name in self.poison:
                    x[i] = float("nan")
            columns = (x, torch.arange(BATCH) % 2 == 0, ids)
            micros = zip(*(split(column, self.micro_batches) for column in columns), strict=True)
            yield [{"x": x, "chosen": chosen, "ids": ids} for x, chosen, ids in micros]

    def samples_in(self, batch):
        return batch["ids"]


OPTIM = OptimConfig(lr=0.05, weight_decay=0.01, warmup_epochs=0, clip_grad_norm=1.0)
LOOP = LoopConfig(epochs=1, seed=3, precision="fp32", num_workers=0, checkpoint_every=3, log_every=100)


def run(
    folder, *, resume=False, source=None, identity=None, hooks=(), evaluations=(), data_wait=None, world=CPU, **loop
):
    """Train a fresh toy task in `folder`; `loop` overrides LOOP. Return the task and the result."""
    task = ToyTask()
    return task, fit(
        task,
        source or ToySource(),
        build_optimizer(task.model, OPTIM),
        CosineSchedule(STEPS, 2, 0.1, 0.0),
        optim=OPTIM,
        loop=LOOP.model_copy(update=loop),
        world=world,
        run_dir=folder,
        identity=identity or {"loop.seed": 3},
        resume=resume,
        hooks=hooks,
        evaluations=evaluations,
        data_wait=data_wait,
    )


def losses(folder):
    return [line["loss"] for line in read_metrics(folder)]
