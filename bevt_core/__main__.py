"""The start of the command `bevt`, also as `python -m bevt_core`: other projects' modules are refused, not run."""

import sys
from typing import NoReturn

from bevt_core.import_names import collision, replacement


def main() -> None:
    """Run the command line. Ends with 2 if Python would import a file of another project instead of one of ours."""
    if hidden := collision():
        _refuse(hidden)
    try:
        from bevt_core.console.command_line import App
        from cli import app
    except ImportError:
        if replaced := replacement():
            _refuse(replaced)
        raise
    if not isinstance(app, App):
        _refuse(replacement() or f"{sys.modules['cli'].__file__} is not bevt's; install bevt again")
    app(prog_name="bevt")


def _refuse(why: str) -> NoReturn:
    sys.stderr.write(f"error: {why}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
