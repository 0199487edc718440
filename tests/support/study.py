"""The modules of benchmarks/study, which import each other by name."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

STUDY = Path(__file__).parents[2] / "benchmarks" / "study"


def study_module(name: str) -> ModuleType:
    sys.path.insert(0, str(STUDY))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(STUDY))
