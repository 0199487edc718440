"""The log of a run: one JSON line per step, TensorBoard, and optionally Weights & Biases."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from bevt_core.console.disk_errors import explaining
from bevt_core.console.installation import install_command
from bevt_core.storage.files import read_bounded, write_atomic
from bevt_core.system import write_through
from schemas.errors import UserError
from schemas.text.json_text import json_text, parse_json, typed
from schemas.text.plain import shown
from schemas.text.regular_file import read_end
from schemas.text.yaml_text import MAX_BYTES, read_yaml

METRICS_FILE = "metrics.jsonl"
TAIL_BYTES = 64 << 10  # read first for the end of a log, some 200 lines
MAX_LOG_BYTES = 2 << 30  # about 300 bytes a line, so this allows millions of steps


class MetricsLog:
    """Appends one line per step. A resumed run first drops the lines after its checkpoint, so steps never repeat."""

    def __init__(self, run_dir: Path, first_step: int, wandb_project: str | None = None) -> None:
        """Raises UserError if `wandb_project` is given but cannot be logged to."""
        from torch.utils.tensorboard import SummaryWriter  # takes half a second to import

        self._wandb = None if wandb_project is None else _wandb_run(wandb_project, run_dir)
        self._path = run_dir / METRICS_FILE
        self._file: IO[str] = _reopened(self._path, first_step)
        with explaining(run_dir / "tensorboard"):
            self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step or None)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a line `{"step": step, ...}`, NaN and infinity as null; numbers also go to TensorBoard."""
        with explaining(self._path):
            self._file.write(json_text({"step": step, **values}) + "\n")
            self._file.flush()
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def sync(self) -> None:
        """Flush the lines to disk, so that they survive a crash of the machine. Called before each checkpoint."""
        with explaining(self._path):
            write_through(self._file.fileno())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sync()
        with explaining(self._path):
            self._file.close()
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)


def _wandb_run(project: str, run_dir: Path) -> Any:
    """Start or resume the Weights & Biases run of this directory, whose path determines the id."""
    try:
        import wandb
    except ImportError:
        raise UserError(
            f"loop.wandb is {project!r}, but Weights & Biases is not installed; run `{install_command('wandb')}`, or "
            "set loop.wandb=null"
        ) from None
    name = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:16]
    recipe = run_dir / "recipe.yaml"
    config = read_yaml(read_bounded(recipe, MAX_BYTES), recipe) if recipe.is_file() else {}
    # by default the command line and the URL of the git remote are uploaded; both may contain credentials
    settings = wandb.Settings(x_disable_meta=True, disable_git=True)
    options = {"project": project, "dir": str(run_dir), "name": run_dir.name, "config": config, "settings": settings}
    try:
        return wandb.init(id=name, resume="allow", **options)
    except wandb.Error as error:  # no key, no network, no such entity
        raise UserError(
            f"loop.wandb is {project!r}: {error}; run `wandb login`, set WANDB_MODE=offline and run `wandb sync` "
            "later, or set loop.wandb=null"
        ) from error


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log in order, without a last line that a crash truncated.

    Every line has an integer `step`; its other values are numbers or None. Raises UserError for any other line, and for
    a file that is not a log.
    """
    path = run_dir / METRICS_FILE
    return _lines(_log_bytes(path, lambda: read_bounded(path, MAX_LOG_BYTES)), str(path))


def recent_metrics(run_dir: Path, count: int) -> list[dict[str, Any]]:
    """The last `count` lines of `read_metrics`, reading only the end of a long log; other lines are not checked."""
    path = run_dir / METRICS_FILE
    data = _log_bytes(path, lambda: _end_of(path, count))
    is_whole = not data or len(data) == path.stat().st_size
    return _lines(data, str(path) if is_whole else f"the end of {path}")[-count:]


def _end_of(path: Path, count: int) -> bytes:
    """The end of a log from the start of a line, with at least `count` whole lines; or the whole log."""
    most = TAIL_BYTES
    start, data = read_end(path, most)
    while start > 0 and data.count(b"\n") <= count:  # its first line is cut
        most *= 8
        start, data = read_end(path, most)
    return data[data.find(b"\n") + 1 :] if start > 0 else data


def _log_bytes(path: Path, read: Callable[[], bytes]) -> bytes:
    """Call `read`; return nothing if there is no log. Raises UserError if it cannot be read."""
    try:
        return read()
    except FileNotFoundError:
        return b""
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"{path}: cannot be read, expected the log of a run: {error.strerror}") from None


def _lines(data: bytes, name: str) -> list[dict[str, Any]]:
    """Parse the whole lines of a log."""
    whole = data[: data.rfind(b"\n") + 1]  # after the last newline there is no complete line
    try:
        lines = whole.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 at byte {error.start}; expected one JSON object per line") from None
    return [_parsed(line, f"{name}, line {number}") for number, line in enumerate(lines, start=1)]


def _parsed(text: str, where: str) -> dict[str, Any]:
    line: dict[str, Any] = parse_json(text, dict, where)
    if "step" not in line:
        raise UserError(f"{where}: no step, expected one in every line; remove the line")
    typed(line["step"], int, where, "step")
    for name, value in line.items():
        if value is not None and not isinstance(value, int | float):
            raise UserError(f"{where}: {shown(name)} is {shown(value)}, expected a number or null; remove the line")
    return line


def last_step(run_dir: Path) -> int:
    """Return the last step that a run has logged, or -1 if there is none."""
    return max((line["step"] for line in read_metrics(run_dir)), default=-1)


def _reopened(path: Path, first_step: int) -> IO[str]:
    kept = [line for line in read_metrics(path.parent) if line["step"] < first_step]
    write_atomic(path, "".join(json_text(line) + "\n" for line in kept).encode())
    return path.open("a")


def timing(samples: float, data_wait_s: float, step_s: float) -> dict[str, float]:
    """Return a step's throughput and the share of its time spent waiting for data."""
    return {
        "data_wait_s": data_wait_s,
        "step_s": step_s,  # includes the wait
        "data_wait_share": min(1.0, data_wait_s / step_s),
        "samples_per_s": samples / step_s,
    }
