"""The directory of a run: its recipe, data, command, metrics, checkpoints and weights.

recipe.yaml          the resolved recipe: `--recipe RUN/recipe.yaml` trains the same
run.json             command, code revision, versions, dataset digests (schemas.runs.RunRecord)
resumes.jsonl        one line per resume: time, command, number of processes
clips.parquet        the clips that this run, and those it started from, trained on or held out (schemas.runs)
metrics.jsonl        one line per step
tensorboard/
checkpoints/
weights.safetensors  written last, read by bevt_core.weights.model_files.load_weights
"""

import itertools
import platform
import shlex
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bevt_core.console.disk_errors import explaining
from bevt_core.console.terminal import note
from bevt_core.storage.descriptions import RECIPE, RECORD, RUNS, kind_of_run, what_is
from bevt_core.storage.files import read_bounded, read_record, sha256_of, write_atomic, write_record
from bevt_core.storage.local import content_of
from bevt_core.weights.hub_models import pinned
from bevt_core.weights.packaged import HUB_WEIGHTS, expected, find_model, find_packaged
from schemas.errors import UserError
from schemas.recipes import FinetuneRecipe, PretrainRecipe
from schemas.recipes.identity import identity_fields
from schemas.recipes.loading import COMMANDS, Recipe, TrainingRecipe, parse_recipe, to_yaml
from schemas.runs import DatasetRef, RunRecord
from schemas.text.credentials import masked
from schemas.text.hub_name import HubName, hub_name
from schemas.text.json_text import json_text
from schemas.text.yaml_text import MAX_BYTES, read_yaml
from trainer.engine.checkpoint import Identity

RESUMES, WEIGHTS = "resumes.jsonl", "weights.safetensors"
PACKAGES = ("bevt", "torch", "numpy", "pillow", "simplejpeg", "pyarrow", "zarr", "safetensors")


def open_run(
    run_dir: Path,
    recipe: Recipe,
    datasets: Mapping[str, DatasetRef],
    *,
    resume: bool,
    command: str,
    world_size: int,
    total_steps: int | None = None,
    device: str | None = None,
    init_sha256: str | None = None,
) -> None:
    """Create the run directory and its record, or append the resume to an existing one. Only rank 0 calls this.

    Raises UserError as `check_run_dir` does.
    """
    check_run_dir(run_dir, recipe.kind, resume)
    exists = (run_dir / RECORD).is_file()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if exists:
        with explaining(run_dir / RESUMES), (run_dir / RESUMES).open("a") as file:
            file.write(json_text({"time": now, "command": masked(command), "world_size": world_size}) + "\n")
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(run_dir / RECIPE, to_yaml(recipe).encode())
    record = RunRecord(
        command=masked(command),
        recipe_digest=recipe.digest(),
        git_revision=git_revision(),
        versions={"python": platform.python_version()} | {name: metadata.version(name) for name in _installed()},
        datasets=dict(datasets),
        world_size=world_size,
        started=now,
        init_sha256=init_sha256,
        init_revision=None if (name := _hub_init(recipe)) is None else name.revision,
        total_steps=total_steps,
        device=device,
    )
    write_record(run_dir / RECORD, record)


def check_run_dir(run_dir: Path, kind: str, resume: bool) -> None:
    """Raise UserError if the directory contains other files, a run of another kind, or a run and `resume` is False."""
    exists = (run_dir / RECORD).is_file()
    found = kind_of_run(run_dir)
    if found is not None and found != kind:
        raise UserError(f"{run_dir} is {RUNS[found]}, which `{COMMANDS[found]}` resumes; give another `out`")
    if exists and not resume:
        raise UserError(f"{run_dir} already contains a run; give `resume` to continue it, or another `out`")
    if not exists and run_dir.is_dir() and content_of(run_dir) not in ([], [RECIPE]):  # left by a killed start
        raise UserError(f"{run_dir} is not empty and contains no run; give another `out`")


def check_repeats(run_dir: Path, repeated: Path) -> None:
    """Raise UserError if `run_dir` contains a run that its command did not start as a repetition of `repeated`."""
    record = read_record(run_dir / RECORD, RunRecord)
    if record is None or repeated.resolve() in _repeated_by(record.command):
        return
    raise UserError(
        f"{run_dir} does not repeat {repeated}; continue it with its own command, "
        f"{resume_command(record.command)!r}, or repeat {repeated} in another `out`"
    )


def _repeated_by(command: str) -> list[Path]:
    """The run that a command repeats, as a list of one or none."""
    try:
        words = shlex.split(command)
    except ValueError:  # an edited record: unbalanced quotation marks
        return []
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--from=") else [word])]
    return [Path(after).resolve() for before, after in itertools.pairwise(words) if before == "--from"]


def read_run(run_dir: Path) -> tuple[Recipe, RunRecord]:
    """Return a run's recipe and record. Raises UserError if `run_dir` is not a run, or if its recipe was edited."""
    record = read_record(run_dir / RECORD, RunRecord)
    if record is None or not (run_dir / RECIPE).is_file():
        what = what_is(find_packaged(run_dir))
        raise UserError(f"{run_dir}: {what}; expected the directory of a run, with {RECORD} and {RECIPE}")
    where = run_dir / RECIPE
    recipe = parse_recipe(read_yaml(read_bounded(where, MAX_BYTES), where), where=str(where))
    if recipe.digest() != record.recipe_digest:
        raise UserError(
            f"{where}: digest {recipe.digest()[:12]}, but {RECORD} has {record.recipe_digest[:12]}: it was "
            "edited after the run. Copy it to another path and train from that recipe"
        )
    return recipe, record


def check_datasets(wanted: Mapping[str, DatasetRef], found: Mapping[str, DatasetRef], run: str) -> None:
    """Raise UserError, naming both digests, if the datasets `found` differ from those `wanted`.

    `run` describes the run that read the wanted ones, for the message.
    """
    for name, ref in wanted.items():
        now = found.get(name)
        if now is None or now.digest != ref.digest:
            raise UserError(
                f"{run} read {name} from {ref.path} with digest {ref.digest[:12]}, but the data is now "
                f"{f'{now.path} with digest {now.digest[:12]}' if now else 'missing'}; use the same data, or start a "
                "new run from its recipe.yaml"
            )


def identity_of(recipe: TrainingRecipe, datasets: Mapping[str, DatasetRef]) -> Identity:
    """Return all that affects a run's results, by dotted key: the recipe without `Free` keys, the data's digests."""
    facts: Identity = {
        key: json_text(value) if isinstance(value, list) else value for key, value in identity_fields(recipe).items()
    }
    return facts | {f"data.{name}": ref.digest for name, ref in datasets.items()}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping into one with dotted keys."""
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): value}
    return {key: item for name, inner in value.items() for key, item in flat(inner, f"{prefix}{name}.").items()}


def weights_of(path: Path | str) -> Path:
    """Return the weights file of a run, of an exported folder, or of a model by name; return others unchanged.

    A name is that of a model in the package, or hf://ORG/NAME@REVISION. Raises UserError if the latter cannot be read.
    """
    path = find_model(path)
    if not path.is_dir():
        return path
    return path / (WEIGHTS if (path / WEIGHTS).is_file() or not (path / HUB_WEIGHTS).is_file() else HUB_WEIGHTS)


def existing_weights(path: Path | str) -> Path:
    """Return `weights_of(path)`. Raises UserError, describing what `path` is, if that file does not exist."""
    weights = weights_of(path)
    if not weights.is_file():
        raise UserError(f"{path}: {what_is(Path(path))}; {expected(path, 'a finished run, or its weights')}")
    return weights


def weights_file(init: str) -> Path:
    """Return the weights file for a recipe's `init`. Raises UserError, describing what it is, if there is none."""
    path = weights_of(init)
    if not path.is_file():
        wanted = expected(init, f"a finished run of pretraining or fine-tuning, or its {WEIGHTS}")
        raise UserError(f"init {init}: {what_is(Path(init))}; {wanted}; to start from scratch, give `init=null`")
    return path


def pinned_init(run_dir: Path, init: str | None) -> str | None:
    """Return a recipe's `init`, with its commit if it is a repository on the Hub: that of the run in `run_dir`, if any.

    So a resumed run keeps its initial weights, also without a network. Raises UserError as `pinned` does.
    """
    name = None if init is None else hub_name(init)
    if name is None or name.is_pinned or not (run_dir / RECORD).is_file():
        return None if init is None else pinned(init)
    before = _hub_init(read_run(run_dir)[0])
    if before is None or before.repository != name.repository:
        return pinned(str(name))
    if name.revision is not None:
        note(f"init {name}: {run_dir} started from {before}, which it keeps")
    return str(before)


def _hub_init(recipe: Recipe) -> HubName | None:
    """The repository on the Hub that a recipe starts from, if any."""
    init = recipe.init if isinstance(recipe, PretrainRecipe | FinetuneRecipe) else None
    return None if init is None else hub_name(init)


def init_digest(recipe: Recipe) -> str | None:
    """Return the digest of the weights that a recipe starts from, or None if it starts from scratch."""
    init = recipe.init if isinstance(recipe, PretrainRecipe | FinetuneRecipe) else None
    return None if init is None else sha256_of(weights_file(init))


def check_init_digest(recipe: PretrainRecipe | FinetuneRecipe, record: RunRecord | None, run: str) -> None:
    """Raise UserError, naming both digests, if `recipe` starts from other weights than the run of `record` did.

    `run` describes that run, for the message. Nothing is checked without a record, or if it has no such digest.
    """
    if record is None or record.init_sha256 is None:
        return
    now = init_digest(recipe)
    if now != record.init_sha256:
        found = "`init` is now null" if now is None else f"init {recipe.init} now has {now[:12]}"
        raise UserError(
            f"{run} started from weights with sha256 {record.init_sha256[:12]}, but {found}; give the same weights as "
            "`init`, or start a new run"
        )


def resume_command(command: str) -> str:
    """Return `command` with `--resume`, added if missing; for a call from Python, with `resume=True`."""
    if command.partition(" ")[0] != "bevt":
        return f"{command}(..., resume=True)"
    return command if "--resume" in command.split() else f"{command} --resume"


def git_revision() -> str | None:
    """Return the checkout's commit, followed by "-dirty" if files were changed; None outside a checkout."""
    where = Path(__file__).resolve().parents[1]
    try:
        call = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(call, cwd=where, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _installed() -> list[str]:
    names = {distribution.metadata["Name"].lower() for distribution in metadata.distributions()}
    return [name for name in PACKAGES if name in names]
