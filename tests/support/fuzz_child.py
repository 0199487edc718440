"""Damaged annotation files, each listed within limits of CPU time and memory. It limits its own memory.

Prints a JSON list of what went wrong: [case, seed, what].
"""

import json
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from pipeline.sources import list_sources
from schemas.errors import UserError
from schemas.frames import SOURCES_SCHEMA
from tests.support.annotation_files import Annotated, made, real
from tests.support.mutations import mutate

LIMIT_BYTES = 500 << 20


class TooSlow(BaseException):
    """The limit of CPU time has passed."""


def trouble(case: Annotated, root: Path) -> str | None:
    """What is wrong with how the files of a case are read; None where they are listed, or refused in one line."""
    import pyarrow as pa

    signal.setitimer(signal.ITIMER_PROF, case.limit_s)
    try:
        list_file = None if case.list_file is None else root / case.list_file
        listing = list_sources(case.dataset, root, case.split, list_file)
        pa.Table.from_pylist([item.model_dump() for item in listing.items], schema=SOURCES_SCHEMA)
        if any(item.label is not None and not 0 <= item.label < len(listing.classes) for item in listing.items):
            return "a label without a class"
        return None
    except UserError as error:
        message = str(error)
        return None if "\n" not in message and str(root) in message else f"the message {message!r}"
    except TooSlow:
        return f"more than {case.limit_s:g} s of CPU time"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the test looks for
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main(mutations: int, annotations: str) -> list[tuple[str, int, str]]:
    """Damage every real file below the folder `annotations`, or every made one without it, `mutations` times."""
    cases = real(Path(annotations)) if annotations else made()
    cases = {name: case for name, case in cases.items() if mutations >= case.rarely}
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in cases.items():  # which also loads what reading needs, before memory is limited
            case.write(Path(scratch) / name)
            assert trouble(case, Path(scratch) / name) is None, (name, trouble(case, Path(scratch) / name))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, resource.RLIM_INFINITY))
        found = []
        for name, case in cases.items():
            root = Path(scratch) / name
            for seed in range(mutations // case.rarely):
                (root / case.damaged).write_bytes(mutate(case.files[case.damaged], seed))
                what = trouble(case, root)
                if what is not None:
                    found.append((name, seed, what))
    return found


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TooSlow


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, _alarm)
    began = time.monotonic()
    wrong = main(int(sys.argv[1]), sys.argv[2])
    print(f"{time.monotonic() - began:.1f} s", file=sys.stderr)
    print(json.dumps(wrong))
