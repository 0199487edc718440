"""How to add an optional part of bevt to the installation that is running."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, or the site-packages of an environment


def install_command(extra: str = "") -> str:
    """Return the pip command that installs bevt again with `extra`, such as onnx, or with what it always needs.

    In a checkout that is `pip install -e '.[onnx]'`, elsewhere `pip install 'bevt[onnx]'`. An editable installation
    imports from its checkout, so what lies beside the package decides.
    """
    with_extra = f"[{extra}]" if extra else ""
    if not (ROOT / "pyproject.toml").is_file():
        return f"pip install 'bevt{with_extra}'"
    return f"pip install -e '{'.' if Path.cwd() == ROOT else ROOT}{with_extra}'"
