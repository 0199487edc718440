"""From the shell's command to its first tokens: `python benchmarks/first_token.py ROOT [KEY=VALUE...]`.

`bevt tokenize` on the videos below ROOT with the tokenizer that ships with the package. The overrides are the recipe's.
Printed are, since the command was typed: when the first batch of frames had its tokens in the tokenizer's memory, by
the job's own `first_tokens_s`, and when a reader could open the first part of the frame store and of the token set.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOKENIZER = "dvae-small"
MILESTONES = {"plan": "frames/plan.json", "frames": "frames/part-*/commit.json", "tokens": "tokens/*/part-*.json"}


def main() -> None:
    root, overrides = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "cli", "tokenize", "--dataset", "folder", "--root", root, "--out", out]
        command += [
            "--json",
            "--tokenizer",
            TOKENIZER,
            *(word for override in overrides for word in ("--set", override)),
        ]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        seen: dict[str, float] = {}
        while process.poll() is None:
            for name, pattern in MILESTONES.items():
                if name not in seen and next(Path(out).glob(pattern), None) is not None:
                    seen[name] = time.perf_counter() - began
            time.sleep(0.02)
        summary = json.loads(process.communicate()[0])
    # The job's clock starts before it writes its plan, so this is no less than what passed.
    first_batch = seen["plan"] + summary["first_tokens_s"]
    print(f"first batch of tokens after {first_batch:.1f} s", end=", ")
    print(f"first part of frames {seen['frames']:.1f} s, of tokens {seen['tokens']:.1f} s")


if __name__ == "__main__":
    main()
