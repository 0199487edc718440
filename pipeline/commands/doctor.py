"""`bevt doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.inert import one_line
from bevt_core.console.readable import count
from bevt_core.console.terminal import emit, show


def doctor(
    data: Annotated[Path, typer.Option(help="Folder of the data; the speed of its disk is measured.")] = Path(),
    no_ray: Annotated[bool, typer.Option("--no-ray", help="Do not start Ray, which takes some seconds.")] = False,
    json_: AsJson = False,
) -> None:
    """Check this machine: versions, GPUs, decoders, limits, disk speed and Ray.

    Each line that is not fine has advice. Exits with 1 if there is a problem; warnings cost speed or a feature.

    \b
    Examples:
      bevt doctor
      bevt doctor --data /data --json
    """
    from pipeline.doctor.examine import examine, summary

    findings = []
    for finding in examine(data, with_ray=not no_ray):
        findings.append(finding)
        if not json_:
            mark = {"ok": "  ", "warning": "! ", "problem": "X "}[finding.state]
            show(one_line(f"{mark}{finding.subject:<20}{finding.value}"))
            if finding.advice:
                show(one_line(f"  {'':<20}-> {finding.advice}"))
    found = summary(findings)
    if json_:
        emit(found, json_)
    else:
        show(f"{count(found['problems'], 'problem')}, {count(found['warnings'], 'warning')}")
    raise typer.Exit(1 if found["problems"] else 0)
