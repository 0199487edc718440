"""The study's plan: every command is one that `bevt` accepts, and what it needs comes first."""

import itertools
import json
import shlex
import sys
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from bevt_core.media.decoding import decode_source
from pipeline.recipes import PIPELINE_RECIPES
from schemas.frames import SourceItem
from schemas.recipes.loading import load_recipe
from tests.golden.surfaces import commands
from tests.support.media import moving_frames, write_video
from tests.support.study import STUDY, study_module
from trainer.clips.split import share_of_labels, split_items
from trainer.recipes import TRAINER_RECIPES

plan, leads, sizes, playback, run = (study_module(name) for name in ("plan", "leads", "sizes", "playback", "run"))


@pytest.fixture
def real(tmp_path: Path) -> list[Any]:
    """Real videos: one root for playback, with a space and a brace in its name, and one of class folders."""
    folders = [tmp_path / "of {men} at work", tmp_path / "classes"]
    for folder in folders:
        for name in ("a/1.mp4", "a/2.avi", "b/3.mp4", "b/notes.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    return [plan.RealVideos("films", str(folders[0]), "playback"), plan.RealVideos("tank", str(folders[1]), "classes")]


@pytest.mark.parametrize("study", [sizes.TINY, sizes.FULL], ids=["tiny", "full"])
def test_what_a_run_needs_comes_before_it(study: Any, real: list[Any]) -> None:
    runs = [*plan.runs_of(study, real), *leads.leads(study)]
    names = [run.name for run in runs]
    assert len(set(names)) == len(names) and len({run.product for run in runs}) == len(runs)
    for i, each in enumerate(runs):
        assert set(each.needs) <= set(names[:i]), each.name


def test_one_job_at_a_time_writes_to_a_dataset() -> None:
    """Another one is refused; `run.py --jobs 2` starts runs whose needs are done."""
    runs = plan.runs_of(sizes.TINY)
    needs: dict[str, set[str]] = {}
    writers: dict[str, list[str]] = {}
    for each in runs:
        needs[each.name] = set(each.needs).union(*(needs[name] for name in each.needs))
        if each.command.startswith("tokenize "):
            writers.setdefault(each.command.split("--out ")[1].split()[0], []).append(each.name)
    assert max(map(len, writers.values())) > len(plan.VIEWS)
    for names in writers.values():
        for i, name in enumerate(names):
            assert set(names[:i]) <= needs[name], name


def test_bevt_accepts_every_command(real: list[Any]) -> None:
    """The options exist, and recipes allow every override. Scripts are files."""
    known, checked = commands(), 0
    for each in [*plan.runs_of(sizes.TINY, real), *leads.leads(sizes.TINY)]:
        words = shlex.split(each.command.format(out="OUT"))
        if words[0].endswith(".py"):
            assert (STUDY.parents[1] / words[0]).is_file()
            if "finetune" not in words:
                continue
            words = words[words.index("finetune") :]  # what tuned.py runs
        depth = 2 if " ".join(words[:2]) in known else 1
        name, options = " ".join(words[:depth]), words[depth:]
        values = known[name].make_context(name, options).params
        if values.get("recipe"):
            folder = PIPELINE_RECIPES if name == "tokenize" else TRAINER_RECIPES
            load_recipe(values["recipe"], folder, values["set_"] or [])
            checked += 1
    assert checked > 60


def test_a_real_root_is_one_word(real: list[Any]) -> None:
    command = next(each.command for each in plan.runs_of(sizes.TINY, real) if each.name == "raw_films")
    assert shlex.split(command.format(out="OUT"))[1] == real[0].root


def test_trials_count_the_clips_that_the_command_leaves_to_train_on() -> None:
    """Held-out clips and the share of labels, as the product draws them."""
    study = sizes.FULL
    trials = [each for each in leads.leads(study) if each.name.startswith("trials/")]
    assert len({each.command.split("loop.epochs=")[1].split()[0] for each in trials}) == 1
    words = shlex.split(trials[0].command)
    recipe = load_recipe("nano_finetune", TRAINER_RECIPES, [b for a, b in itertools.pairwise(words) if a == "--set"])
    items = [
        SourceItem(source=f"{label}/{i}", kind="video", label=label)
        for label in range(8)
        for i in range(study.labelled)
    ]
    train, _ = split_items(items, recipe.val_share, recipe.loop.seed)
    steps = len(share_of_labels(train, recipe.label_share, recipe.loop.seed)) // study.batch
    assert round(recipe.loop.epochs * steps) == study.finetune_steps


def test_an_interrupted_tokenizer_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As all trainings are; without --resume `bevt` refuses the run that exists."""
    (peco,) = (each for each in plan.runs_of(sizes.TINY) if each.name == "peco")
    (tmp_path / "peco").mkdir()
    (tmp_path / "peco" / "run.json").touch()
    started: list[list[str]] = []
    monkeypatch.setattr(run.subprocess, "Popen", lambda words, **_: started.append(words) or Popen(["true"]))
    run.execute(peco, tmp_path)
    assert started[0][-1] == "--resume"


def test_clips_of_another_size_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    made = {"train_clips_per_class": sizes.TINY.labelled, "unlabelled_clips": sizes.TINY.unlabelled, "images": 64}
    (tmp_path / "raw" / "camera-motion.json").write_text(json.dumps(made))
    run.check_sizes(tmp_path, sizes.TINY)
    with pytest.raises(SystemExit, match="train_clips_per_class is 8, wanted 512"):
        run.check_sizes(tmp_path, sizes.FULL)


def test_every_fine_tuning_of_a_study_has_the_same_steps(real: list[Any]) -> None:
    """Also where an epoch drops clips; those of class folders within the rounding of their classes."""
    study = sizes.FULL
    clips = {"finetune": study.labelled * 8, "finetune_films": study.playback[0] * 2}
    checked = 0
    for each in plan.runs_of(study, real):
        kind = each.name.split("/")[0]
        if kind in clips:
            share = float(each.name.rsplit("_", 2)[1])
            epochs = float(each.command.split("loop.epochs=")[1].split()[0])
            count = round(clips[kind] / 8 * share) * 8 if kind == "finetune" else round(clips[kind] * share)
            assert round(epochs * (count // study.batch)) == study.finetune_steps, each.name
            checked += 1
    assert checked > 100


def test_cpu_seconds_include_processes_that_nothing_waits_for(tmp_path: Path) -> None:
    """Ray's workers are such processes, and tokenizing is done by them."""
    script = tmp_path / "busy.py"
    busy = "import time\nwhile time.process_time() < 0.6: pass"
    script.write_text(
        "import subprocess, sys, time, pathlib\n"
        f"child = subprocess.Popen([sys.executable, '-c', {busy!r}])\n"
        "time.sleep(0.3)\n"
        "while open(f'/proc/{child.pid}/stat').read().split()[2] != 'Z': time.sleep(0.05)\n"
        "time.sleep(0.5)\n"
        f"pathlib.Path({str(tmp_path / 'product')!r}).touch()\n"
        "import os; os._exit(0)\n"
    )
    assert run.execute(plan.Run("busy", str(script), "product"), tmp_path) == 0
    (row,) = map(json.loads, (tmp_path / "costs.jsonl").read_text().splitlines())
    assert row["run"] == "busy" and row["exit"] == 0 and 0.55 < row["cpu_s"] < 5


def test_playback_writes_every_clip_in_both_directions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of one video, and of one group of UCF-101, are either all for training or all for tests."""
    root, out = tmp_path / "root", tmp_path / "out"
    for i in range(4):
        write_video(root / "x" / f"v_Dive_g0{i}_c01.mp4", moving_frames(30, seed=i))
        write_video(root / "x" / f"v_Dive_g0{i}_c02.mp4", moving_frames(20, seed=i))
    write_video(root / "short.mp4", moving_frames(9))
    (root / "damaged.mp4").write_bytes(b"no video")
    monkeypatch.setattr(sys, "argv", ["playback.py", str(root), str(out), "--train", "7", "--test", "3"])
    playback.main()
    facts = json.loads((out / "playback.json").read_text())
    assert set(facts["left_out"]) == {"short.mp4", "damaged.mp4"}
    groups = [{name.rsplit("_c", 1)[0] for name in facts["videos"][split]} for split in ("train", "test")]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    for split, count in (("train", 7), ("test", 3)):
        forward, reverse = (sorted((out / split / each).iterdir()) for each in ("forward", "reversed"))
        assert [path.name for path in forward] == [path.name for path in reverse] and len(forward) == count
    ahead, back = (
        decode_source(path, "video", range, lambda frame_HWC: frame_HWC.astype(float)).frames
        for path in (forward[0], reverse[0])
    )
    assert len(ahead) == len(back) == 8 and ahead[0].shape == (80, 80, 3)
    same, other = (abs(ahead[0] - frame).mean() for frame in (back[-1], back[0]))
    assert same < other / 2


def test_playback_needs_two_videos(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="1 groups of videos, expected 2"):
        playback.split_groups(["only"])
