"""Processes in which Linux's own functions, and packages without a macOS version, are missing.

What a process starts lacks them too: each finds the hook as `sitecustomize` on its PYTHONPATH.
"""

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
HOOK = """
import sys
from tests.support import without_linux_hook

without_linux_hook.remove()
"""


def run_without_linux(folder: Path, program: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a Python program in `folder`, where the hook is written to."""
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(HOOK)
    path = os.pathsep.join([str(folder / "hook"), str(REPO)])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout_s)
