"""matplotlib is imported in one module only, without warnings about its folders."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[4]
DRAW = """
import os, tempfile
tempfile._candidate_tempdir_list = lambda: [os.environ["TMPDIR"]]  # without the working folder
from bevt_core.reporting.charts import curves_png
from schemas.errors import UserError
try:
    print(curves_png({"loss": ([0, 1], [1.0, 0.5])}, "step", "loss")[1:4].decode(), os.environ["MPLCONFIGDIR"])
except UserError as error:
    print(error)
"""


def draw_without_a_home(scratch: Path) -> str:
    """What DRAW prints where not even root can write to the home folder; nothing goes to stderr."""
    kept = {key: value for key, value in os.environ.items() if key != "MPLCONFIGDIR" and not key.startswith("XDG_")}
    environment = kept | {"HOME": "/proc/absent", "TMPDIR": str(scratch)}
    ended = subprocess.run([sys.executable, "-c", DRAW], env=environment, cwd=REPO, capture_output=True, text=True)
    assert ended.stderr == ""
    return ended.stdout


def test_it_is_quiet_without_a_home_folder(tmp_path: Path) -> None:
    kind, folder = draw_without_a_home(tmp_path).split()
    assert kind == "PNG" and Path(folder).parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_without_any_folder_the_error_names_the_setting() -> None:
    printed = draw_without_a_home(Path("/proc/absent"))
    assert printed.startswith("matplotlib can write neither to the home folder nor to TMPDIR; set MPLCONFIGDIR")


def test_one_module_imports_it() -> None:
    """Except for types, which only a type checker imports."""
    importing = re.compile(r"^( *)(?:from|import) matplotlib\b.*", re.MULTILINE)
    files = [path for folder in ("bevt_core", "pipeline", "trainer") for path in (REPO / folder).rglob("*.py")]
    found = {
        path.name for path in files if importing.search(re.sub(r"if TYPE_CHECKING:\n(    .*\n)+", "", path.read_text()))
    }
    assert found == {"plotting.py"}
