"""The study's tables: `python benchmarks/study/tables.py benchmarks/study/results.json --out docs/explanation/study`.

Writes them into the page docs/explanation/study.md, each between `<!-- table:NAME -->` and `<!-- end -->`; all other
text of the page is by hand. A page that does not exist is made, with a heading for each table. The figures are
docs/explanation/study/*.svg.
Cells are mean ± sample standard deviation (number of seeds) in percent, or a dash where nothing was measured.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import draw_figures
from leads import CHANGES, KERNELS, TUNED_STARTS
from plan import MASKS, ORDER_STARTS, OTHER_STARTS, QUALITIES, STARTS, VIEWS
from selecting import (
    Results,
    best_trial,
    costs_of,
    label_sets,
    masked_accuracy,
    pretrained,
    temporal,
    token_set,
    top1,
    tuned,
)
from verdicts import DASH, RULE, mean_cell, verdict_cell

from bevt_core.storage.files import write_atomic

TITLES = {
    "scratch": "from scratch",
    "supervised": "supervised, pictures",
    "image": "BEVT-I",
    "video": "BEVT-V",
    "video_init": "BEVT-V from BEVT-I",
    "joint": "BEVT without BEVT-I",
    "joint_init": "BEVT",
    "joint_frames": "BEVT, images from videos",
}
MASK_TITLES = {
    "video": "whole frames, 50 %",
    "tube": "tubes, 50 %, T/2 to T",
    "tube_short": "tubes, 50 %, T/4 to T/2",
    "tube_long": "tubes, 50 %, T",
    "tube_30": "tubes, 30 %, T/2 to T",
    "tube_70": "tubes, 70 %, T/2 to T",
    "random_3d": "single positions, 50 %",
    "frame_diff": "frame difference, 50 %",
}
LEAD_TITLES = {
    "joint_init": "BEVT",
    "kernel_centre": "video kernel: the image kernel in one frame",
    "kernel_noise": "video kernel: inflated, plus noise",
    "image_loss_half": "image loss x 0.5",
    "image_loss_double": "image loss x 2",
    "images_half": "16 images a step, not 32",
    "images_double": "64 images a step, not 32",
}
AFTER_IMAGE = ("video_init", "joint_init", "joint_frames")  # they have the steps of BEVT-I and their own
# (the paper's table, its ordering, the run that it has first, the other run)
AT_EACH_SHARE = (
    ("1", "BEVT above from scratch", "joint_init", "scratch"),
    ("1", "BEVT above supervised pictures", "joint_init", "supervised"),
    ("1", "BEVT above BEVT-I", "joint_init", "image"),
    ("1", "BEVT above BEVT-V", "joint_init", "video"),
    ("6", "BEVT-V: from BEVT-I above without", "video_init", "video"),
    ("6", "BEVT: from BEVT-I above without", "joint_init", "joint"),
    ("6", "from BEVT-I: both streams above videos alone", "joint_init", "video_init"),
)
AT_ONE_SHARE = (
    ("7", "pictures above frames of the videos", "joint_init", "joint_frames"),
    ("9", "tubes above whole frames", "tube", "video"),
    ("9", "tubes above single positions", "tube", "random_3d"),
    ("9", "tubes above frame difference", "tube", "frame_diff"),
    ("9", "length T/2 to T above T/4 to T/2", "tube", "tube_short"),
    ("9", "length T/2 to T above T", "tube", "tube_long"),
    ("9", "ratio 50 % above 30 %", "tube", "tube_30"),
    ("9", "ratio 50 % above 70 %", "tube", "tube_70"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures; the page is beside it")
    options = parser.parse_args()
    results: Results = json.loads(options.results.read_text())
    page = options.out.with_suffix(".md")
    text = page.read_text() if page.is_file() else empty_page()
    write_atomic(page, inserted(text, {name: make(results) for name, make in TABLES.items()}).encode())
    draw_figures(results, TITLES, options.out)


def empty_page() -> str:
    return "# Study\n\n" + "\n\n".join(f"## {name}\n\n<!-- table:{name} -->\n<!-- end -->" for name in TABLES) + "\n"


def inserted(page: str, tables: Mapping[str, str]) -> str:
    """Put each table between its markers. Raises SystemExit if the page lacks one or has another."""
    found = re.findall(r"<!-- table:(\S+) -->", page)
    if sorted(found) != sorted(tables):
        raise SystemExit(f"the page has the tables {sorted(found)}, expected each of {sorted(tables)} once")
    for name, table in tables.items():
        begin, rest = page.split(f"<!-- table:{name} -->")
        page = f"{begin}<!-- table:{name} -->\n\n{table}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return page


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def starts(results: Results) -> str:
    """Tables 1 and 6: top-1 of every start at each share of the labels, and the steps before fine-tuning."""
    shares, steps = results["sizes"]["shares"], results["sizes"]["steps"]
    rows = [
        [
            TITLES[name],
            *(mean_cell(top1(results, name, share).values) for share in shares),
            "0" if name == "scratch" else f"{steps} + {steps}" if name in AFTER_IMAGE else str(steps),
        ]
        for name in (*STARTS, "joint_frames")
    ]
    return markdown(["start", *(f"{share:.0%} of the labels" for share in shares), "steps before"], rows)


def orderings(results: Results) -> str:
    """The paper's orderings with their verdicts."""
    shares, share = results["sizes"]["shares"], results["sizes"]["share"]
    rows = [
        [table, text, *(verdict_cell(top1(results, first, each), top1(results, second, each)) for each in shares)]
        for table, text, first, second in AT_EACH_SHARE
    ]
    rows += [
        [table, text]
        + [
            verdict_cell(top1(results, first, each), top1(results, second, each)) if each == share else DASH
            for each in shares
        ]
        for table, text, first, second in AT_ONE_SHARE
    ]
    return f"{RULE}\n\n{markdown(['table', 'ordering', *(f'{each:.0%} of the labels' for each in shares)], rows)}"


def frames(results: Results) -> str:
    """Table 2: frames in order, one repeated, and shuffled."""
    rows = []
    for name in ORDER_STARTS:
        normal, single, shuffled = (temporal(results, name, kind) for kind in ("normal", "single-frame", "shuffle"))
        means = [mean_cell(measured.values) for measured in (normal, single, shuffled)]
        rows.append([TITLES[name], *means, verdict_cell(normal, single), verdict_cell(normal, shuffled)])
    head = ["start", "in order", "single frame", "shuffled", "order above single frame", "order above shuffled"]
    return markdown(head, rows)


def images(results: Results) -> str:
    """Table 7: pictures or frames of the videos in the image stream."""
    return _compared(results, {name: TITLES[name] for name in ("joint_init", "joint_frames")}, "images from")


def masks(results: Results) -> str:
    """Table 9: mask strategies, lengths and ratios."""
    return _compared(results, {name: MASK_TITLES[name] for name in ("video", *MASKS)}, "masks")


def _compared(results: Results, titles: Mapping[str, str], head: str) -> str:
    """Fine-tuned and masked accuracies; the masked ones on common targets."""
    share = results["sizes"]["share"]
    rows = [
        [title, mean_cell(top1(results, name, share).values)]
        + [mean_cell(masked_accuracy(results, name, mask)) for mask in ("random_frame", "tube")]
        for name, title in titles.items()
    ]
    return markdown([head, "top-1", "masked accuracy, whole frames", "masked accuracy, tubes"], rows)


def views(results: Results) -> str:
    """Stored views per clip against fresh views, and what they cost."""
    share, rows = results["sizes"]["share"], []
    for count in (*map(str, VIEWS), "fresh"):
        name, made = f"views_{count}", token_set(results, f"few/dvae-v{count}")
        accuracies = masked_accuracy(results, name, "random_frame"), top1(results, name, share).values
        cost = mean_cell([row["cpu_s"] for row in pretrained(results, name) if row["cpu_s"]], 1, 0)
        rows.append([count, *map(mean_cell, accuracies), _number(made, "cpu_s"), _number(made, "bytes", 1e6, 2), cost])
    head = ["views per clip", "masked accuracy on unseen clips", "top-1", "CPU s of tokenizing", "MB of tokens"]
    return markdown([*head, "CPU s of pretraining"], rows)


def tokenizers(results: Results) -> str:
    """Tokens of a VQ-VAE, which is PeCo without its perceptual loss, and the dVAE's; each model predicts its own."""
    share, rows = results["sizes"]["share"], []
    for name, title, made in (("video", "dVAE", "videos/dvae-v2"), ("peco", "VQ-VAE", "videos/peco-v2")):
        accuracies = top1(results, name, share).values, masked_accuracy(results, name, "random_frame")
        rows.append([title, *map(mean_cell, accuracies), _number(token_set(results, made), "bytes", 1e6, 2)])
    return markdown(["tokens", "top-1", "masked accuracy, own tokens", "MB of tokens"], rows)


def qualities(results: Results) -> str:
    """JPEG qualities of the stored frames; 90 is the recipe's."""
    share, rows = results["sizes"]["share"], []
    for quality in sorted((*QUALITIES, 90)):
        name, made = (f"jpeg_{quality}", f"jpeg_{quality}") if quality != 90 else ("video", "videos")
        accuracies = top1(results, name, share).values, masked_accuracy(results, name, "random_frame")
        size = _number(token_set(results, f"{made}/dvae-v2"), "jpeg_bytes", 1e6, 1)
        rows.append([str(quality), *map(mean_cell, accuracies), size])
    return markdown(["JPEG quality", "top-1", "masked accuracy, common tokens", "MB of JPEGs"], rows)


def other_labels(results: Results) -> str:
    """Label sets other than camera motion."""
    rows = []
    for labels, share in label_sets(results):
        measured = {name: top1(results, name, share, labels) for name in OTHER_STARTS}
        clips, means = (
            max(one.videos for one in measured.values()),
            [mean_cell(one.values) for one in measured.values()],
        )
        better = verdict_cell(measured["joint_init"], measured["scratch"])
        rows.append([labels, f"{share:.0%}", str(clips), *means, better])
    head = ["label set", "labels", "test clips", *(TITLES[name] for name in OTHER_STARTS), "BEVT above from scratch"]
    return markdown(head, rows or [[DASH] * len(head)])


def leads(results: Results) -> str:
    """BEVT with one change each."""
    share = results["sizes"]["share"]
    bevt, rows = top1(results, "joint_init", share), []
    for name in ("joint_init", *(f"kernel_{kernel}" for kernel in KERNELS), *CHANGES):
        changed = top1(results, name, share)
        better = DASH if name == "joint_init" else verdict_cell(changed, bevt)
        rows.append([LEAD_TITLES[name], mean_cell(changed.values), better])
    return markdown(["change", "top-1", "above BEVT"], rows)


def settings(results: Results) -> str:
    """Fine-tuning with the recipe's settings, and with those of each start's best trial."""
    share, rows = results["sizes"]["share"], []
    for name in TUNED_STARTS:
        best, usual, chosen = best_trial(results, name), top1(results, name, share), tuned(results, name)
        words = f"lr {best['lr']:g}, layer decay {best['layer_decay']:g}" if best else DASH
        above = verdict_cell(chosen, tuned(results, "scratch")) if name != "scratch" else DASH
        rows.append([TITLES[name], mean_cell(usual.values), words, mean_cell(chosen.values), above])
    return markdown(["start", "recipe's settings", "best trial", "its settings", "above from scratch"], rows)


def costs(results: Results) -> str:
    """Runs, steps and CPU seconds of each kind, and the machine."""
    machine = results["machine"]
    kinds = [[kind, *map(str, numbers)] for kind, *numbers in costs_of(results)]
    text = f"{machine['cpu']}, {machine['cores']} cores; torch {', '.join(machine['torch'])}; "
    text += f"revisions {', '.join(machine['revisions'])}; sizes: {results['sizes']['study']}."
    return f"{text}\n\n{markdown(['runs', 'number', 'steps each', 'CPU seconds in all'], kinds)}"


def _number(row: Mapping[str, Any], key: str, unit: float = 1, digits: int = 0) -> str:
    return DASH if row.get(key) is None else f"{row[key] / unit:.{digits}f}"


TABLES: dict[str, Callable[[Results], str]] = {
    "starts": starts,
    "orderings": orderings,
    "frames": frames,
    "images": images,
    "masks": masks,
    "views": views,
    "tokenizers": tokenizers,
    "jpeg": qualities,
    "labels": other_labels,
    "leads": leads,
    "settings": settings,
    "costs": costs,
}

if __name__ == "__main__":
    main()
