"""The commands that read finished and running runs: `bevt runs` and `bevt report`. Heavy imports are inside them."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit, show


def list_runs(
    directory: Annotated[Path, typer.Argument(help="Folder to search for runs.")] = Path("runs"),
    json_: AsJson = False,
) -> None:
    """List the runs below a folder, newest first: steps, loss and state.

    The state is alive, finished, stopped or dead; for a live run, the time left is shown.

    \b
    Example:
      bevt runs list runs
    """
    from trainer.runs.browse import list_runs as run
    from trainer.runs.table import list_table

    rows = run(directory)
    if json_:
        emit({"runs": rows}, json_)
        return
    show("\n".join(list_table(rows)))


def show_run(run: Annotated[Path, typer.Argument(help="Directory of the run.")], json_: AsJson = False) -> None:
    """Show one run: its command, data, checkpoints and last metrics.

    \b
    Example:
      bevt runs show runs/joint
    """
    from trainer.runs.browse import show_run as show
    from trainer.runs.table import show_facts

    shown = show(run)
    emit(shown if json_ else show_facts(shown), json_)


def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="Directories of the runs.")],
    out: Annotated[Path, typer.Option(help="PNG file for the curves.")] = Path("curves.png"),
    key: Annotated[
        list[str] | None,
        typer.Option(help="Logged metric (repeatable; default: loss; the text shows accuracies too)."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Compare runs: settings that differ, results and curves.

    Data and machines are compared too; the curves are also drawn as a PNG.

    \b
    Example:
      bevt runs compare runs/joint runs/joint-lr3 --key mvm_loss --out curves.png
    """
    from trainer.runs.browse import compare_runs as compare
    from trainer.runs.table import compare_table

    compared = compare(runs, key, out)
    if json_:
        emit(compared, json_)
        return
    show("\n".join(compare_table(compared)))


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Fine-tuning runs and their evaluations, or folders that contain both.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.md and report.csv.")] = Path("report"),
    json_: AsJson = False,
) -> None:
    """Write the paper's result tables with your runs added.

    The report has Tables 1 and 3 to 6, and names the settings in which the runs differ from the paper.

    \b
    Example:
      bevt report runs/finetune-k400 runs/evaluate-k400 --out report
    """
    from trainer.show.paper_report import write_report

    emit(write_report(runs, out), json_)
