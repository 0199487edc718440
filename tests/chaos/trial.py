"""One trial: a command, disturbed up to three times and run to its end, and all that is wrong with that end."""

import random
import shutil
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.faults import FAULTS, MAY_LEAVE_FILES, Victim, marked, send
from tests.chaos.scenes import Scene

REPO = Path(__file__).resolve().parents[2]
MAX_FAULTS = 3
END_S = 300.0  # a command has so long to end, disturbed or not
LEFT_S = 90.0  # processes may outlive a killed command for so long: Ray's agents notice it late
SHM = Path("/dev/shm")
CACHES = ("torchinductor_",)  # of libraries, which keep them in TMPDIR for the next process
UNWANTED = ("Traceback", "leaked", "Exception ignored")  # in what a command prints


@dataclass(frozen=True)
class Undisturbed:
    """What a command gives by itself."""

    scene: Scene
    outcome: dict[str, str]
    seconds: float


def run_alone(scene: Scene, base: Path) -> Undisturbed:
    """Run a command undisturbed, in the folder of its name. SystemExit where it fails."""
    out, began = base / scene.name, time.monotonic()
    scene.prepare(out)
    victim = _start(scene, out, f"alone-{scene.name}", base / "alone", resumed=False)
    if victim.wait(END_S) != 0:
        raise SystemExit(f"{scene.name}, undisturbed, failed:\n{victim.log.read_text()}")
    return Undisturbed(scene, scene.outcome(out), time.monotonic() - began)


def disturb(known: Undisturbed, rng: random.Random, place: Path) -> tuple[list[str], list[str]]:
    """Return what was done, and what was wrong with the end of it."""
    scene, out, mark = known.scene, place / "out", f"{place.name}-{rng.random()}"
    place.mkdir()
    before = _shared_memory()
    scene.prepare(out)
    story, wrong = [scene.name], []
    for attempt in range(rng.randint(1, MAX_FAULTS)):
        fault, moment = rng.choice(list(FAULTS)), rng.random() * known.seconds
        victim = _start(scene, out, mark, place / f"{attempt}", resumed=attempt > 0)
        if victim.wait(moment) is None:
            FAULTS[fault](victim, rng)
        status = victim.wait(END_S)
        story.append(f"{fault} at {moment:.1f} s -> {status}")
        wrong += [f"{fault}: {line}" for line in _rough(victim, status, may_leave_files=fault in MAY_LEAVE_FILES)]
        if status == 0 and not scene.again_when_done:
            return story, wrong + _differences(known.outcome, scene.outcome(out))
    last = _start(scene, out, mark, place / "last", resumed=True)
    status = last.wait(END_S)
    wrong += [f"run to its end: {line}" for line in _rough(last, status, may_leave_files=False)]
    if status != 0:
        wrong.append(f"run to its end: exit status {status}: {_tail(last.log)}")
    else:
        wrong += _differences(known.outcome, scene.outcome(out))
    if left := sorted(_shared_memory() - before):
        wrong.append(f"left in {SHM}: {', '.join(left)}")
    if not wrong:
        shutil.rmtree(place)
    return story, wrong


def _start(scene: Scene, out: Path, mark: str, place: Path, *, resumed: bool) -> Victim:
    tmp = Path(tempfile.mkdtemp(prefix="c", dir=place.parent.parent))  # a short path: sockets lie in it
    place.mkdir(exist_ok=True)
    return Victim(scene.argv(out, resumed=resumed), REPO, mark, tmp, place / "output.txt")


def _rough(victim: Victim, status: int | None, *, may_leave_files: bool) -> list[str]:
    """What a user would not accept of how a command ended. Its processes are gone afterwards."""
    found = []
    if status is None:
        found.append(f"not ended after {END_S:g} s: {_tail(victim.log)}")
        victim.send(signal.SIGKILL)
    deadline = time.monotonic() + LEFT_S
    while (left := marked(victim.mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    found += [f"left running: {_command(pid)}" for pid in left]
    for pid in left:
        send(pid, signal.SIGKILL)
    for log in (victim.log, victim.log.with_suffix(".second")):
        text = log.read_text(errors="replace") if log.is_file() else ""
        if "<frozen site>" in text:  # Python was still starting, and nothing of ours had run
            continue
        found += [f"{trace!r} in {log}" for trace in UNWANTED if trace in text]
    files = [path.name for path in victim.tmp.iterdir() if not path.name.startswith(CACHES)]
    if files and not may_leave_files:
        found.append(f"temporary files left: {', '.join(files[:5])}")
    shutil.rmtree(victim.tmp, ignore_errors=True)
    return found


def _differences(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    names = [name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]
    return [
        f"{name}: {'missing' if name not in found else 'new' if name not in wanted else 'differs'}" for name in names
    ]


def _shared_memory() -> set[str]:
    return {path.name for path in SHM.iterdir()} if SHM.is_dir() else set()


def _command(pid: int) -> str:
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_text().replace(chr(0), ' ')[:200]}"
    except OSError:
        return f"{pid} (gone by now)"


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-3:])
