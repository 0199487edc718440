"""Fine-tune with the settings of the best trial: `python benchmarks/study/tuned.py DIR START finetune ...`.

The trials are DIR/trials/START_LR_DECAY; the best has the highest accuracy on held-out training clips, the first of
equals. The words after START are arguments of `bevt`.
"""

import os
import sys
from pathlib import Path

from results import last_metrics


def main() -> None:
    out, start, *words = sys.argv[1:]
    best = best_trial(Path(out), start)
    _, lr, decay = best.name.rsplit("_", 2)
    print(f"best trial: {best.name}", flush=True)
    settings = ["--set", f"optim.lr={lr}", "--set", f"optim.layer_decay={decay}"]
    resume = ["--resume"] if (Path(words[words.index("--out") + 1]) / "run.json").is_file() else []
    os.execv(sys.executable, [sys.executable, "-m", "cli", *words, *settings, *resume])


def best_trial(out: Path, start: str) -> Path:
    trials = [path for path in sorted(out.glob(f"trials/{start}_*")) if path.name.rsplit("_", 2)[0] == start]
    return max(trials, key=lambda path: last_metrics(path)["val_top1"])


if __name__ == "__main__":
    main()
