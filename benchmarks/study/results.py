"""Collect what the study measured: `python benchmarks/study/results.py DIR --out benchmarks/study/results.json`.

Reads the finished runs of `run.py --out DIR`, and DIR/masked.json of `masked.py`. Every list has a row per line,
sorted, so that a committed file shows what changed. Accuracies are shares, losses nats, times CPU seconds.
"""

import argparse
import csv
import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sizes import FULL, TINY

from bevt_core.dataset.jpeg_array import open_jpegs
from bevt_core.storage.files import write_atomic
from schemas.text.json_text import json_text

Row = dict[str, Any]
KEYS = ("labels", "name", "share", "seed", "frames", "mask", "lr", "layer_decay")
LOSSES = ("mvm_loss", "mvm_acc", "mim_loss", "mim_acc", "class_top1", "val_top1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_atomic(options.out, text_of(results_of(options.dir)).encode())


def results_of(out: Path) -> dict[str, Any]:
    """Return what the finished runs below `out` measured."""
    spent = cpu_seconds(out)
    return {
        "machine": machine(out),
        "sizes": sizes_of(out),
        "pretrain": sorted(pretrainings(out, spent), key=_key),
        "finetune": sorted(finetunings(out, spent), key=_key),
        "tuned": sorted(tested(out, "tuned", spent), key=_key),
        "trials": sorted(trials(out), key=_key),
        "temporal": sorted(temporal(out), key=_key),
        "masked": sorted(masked(out), key=_key),
        "tokens": sorted(token_sets(out, spent), key=_key),
    }


def text_of(results: Mapping[str, Any]) -> str:
    """Return the results as JSON with a row per line."""
    parts = []
    for name, value in results.items():
        if isinstance(value, list):
            body = "[\n" + ",\n".join(f"  {json_text(row)}" for row in value) + "\n ]"
        else:
            body = json_text(value)
        parts.append(f' "{name}": {body}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def cpu_seconds(out: Path) -> dict[str, float]:
    """CPU seconds of every run, interrupted attempts included."""
    spent: dict[str, float] = defaultdict(float)
    path = out / "costs.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        row = json.loads(line)
        spent[row["run"]] = round(spent[row["run"]] + row["cpu_s"], 1)
    return spent


def machine(out: Path) -> Row:
    """The processor, and the versions that the runs recorded; several revisions if the code changed in between."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*/*/run.json"))]
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": sorted({run["versions"]["python"] for run in runs}),
        "torch": sorted({run["versions"]["torch"] for run in runs}),
        "revisions": sorted({str(run["git_revision"])[:10] for run in runs}),
    }


def sizes_of(out: Path) -> Row:
    """The sizes of the study that made `out`. Raises SystemExit if it has those of neither."""
    made = json.loads((out / "raw" / "camera-motion.json").read_text())
    for name, study in (("full", FULL), ("tiny", TINY)):
        if (made["train_clips_per_class"], made["unlabelled_clips"]) == (study.labelled, study.unlabelled):
            return {"study": name, **asdict(study)}
    raise SystemExit(f"{out}: {made['unlabelled_clips']} unlabelled clips, expected {FULL.unlabelled}: run run.py")


def pretrainings(out: Path, spent: Mapping[str, float]) -> Iterator[Row]:
    for folder in finished(out, "pretrain"):
        name, seed = folder.name.rsplit("_", 1)
        last = last_metrics(folder)
        losses = {key: round(last[key], 4) for key in LOSSES if key in last}
        yield {"name": name, "seed": int(seed), **costs(folder, spent), **losses}


def finetunings(out: Path, spent: Mapping[str, float]) -> Iterator[Row]:
    """Rows of all label sets; camera motion is `motion`."""
    for folder in sorted(out.glob("finetune*")):
        labels = folder.name.removeprefix("finetune").lstrip("_") or "motion"
        yield from ({"labels": labels, **row} for row in tested(out, folder.name, spent))


def tested(out: Path, kind: str, spent: Mapping[str, float]) -> Iterator[Row]:
    """Rows of the fine-tunings in a folder."""
    for run in finished(out, kind):
        start, share, seed = run.name.rsplit("_", 2)
        last = last_metrics(run)
        row = {"name": start, "share": float(share), "seed": int(seed)}
        yield row | {"top1": round(last["val_top1"], 4), "videos": last["val_videos"]} | costs(run, spent)


def trials(out: Path) -> Iterator[Row]:
    """Rows of the trials of `leads.py`, with their accuracy on held-out training clips."""
    for run in finished(out, "trials"):
        start, lr, decay = run.name.rsplit("_", 2)
        top1 = round(last_metrics(run)["val_top1"], 4)
        yield {"name": start, "lr": float(lr), "layer_decay": float(decay), "top1": top1}


def temporal(out: Path) -> Iterator[Row]:
    for path in sorted(out.glob("temporal/*/temporal.csv")):
        name, seed = path.parent.name.rsplit("_", 1)
        videos = sum(int(row["videos"]) for row in csv_rows(path.with_name("temporal_per_class.csv")))
        for row in csv_rows(path):
            tested = {"top1": round(float(row["top1"]), 4), "videos": videos}
            yield {"name": name, "seed": int(seed), "frames": row["frames"], **tested}


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def masked(out: Path) -> Iterator[Row]:
    path = out / "masked.json"
    for run, found in json.loads(path.read_text()).items() if path.is_file() else ():
        name, seed = run.rsplit("_", 1)
        for mask, values in found.items():
            if isinstance(values, dict):
                yield {"name": name, "seed": int(seed), "tokens": found["tokens"], "mask": mask, **values}


def token_sets(out: Path, spent: Mapping[str, float]) -> Iterator[Row]:
    """Token sets, and the frame stores beside them: bytes of the token parts, and of the JPEGs alone."""
    for path in sorted(out.glob("*/tokens/*/dataset.json")):
        made = json.loads(path.read_text())
        folder, frames = path.parent, path.parents[2] / "frames"
        name = f"{path.parents[2].name}/{folder.name}"
        yield {
            "name": name,
            "samples": made["num_samples"],
            "frames": made["num_frames"],
            "views": made["views"]["num_views"],
            "bytes": sum(part.stat().st_size for part in folder.glob("*.parquet")),
            "jpeg_bytes": sum(int(open_jpegs(str(store)).offsets[-1]) for store in frames.glob("part-*/frames.zarr")),
            "cpu_s": spent.get(name),
        }


def finished(out: Path, kind: str) -> list[Path]:
    return [path.parent for path in sorted(out.glob(f"{kind}/*/weights.safetensors"))]


def last_metrics(folder: Path) -> Row:
    """The last line of a run's metrics."""
    found: Row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return found


def costs(folder: Path, spent: Mapping[str, float]) -> Row:
    steps = json.loads((folder / "run.json").read_text())["total_steps"]
    return {"steps": steps, "cpu_s": spent.get(f"{folder.parent.name}/{folder.name}")}


def _key(row: Row) -> list[tuple[str, Any]]:
    """Sorts rows by their texts and numbers, in the order of their columns."""
    return [(key, value) for key, value in row.items() if key in KEYS]


if __name__ == "__main__":
    main()
