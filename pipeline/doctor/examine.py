"""All findings, in the order in which they are shown."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.cluster.session import check_installed, ray_session
from pipeline.doctor import machine, software
from pipeline.doctor.finding import Finding, guarded
from schemas.errors import UserError

SLOW_START_S = 60.0


def examine(data: Path, with_ray: bool) -> Iterator[Finding]:
    """Yield what is found, each as soon as it is known; `data` is the folder whose disk is measured."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", software.python),
        ("import names", software.names),
        ("torch", software.pytorch),
        ("GPUs", machine.gpus),
        ("window attention", machine.attention),
        ("decoders", software.decoders),
        ("weights", software.weights),
        ("CPUs", machine.cpus),
        ("memory", machine.memory),
        ("/dev/shm", machine.shared_memory),
        ("open files", machine.open_files),
        ("decoding processes", machine.isolation),
        (f"disk of {data}", partial(machine.disk, data)),
        ("decoding, per CPU", machine.decoding),
        *([("ray", ray)] if with_ray else []),
    ]
    for subject, find in checks:
        yield guarded(subject, find)


def ray() -> Finding:
    """Start Ray as a job does, and run one task."""
    try:
        check_installed()
    except UserError as error:
        return Finding("ray", "not installed", "warning", f"{error}, for tokenize, extend and repair")
    import ray

    begun = time.monotonic()
    with ray_session(None, 1, 0):
        answer = ray.get(ray.remote(lambda: 42).remote(), timeout=SLOW_START_S)
    assert answer == 42
    return Finding("ray", f"{ray.__version__}, started and stopped in {time.monotonic() - begun:.0f} s")


def summary(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as the JSON of the command: per subject its value, state and advice, and counts."""
    rows = {
        finding.subject: {"value": finding.value, "state": finding.state, "advice": finding.advice or None}
        for finding in findings
    }
    states = [finding.state for finding in findings]
    return {"findings": rows, "warnings": states.count("warning"), "problems": states.count("problem")}
