"""Logging of completed steps: log lines, the progress line, and the count of consecutive bad steps."""

import math
import time
from collections.abc import Mapping

from bevt_core.console.progress import ProgressLine, say
from bevt_core.console.readable import percent, shown
from bevt_core.console.terminal import warn
from schemas.errors import UserError
from schemas.recipes import Execution
from trainer.distributed.world import World
from trainer.engine.checkpoint import LogLine
from trainer.engine.step import StepReport
from trainer.metrics.data_wait import DataWait
from trainer.metrics.log import MetricsLog, timing
from trainer.metrics.monitor import StepFlops, memory_gb, peak_tflops, rates

MAIN = ("loss",)  # shown before the rate on the progress line
# values about the machine and the optimizer: not shown by name, some in another form
HIDDEN = {"lr", "grad_norm", "step_s", "data_wait_s", "data_wait_share", "samples_per_s", "skipped", "hook_s"} | {
    "forward_backward_s",
    "optimizer_s",
    "tflops_per_s",
    "memory_gb",
}


class StepLog:
    """The values of completed steps, on every rank; rank 0, which has `log`, writes them."""

    def __init__(
        self,
        loop: Execution,
        first: int,
        stop: int,
        log: MetricsLog | None,
        world: World,
        step_flops: StepFlops | None,
        bad_steps: int,
        progress: ProgressLine,
        data_wait: DataWait | None,
    ) -> None:
        self.loop, self.stop, self.log, self.world, self.step_flops = loop, stop, log, world, step_flops
        self.bad_steps, self.progress, self.data_wait = bad_steps, progress, data_wait
        self.first = first
        self.step = first - 1  # the last step read
        self.values: dict[str, float] = {}  # values of that step
        self.closed_s = 0.0  # perf_counter when that step was read
        self.peak = peak_tflops(world.device, loop.peak_tflops)

    def close(self, report: StepReport) -> bool:
        """Read a step and log it; return whether any rank was asked to stop during the step."""
        stopping = self.read(report)
        self.write({})
        return stopping

    def read(self, report: StepReport) -> bool:
        """Wait for a step's values; return whether any rank was asked to stop during the step.

        Raises UserError, after logging the step, if there were too many consecutive bad steps.
        """
        self.step, values = report.step, report.read()
        stopping = bool(values.pop("stop"))
        self.bad_steps = self.bad_steps + 1 if report.offenders else 0
        now = time.perf_counter()
        step_s = now - max(report.asked_s, self.closed_s)  # a queued step begins when the previous one ends
        self.closed_s = now
        values |= timing(values.pop("samples"), report.began_s - report.asked_s, step_s)
        values |= rates(self.step_flops, step_s, self.world, self.peak) | {"memory_gb": memory_gb(self.world.device)}
        self.values = values
        if report.offenders:
            self._warn_or_stop(report.offenders)
        return stopping

    def reopen(self, line: LogLine) -> None:
        """Restore the last step of a checkpoint, which is logged with the values of its evaluations."""
        self.values = {name: math.nan if value is None else value for name, value in line.items()}

    def write(self, found: Mapping[str, float]) -> None:
        """Log the last step read, with the values `found` by evaluations after it."""
        self.values |= found
        done, values = self.step + 1, self.values
        if self.log is None:
            return
        self.log.write(self.step, values)
        words = in_words(found)
        if words:
            say(f"step {done}/{self.stop}: {words}")
        # the first step too: the progress line's rate is measured from its end
        if self.progress.on_terminal or done in (self.first + 1, self.stop) or done % self.loop.log_every == 0:
            self.progress.update(done, *shown_values(values))
        if self.data_wait is not None and "data_wait_s" in values:
            self.data_wait.add(values["data_wait_s"], values["step_s"])

    def _warn_or_stop(self, offenders: list[str]) -> None:
        values, allowed = self.values, self.loop.max_bad_steps
        named = ", ".join(offenders[:20]) + (f" and {len(offenders) - 20} more" if len(offenders) > 20 else "")
        message = f"step {self.step}: loss {values['loss']}, gradient norm {values['grad_norm']}; skipped. "
        message += f"Samples: {named}"
        if self.bad_steps > allowed:
            self.write({})
            raise UserError(
                f"{message}. That makes {self.bad_steps} such steps in a row, loop.max_bad_steps is {allowed}; "
                "check these samples, or start a new run with a lower optim.lr"
            )
        if self.world.is_main:
            warn(message)


def in_words(values: Mapping[str, float]) -> str:
    """Return values as readable text, without HIDDEN ones."""
    return "  ".join(f"{name} {shown(name, value)}" for name, value in values.items() if name not in HIDDEN)


def shown_values(values: Mapping[str, float]) -> tuple[str, str]:
    """Return a step's values for the progress line: the text before the rate, and the text at its end."""
    main = {name: values[name] for name in MAIN if name in values}
    more = in_words({name: value for name, value in values.items() if name not in main})
    if "lr" in values:
        more += f"  lr {values['lr']:.3g}  |g| {values['grad_norm']:.3g}  {values['samples_per_s']:.1f} samples/s"
        more += f"  data wait {percent(values['data_wait_share'])}"
    skipped = "  SKIPPED" if "skipped" in values else ""
    return in_words(main), (more + skipped).strip()
