"""The command that measures a finished dataset. Heavy imports are inside the function."""

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit
from bevt_core.storage.objects import as_path
from pipeline.commands.data import Directory


def bench_store(
    directory: Directory,
    json_: AsJson = False,
) -> None:
    """Measure the bytes on disk of a stored frame and of its tokens.

    The sizes are read from the commits of a finished dataset.

    \b
    Example:
      bevt bench store datasets/k400 --json
    """
    from pipeline.bench.store import bench_store as run

    emit(run(as_path(directory)), json_)
