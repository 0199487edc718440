"""What the study runs: `bevt` commands with what they need and what they make. `run.py` runs them.

Every pretraining has the same number of steps, every fine-tuning too; sizes are those of the recipes nano_*. Names are
paths below the study's folder. `{out}` in a command is that folder.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from label_sets import Labels, RealVideos, motion, pictures, real_labels
from sizes import Study

STARTS = ("scratch", "supervised", "image", "video", "video_init", "joint", "joint_init")  # Tables 1 and 6
ORDER_STARTS = ("scratch", "image", "video_init", "joint_init")  # Table 2
OTHER_STARTS = ("scratch", "image", "video", "joint_init")  # on label sets other than camera motion
MASKS = {  # Table 9
    "tube": "{kind: tube, ratio: 0.5, min_block: 4, length_share: [0.5, 1.0]}",
    "tube_short": "{kind: tube, ratio: 0.5, min_block: 4, length_share: [0.25, 0.5]}",
    "tube_long": "{kind: tube, ratio: 0.5, min_block: 4, length_share: [1.0, 1.0]}",
    "tube_30": "{kind: tube, ratio: 0.3, min_block: 4, length_share: [0.5, 1.0]}",
    "tube_70": "{kind: tube, ratio: 0.7, min_block: 4, length_share: [0.5, 1.0]}",
    "random_3d": "{kind: random_3d, ratio: 0.5}",
    "frame_diff": "{kind: frame_diff, ratio: 0.5}",
}
VIEWS = (1, 2, 4, 8, 16)  # stored views per clip
QUALITIES = (75, 95)  # of JPEG; 90 is the recipe's
NANO_VIEWS = "{crop_px: 64, short_side_min_px: 64, short_side_max_px: 80, flip_share: 0.5, jitter: 0.0}"


@dataclass(frozen=True)
class Run:
    """One command. `name` begins with the kind of run and ends with the seed, if it has one."""

    name: str
    command: str  # arguments of `bevt`, or of Python if they begin with a file
    product: str  # the file that exists once it is done
    needs: tuple[str, ...] = ()  # names of runs


def runs_of(study: Study, real: Sequence[RealVideos] = ()) -> list[Run]:
    """Return all runs, those of the first tables first, so that an interrupted study has them."""
    found = [*data_runs(study)]
    for videos in real:
        found += real_data(study, videos)
    for seed in study.seeds:
        found += starts(study, seed)
        found += [finetune(study, seed, start, study.picture_share, pictures(study)) for start in OTHER_STARTS]
        for videos in real:
            found += [finetune(study, seed, start, 1.0, real_labels(study, videos)) for start in OTHER_STARTS]
    for seed in study.seeds:
        found += [*masks(study, seed), *views(study, seed), *tokens(study, seed)]
    return found


def data_runs(study: Study) -> Iterator[Run]:
    """The clips and pictures, stored and tokenized."""
    sizes = f"--clips {study.labelled} --unlabelled {study.unlabelled} --images {study.images}"
    yield Run("raw", f"demo-videos {{out}}/raw {sizes}", "raw/camera-motion.json")
    few = f"--clips 1 --images 1 --unlabelled {study.few} --seed 1"
    yield Run("raw_few", f"demo-videos {{out}}/raw_few {few}", "raw_few/camera-motion.json")
    draw = f"benchmarks/study/pictures.py {{out}}/pictures --count {study.images}"
    yield Run("pictures", draw, "pictures/ATTRIBUTION.txt")
    yield tokenize("images", "dvae-v2", "raw/images", "--recipe nano_image")
    yield tokenize("videos", "dvae-v2", "raw/unlabelled")
    yield tokenize("test", "dvae-v2", "raw/test")
    yield store_frames("train", "{out}/raw/train", ("raw",))
    yield store_frames("few", "{out}/raw_few/unlabelled", ("raw_few",))  # apart, so that tokenizing has its own cost
    before = "few"
    for count in VIEWS:  # one after another: one job at a time writes to a dataset
        options = f"--recipe nano_video --set views.num_views={count}"
        made = replace(tokenize("few", f"dvae-v{count}", "raw_few/unlabelled", options), needs=(before,))
        before = made.name
        yield made
    for quality in QUALITIES:
        options = f"--recipe nano_video --set pool.jpeg_quality={quality}"
        yield tokenize(f"jpeg_{quality}", "dvae-v2", "raw/unlabelled", options)
    # as many steps as dvae-nano had, on the same kinds of frames (benchmarks/nano/train.sh), and as many codes
    peco = "tokenizer train peco --recipe nano_peco --frames {out}/images/frames --frames {out}/videos/frames"
    peco += " --set architecture.vocab_size=64 --set loop.epochs=4 --out {out}/peco"
    yield Run("peco", peco, "peco/tokenizer/tokenizer.json", ("images/dvae-v2", "videos/dvae-v2"))
    made = tokenize("videos", "peco-v2", "raw/unlabelled", "--recipe nano_video --tokenizer {out}/peco/tokenizer")
    yield replace(made, needs=("videos/dvae-v2", "peco"))
    made = tokenize("test", "peco-v2", "raw/test", "--recipe nano_video --tokenizer {out}/peco/tokenizer")
    yield replace(made, needs=("test/dvae-v2", "peco"))


def store_frames(folder: str, root: str, needs: tuple[str, ...], options: str = "") -> Run:
    words = f"tokenize --dataset folder --recipe nano_video --frames-only {options}--root {root} --out {{out}}/{folder}"
    return Run(folder, words, f"{folder}/frames/dataset.json", needs)


def tokenize(folder: str, token_set: str, root: str, options: str = "--recipe nano_video") -> Run:
    command = f"tokenize --dataset folder {options} --root {{out}}/{root} --out {{out}}/{folder}"
    return Run(f"{folder}/{token_set}", command, f"{folder}/tokens/{token_set}/dataset.json", (root.split("/")[0],))


def starts(study: Study, seed: int) -> Iterator[Run]:
    """Tables 1, 6, 7 and 2: what fine-tuning starts from, at each share of the labels; and a set without motion."""
    image, video = ("image", "images/dvae-v2"), ("video", "videos/dvae-v2")
    frames = ("image", "videos/dvae-v2")
    yield pretrain(study, seed, "image", [image], study.images)
    yield supervised(study, seed)
    yield pretrain(study, seed, "video", [video], study.unlabelled)
    yield pretrain(study, seed, "video_init", [video], study.unlabelled, init=f"pretrain/image_{seed}")
    yield pretrain(study, seed, "joint", [image, video], study.unlabelled)
    yield pretrain(study, seed, "joint_init", [image, video], study.unlabelled, init=f"pretrain/image_{seed}")
    yield pretrain(study, seed, "image_frames", [frames], study.unlabelled)
    begin = f"pretrain/image_frames_{seed}"
    yield pretrain(study, seed, "joint_frames", [frames, video], study.unlabelled, init=begin)
    for share in study.shares:
        for start in STARTS:
            yield finetune(study, seed, start, share)
    yield finetune(study, seed, "joint_frames", study.share)
    for start in ORDER_STARTS:
        tuned = f"finetune/{start}_{study.share:g}_{seed}"
        name = f"temporal/{start}_{seed}"
        command = f"analyse temporal {{out}}/{tuned} --frames {{out}}/test/frames --out {{out}}/{name}"
        yield Run(name, command, f"{name}/temporal.csv", (tuned, "test/dvae-v2"))


def masks(study: Study, seed: int) -> Iterator[Run]:
    """Table 9: mask strategies, lengths and ratios. Whole frames are the run `video` of `starts`."""
    for name, mask in MASKS.items():
        option = f"--set 'streams.video.mask={braces(mask)}'"
        yield pretrain(study, seed, name, [("video", "videos/dvae-v2")], study.unlabelled, option)
        yield finetune(study, seed, name, study.share)


def views(study: Study, seed: int) -> Iterator[Run]:
    """Stored views per clip, and fresh views in every step."""
    for count in VIEWS:
        yield pretrain(study, seed, f"views_{count}", [("video", f"few/dvae-v{count}")], study.few)
        yield finetune(study, seed, f"views_{count}", study.share)
    online = f"{{{{frames: {{out}}/few/frames, tokenizer: dvae-nano, views: {braces(NANO_VIEWS)}}}}}"
    fresh = pretrain(study, seed, "views_fresh", [], study.few, f"--set 'streams.video.tokens={online}'")
    yield replace(fresh, needs=("few/dvae-v1",))
    yield finetune(study, seed, "views_fresh", study.share)


def tokens(study: Study, seed: int) -> Iterator[Run]:
    """Tokens of a VQ-VAE, PeCo's kind without its perceptual loss, and the quality of the stored frames."""
    for name, token_set in {"peco": "videos/peco-v2", **{f"jpeg_{q}": f"jpeg_{q}/dvae-v2" for q in QUALITIES}}.items():
        yield pretrain(study, seed, name, [("video", token_set)], study.unlabelled)
        yield finetune(study, seed, name, study.share)


def pretrain(
    study: Study,
    seed: int,
    name: str,
    streams: Sequence[tuple[str, str]],
    samples: int,
    options: str = "",
    *,
    init: str | None = None,
) -> Run:
    """A pretraining of `study.steps` steps on the token sets of `streams`; `init` names the run that made its weights.

    `samples` is the size of the set that counts the epochs: the videos, or else the pictures.
    """
    kinds = {kind for kind, _ in streams} or {"video"}
    stage = "joint" if len(kinds) == 2 else kinds.pop()
    epochs = epochs_of(study.steps, samples, study.image_batch if stage == "image" else study.batch)
    sets = [f"--{kind}-tokens {{out}}/{made.replace('/', '/tokens/')}" for kind, made in streams]
    begin = f"--init {{out}}/{init}" if init else "--set init=null"
    run = f"pretrain/{name}_{seed}"
    words = [
        "train",
        stage,
        f"--recipe nano_{stage}",
        *sets,
        options,
        begin,
        settings(seed, epochs),
        f"--out {{out}}/{run}",
    ]
    needs = [made for _, made in streams] + ([init] if init else [])
    return Run(run, " ".join(words), f"{run}/weights.safetensors", tuple(needs))


def supervised(study: Study, seed: int) -> Run:
    """A classifier of pictures, by photograph: what an encoder pretrained on labelled images is in the paper."""
    run = f"pretrain/supervised_{seed}"
    epochs = epochs_of(study.steps, pictures(study).training_clips(1.0), study.batch)
    command = (
        "finetune folder --recipe nano_finetune --root {out}/pictures/train --val-root {out}/pictures/test "
        f"--set init=null --set sampling.frames=2 {settings(seed, epochs)} {validated_once(epochs)} --out {{out}}/{run}"
    )
    return Run(run, command, f"{run}/weights.safetensors", ("pictures",))


def finetune(
    study: Study,
    seed: int,
    start: str,
    share: float,
    labels: Labels | None = None,
    *,
    options: str = "",
    run: str | None = None,
) -> Run:
    """A fine-tuning of `study.finetune_steps` steps on a share of the labels; by default those of camera motion."""
    labels = labels or motion(study)
    epochs = epochs_of(study.finetune_steps, labels.training_clips(share), study.batch)
    begin = "--set init=null" if start == "scratch" else f"--init {{out}}/pretrain/{start}_{seed}"
    run = run or f"{labels.name}/{start}_{share:g}_{seed}"
    command = (
        f"finetune folder --recipe nano_finetune {labels.data} {begin} {options} "
        f"--set label_share={share:g} {settings(seed, epochs)} {validated_once(epochs)} --out {{out}}/{run}"
    )
    needs = (*labels.needs, *([] if start == "scratch" else [f"pretrain/{start}_{seed}"]))
    return Run(run, command, f"{run}/weights.safetensors", needs)


def real_data(study: Study, videos: RealVideos) -> Iterator[Run]:
    """Frame stores of real videos."""
    name, root = videos.name, braces(shlex.quote(videos.root))
    if videos.use == "classes":
        thinned = "--set pool.stride=4 --set pool.long=thin "
        yield store_frames(f"real/{name}", root, (), thinned)
        return
    train, test = study.playback
    cut = f"benchmarks/study/playback.py {root} {{out}}/raw_{name} --train {train} --test {test}"
    yield Run(f"raw_{name}", cut, f"raw_{name}/playback.json")
    for split in ("train", "test"):
        yield store_frames(f"real/{name}/{split}", f"{{out}}/raw_{name}/{split}", (f"raw_{name}",))


def epochs_of(steps: int, clips: int, batch: int) -> float:
    """The epochs that have so many steps; an epoch drops its last, incomplete batch."""
    return steps / max(1, clips // batch)


def settings(seed: int, epochs: float) -> str:
    return f"--set loop.seed={seed} --set loop.epochs={epochs:.6g} --set loop.precision=bf16 --set loop.log_every=50"


def validated_once(epochs: float) -> str:
    """At the end; warmed up for a tenth of the steps."""
    return f"--set validate_every_epochs={2 * epochs:.6g} --set optim.warmup_epochs={epochs / 10:.6g}"


def braces(text: str) -> str:
    """Double the braces, so that `format` leaves them."""
    return text.replace("{", "{{").replace("}", "}}")
