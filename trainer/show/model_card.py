"""The model card of an exported folder, from a run's record, its recipe and its evaluations.

It has the Hugging Face Hub's format: a README.md that begins with YAML (https://huggingface.co/docs/hub/model-cards).
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from bevt_core.console.inert import Markup, markdown_code, markdown_text
from bevt_core.console.terminal import note
from bevt_core.models.counting import num_parameters
from bevt_core.reporting.page import markdown_table
from bevt_core.storage.descriptions import RECORD, kind_of_run
from bevt_core.storage.files import sha256_of
from bevt_core.weights.export import save_hub_folder
from bevt_core.weights.model_files import Model, load_weights
from bevt_core.weights.packaged import HUB_README, PRETRAINED_CARD
from schemas.errors import UserError
from schemas.evaluation import PretrainedCard
from schemas.recipes import ClipSampling, FinetuneRecipe, OnlineTokens, PretrainRecipe, StreamConfig
from schemas.runs import RunRecord
from trainer.runs.directory import existing_weights, read_run
from trainer.show.run_facts import (
    check_evaluations,
    encoder_name,
    epochs_of,
    facts_of,
    tokenizer_before,
    tokenizer_digests,
    tokenizer_of_stages,
)
from trainer.testing.classifier_card import CARD
from trainer.testing.pretrained_card import card_of_pretrained, frames_of

HEADER = "---\nlibrary_name: bevt\ntags:\n- video-classification\n- bevt\n---\n"
NOT_RECORDED = "not recorded"
COMMAND = "command"  # a fact
ABSOLUTE_PATH = re.compile(r"""(?<![\w.:/~-])(/[^"',=\[\]]*)""")  # also as a value: --out=/a/b, init="/a/b"
SHORTENED = "Absolute paths are shortened to their last component."
LICENCE = (
    "bevt's code is under Apache-2.0. These weights were trained on the data, and started from the weights, that are "
    "named above; the terms of both decide how they may be used. Before you publish this folder, add a `license:` line "
    "at the top of this file. If the training used tokens of DALL-E's dVAE, its licence asks you to say so."
)
HOW = 'With `bevt` installed, in this folder. For a repository on the Hub, give `"hf://ORG/NAME"` instead of `"."`:'
USE_CLASSIFIER = """\
from bevt_core import predict

for answer in predict(".", ["clip.mp4"]):  # this folder; files, folders or globs
    print(answer["video"], answer.get("classes") or answer["error"])
"""
USE_MODEL = """\
from bevt_core import load_run

model = load_run(".").model  # this folder
print(model.config)  # {shape}
"""
USE_ENCODER = """\
from bevt_core import file_features, load_run

run = load_run(".")  # this folder; also read by `bevt finetune --init`, `probe` and `extract`
print(file_features(run, ["clip.mp4"]))  # a row per video
"""
SHAPES = {
    "classifier": "model(clip): normalised clips (B, 3, T, H, W) -> logits (B, classes); model.features(clip): (B, D)",
    "bevt": "model.encoders and model.stems by name; `bevt finetune --init` and `bevt extract` read this folder",
}


def export_hub(checkpoint: Path | str, out: Path, evaluations: Sequence[Path] = ()) -> Model:
    """Write a model in the Hub's layout: weights, config, model card, and class names or the clips of pretraining.

    `evaluations` are folders of `bevt evaluate --out`; the card quotes those of these weights. Raises UserError for a
    tokenizer's run, if there are no weights, and for a folder without a finished evaluation of them.
    """
    weights = existing_weights(checkpoint)
    check_evaluations(checkpoint, weights, evaluations)
    model = load_weights(weights)
    if (weights.parent / PRETRAINED_CARD).is_file():  # exported before; its run's record is not in the folder
        names = (HUB_README, PRETRAINED_CARD)
        files = {name: (weights.parent / name).read_text() for name in names if (weights.parent / name).is_file()}
    else:
        card = _pretrained_card(weights)
        files = {HUB_README: model_card(weights, model, evaluations, card)}
        if card is not None:
            files[PRETRAINED_CARD] = card.model_dump_json(indent=1) + "\n"
        if (weights.parent / CARD).is_file():
            files[CARD] = (weights.parent / CARD).read_text()
    save_hub_folder(out, model, files)
    return model


def _pretrained_card(weights: Path) -> PretrainedCard | None:
    """The description of a pretraining run's weights; None for others, and, with a note, if its clips are unknown."""
    if kind_of_run(weights.parent) != "pretrain":
        return None
    recipe, record = read_run(weights.parent)
    assert isinstance(recipe, PretrainRecipe)
    try:
        clips = card_of_pretrained(weights)
        samples = [(name, frames_of(stream).manifest) for name, stream in recipe.streams.items()]
    except (UserError, OSError) as error:
        note(f"{PRETRAINED_CARD} is not written: {error}")
        return None
    trained_on = ", ".join(f"{frames.num_samples:,} {name}s ({frames.dataset})" for name, frames in samples)
    origin = _facts(recipe) | _record_facts(record)
    return PretrainedCard(
        title=clips.title, sampling=clips.sampling, crop_px=clips.crop_px, trained_on=trained_on, origin=origin
    )


def model_card(
    weights: Path, model: Model, evaluations: Sequence[Path] = (), pretrained: PretrainedCard | None = None
) -> str:
    """Return the card as Markdown. For weights outside a run's directory it says that their origin is unknown.

    `pretrained` describes the clips of a pretraining run, if they are known.
    """
    sizes = {"parameters": f"{num_parameters(model):,}", "sha256 of the weights": sha256_of(weights)}
    if (weights.parent / RECORD).is_file():
        recipe, record = read_run(weights.parent)
        if not isinstance(recipe, PretrainRecipe | FinetuneRecipe):
            raise UserError(f"{weights.parent}: a tokenizer's run; share its folder `tokenizer` instead")
        title, facts, sections = recipe.title, _facts(recipe), [_record(record)]
        if isinstance(recipe, FinetuneRecipe):
            sections.insert(0, _accuracy(weights.parent, evaluations))
    else:
        title, facts = "BEVT model", {"made by": "unknown; the weights are not in a run's directory"}
        sections = []
    use = USE_CLASSIFIER if (weights.parent / CARD).is_file() else USE_MODEL.format(shape=SHAPES[model.config["kind"]])
    if pretrained is not None:
        facts |= {"trained on": pretrained.trained_on, "input": _input(pretrained.sampling, pretrained.crop_px)}
        use = USE_ENCODER
    return "\n\n".join(
        [
            HEADER,
            f"# {markdown_text(title)}",
            "BEVT: BERT Pretraining of Video Transformers, https://arxiv.org/abs/2112.01529.",
            markdown_table(("", ""), [(key, value) for key, value in (facts | sizes).items()]),
            *sections,
            f"## Use\n\n{HOW}\n\n```python\n{use}```",
            f"## Licence\n\n{LICENCE}\n",
        ]
    )


def _facts(recipe: PretrainRecipe | FinetuneRecipe) -> dict[str, str]:
    loop, optim = recipe.loop, recipe.optim
    training = {
        "epochs": epochs_of(loop),
        "peak learning rate": f"{optim.lr:g}",
        "seed": str(loop.seed),
        "started from": without_folders(recipe.init) if recipe.init else "scratch",
    }
    if isinstance(recipe, FinetuneRecipe):
        return {
            "task": f"video classification, {recipe.dataset}",
            "encoder": encoder_name(recipe.encoder),
            "input": _input(recipe.sampling, recipe.augment.crop_px),
            "global batch": str(recipe.global_batch),
            "tokenizer of the pretraining": tokenizer_before(recipe.init),
            **training,
        }
    return {
        "task": "pretraining: masked token prediction, " + " and ".join(recipe.streams),
        "encoder": encoder_name(recipe.model.encoder),
        "tokenizer": tokenizer_of_stages([recipe]),
        "sha256 of the tokenizer": tokenizer_digests(recipe) or NOT_RECORDED,
        "tokens": ", ".join(_tokens_of(stream) for stream in recipe.streams.values()),
        **training,
    }


def _input(sampling: ClipSampling, crop_px: int) -> str:
    clip = f"{sampling.frames} frames ({sampling.spacing}), {crop_px} px"
    return f"{clip}, RGB normalised with ImageNet's mean and standard deviation"


def _tokens_of(stream: StreamConfig) -> str:
    if isinstance(stream.tokens, OnlineTokens):
        return f"made in the training step, from {without_folders(stream.tokens.frames)}"
    return ", ".join(map(without_folders, stream.token_sets))


def _accuracy(run: Path, evaluations: Sequence[Path]) -> str:
    tables = []
    for facts in (facts for facts in facts_of([run, *evaluations]) if facts.run == str(run) and facts.top1 is not None):
        rows = [
            ("top-1", f"{facts.top1:.2%}"),
            ("mean over classes", NOT_RECORDED if facts.mean_class is None else f"{facts.mean_class:.2%}"),
            ("videos", NOT_RECORDED if facts.num_videos is None else f"{facts.num_videos:g}"),
            ("tested on", without_folders(facts.data)),
            ("views (clips x crops)", facts.setting.views),
            ("measured by", Markup("`bevt evaluate`") if facts.evaluated else facts.tested),
            *((f"overlap with {use}", without_folders(found)) for use, found in facts.overlaps.items()),
        ]
        tables.append(markdown_table(("", ""), rows))
    return "\n\n".join(["## Accuracy", *(tables or ["Not evaluated."])])


def _record(record: RunRecord) -> str:
    rows = [(key, markdown_code(value) if key == COMMAND else value) for key, value in _record_facts(record).items()]
    return f"## How it was made\n\n{SHORTENED}\n\n" + markdown_table(("", ""), rows)


def _record_facts(record: RunRecord) -> dict[str, str]:
    started_from = {} if record.init_sha256 is None else {"sha256 of the initial weights": record.init_sha256}
    return {
        COMMAND: _public_command(record.command),
        "recipe's digest": record.recipe_digest,
        "code": record.git_revision or "no checkout",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        **{
            f"data: {name}": f"{without_folders(ref.path)}, digest {ref.digest}"
            for name, ref in record.datasets.items()
        },
        **started_from,
        "processes": str(record.world_size),
        "started": record.started,
    }


def _public_command(command: str) -> str:
    """Return a command for the model card, without the author's folders."""
    try:
        return shlex.join(map(without_folders, shlex.split(command)))
    except ValueError:  # an edited record: unbalanced quotation marks
        return without_folders(command)


def without_folders(text: str) -> str:
    """Shorten every absolute path in `text`, a word of a command, to its last component: model cards are public."""
    return ABSOLUTE_PATH.sub(lambda found: f".../{Path(found[1]).name}", text)
