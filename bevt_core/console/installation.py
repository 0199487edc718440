"""The command that adds an optional dependency to the running installation of bevt."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the checkout, or the environment's site-packages


def install_command(extra: str = "") -> str:
    """Return the pip command that reinstalls bevt with `extra`, such as onnx, or with its required packages only.

    In a checkout this is `pip install -e '.[onnx]'`, elsewhere `pip install 'bevt[onnx]'`. An editable installation
    imports from its checkout, so a `pyproject.toml` next to the package identifies one.
    """
    with_extra = f"[{extra}]" if extra else ""
    if not (ROOT / "pyproject.toml").is_file():
        return f"pip install 'bevt{with_extra}'"
    return f"pip install -e '{'.' if Path.cwd() == ROOT else ROOT}{with_extra}'"
