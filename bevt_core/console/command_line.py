"""What all commands of `bevt` share: the app, common options, and the printing of errors."""

import functools
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_type_hints

import typer
from typer.core import TyperGroup
from typer.models import ArgumentInfo

from bevt_core.console.disk_errors import FULL_OR_READ_ONLY, explained
from bevt_core.console.inert import one_line
from bevt_core.console.progress import say
from bevt_core.console.terminal import plain_messages, print_lines
from schemas.errors import JobError, JointError, StorageError, UserError
from schemas.text.credentials import masked_command
from schemas.text.json_text import json_text

# click's class for errors in the command line. Newer versions of Typer bundle click, so it is looked up by name.
USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
VIEWERS = "bevt.viewers"  # in the context's `meta`: returns functions that make a site of a path, or None
INTERRUPTED = 128 + signal.SIGINT  # the exit code, as shells report the signal

NO_ADDRESS_SPACE = "failed to map segment"  # the dynamic linker's error if the address space is too small

HELP_COLUMNS = 100  # maximum width of the help text
PLAIN: Any = {"rich_markup_mode": None, "pretty_exceptions_enable": False}  # for every `typer.Typer`

C = TypeVar("C", bound=Callable[..., Any])


class App(typer.Typer):
    """A Typer app that prints errors meant for the user as one message, without traceback; exit code 2 or 1."""

    def __init__(self, help: str, group: type[TyperGroup] = TyperGroup) -> None:
        super().__init__(
            help=help,
            cls=group,
            no_args_is_help=True,
            context_settings={"max_content_width": HELP_COLUMNS},
            **PLAIN,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[C], C]:
        """Typer's `command`; Ctrl-C ends the command with exit code INTERRUPTED in every version of Typer."""
        register = super().command(name, **options)

        def register_interruptible(function: C) -> C:
            register(interruptible(function))
            return function

        return register_interruptible

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        skip_working_folder()
        plain_messages()
        try:
            status = super().__call__(*args, **{"standalone_mode": False} | kwargs)
        except JointError as error:
            if os.environ.get("RANK", "0") != "0":
                sys.exit(2)
            _fail(error, status=2)
        except (UserError, StorageError) as error:
            _fail(error, status=2)
        except JobError as error:
            _fail(error, status=1)
        except typer.Abort:
            say("Aborted!")
            sys.exit(1)
        except Exception as error:
            plain_messages()  # Typer has replaced the hook
            if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
                _fail(explained(error, Path(error.filename or "output")), status=2)
            if isinstance(error, MemoryError) or (isinstance(error, ImportError) and NO_ADDRESS_SPACE in str(error)):
                why = error if str(error) else "MemoryError"
                _fail(f"out of memory ({why}); raise the job's memory or its limit (`ulimit -v`)", status=1)
            if not isinstance(error, USAGE_ERROR):
                raise
            usage, message = io.StringIO(), error.format_message()
            error.show(usage)
            shown = f"error: {one_line(_plain_usage(message))}"
            print_lines(usage.getvalue().replace(f"Error: {message}", shown), sys.stderr)
            sys.exit(error.exit_code)
        sys.exit(status)


def _plain_usage(message: str) -> str:
    """An error in the command line in our words, with the nearest name for an unknown value."""
    from schemas.recipes.loading import nearest  # with pydantic, which `bevt --help` does not need
    from schemas.text.validation import plain_words

    message = plain_words(message)
    choice = re.search(r"'([^']*)' is not one of ('[^']*'(?:, '[^']*')*)", message)
    hint = nearest(choice[1], re.findall(r"'([^']*)'", choice[2])) if choice else ""
    return f"{message.removesuffix('.')}; {hint.strip()}" if hint else message


def interruptible(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the command `function`: Ctrl-C ends it with exit code INTERRUPTED, and its errors name options.

    Library errors name arguments and recipe keys: "give another `out`, or `init=null`" becomes "give another --out, or
    --set init=null".
    """

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (UserError, StorageError, JobError) as error:
            error.args = (*error.args[:-1], _with_options(str(error), function))
            raise

    return command


def _with_options(message: str, function: Callable[..., Any]) -> str:
    """The message with argument names and overrides (`a.b=c`) in backticks replaced by the command's options."""
    options = {name: _option_of(name, hint) for name, hint in get_type_hints(function, include_extras=True).items()}
    message = re.sub(r"`(\w+)`", lambda found: options.get(found[1]) or found[0], message)
    if "set_" in options:
        message = re.sub(r"`([\w.]+=[^`]+)`", lambda found: f"--set {shlex.quote(found[1])}", message)
    return message


def _option_of(name: str, hint: Any) -> str | None:
    """The option of an argument, e.g. `--list` for `list_file`; None for a positional argument."""
    infos = getattr(hint, "__metadata__", ())
    if any(isinstance(info, ArgumentInfo) for info in infos):
        return None
    # Typer takes the first name in `typer.Option("--list", ...)` for a default until it has read the signature
    declared = [each for info in infos for each in (info.default, *(info.param_decls or ()))]
    names = [each for each in declared if isinstance(each, str) and each.startswith("--")]
    return next(iter(names), f"--{name.replace('_', '-')}")


def skip_working_folder() -> None:
    """Keep child Python processes from importing from the working folder, which may contain e.g. a `trainer.py`.

    In the checkout's own folder nothing changes, since an uninstalled package is imported from there.
    """
    if Path.cwd() != Path(__file__).resolve().parents[2]:
        os.environ.setdefault("PYTHONSAFEPATH", "1")


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. --set optim.lr=3e-4."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Nproc = Annotated[int, typer.Option(min=1, help="DDP processes on this machine; leave at 1 under torchrun.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out from its newest complete checkpoint.")
]
RecipeName = Annotated[
    str | None, typer.Option(help="Name of a shipped recipe (a wrong name lists them), or path of a .yaml file.")
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Loader processes per rank. Default: the rank's share of the CPUs, at most 12; 0 without a GPU.",
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(help="Precision of the model's matrix products; auto: bf16 on GPUs that support it, else fp32."),
]
ListFile = Annotated[
    str | None, typer.Option("--list", help="File with `path label` lines, or written by bevt scan --write.")
]
Private = Annotated[
    bool, typer.Option("--private", help="Make a new repository private, and refuse one that is public.")
]
Branch = Annotated[str | None, typer.Option("--revision", help="Branch to push to, made if missing (default: main).")]
AllowOutside = Annotated[bool, typer.Option("--allow-outside", help="Allow list lines and links to leave --root.")]
DecodeTimeout = Annotated[
    float | None,
    typer.Option(
        "--decode-timeout-s",
        min=0.01,
        help="Maximum seconds to decode one clip of a file; slower files count as unreadable. Default: 60.",
    ),
]


def overrides_of(given: Mapping[str, object]) -> list[str]:
    """`key=value` overrides for the values that are not None; quoted, so that a folder named 2024 stays a string."""
    return [f"{key}={yaml_string(str(value))}" for key, value in given.items() if value is not None]


def yaml_string(text: str) -> str:
    """Quote `text` for YAML: as JSON, except for characters above U+FFFF, which JSON escapes as surrogate pairs."""
    return '"' + "".join(f"\\U{ord(c):08x}" if ord(c) > 0xFFFF else json_text(c)[1:-1] for c in text) + '"'


def command_typed() -> str:
    """The command line, as stored in a run's record, with credentials masked."""
    return masked_command(["bevt", *sys.argv[1:]])


def _fail(error: object, status: int) -> NoReturn:
    say(f"error: {error}")
    sys.exit(status)


def parse_share(option: str, text: str) -> float:
    """Parse the value of `option`: a share such as `5%` or `0.05`. Raises UserError if it is not from 0 to 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"{option} {text!r}: expected a share from 0 to 1, such as 5% or 0.05")
    return value
