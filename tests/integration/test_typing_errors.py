"""A misspelt or missing name on the command line: the error suggests the nearest name and lists the others."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("tokenize --dataset fodler", "no dataset 'fodler'; did you mean 'folder'? known: k400, ssv2, "),
        ("scan --dataset k4000", "no dataset 'k4000'; did you mean 'k400'? known: k400, ssv2, "),
        ("finetune diving84", "dataset 'diving84'; did you mean 'diving48'? known: k400, ssv2, diving48, folder, list"),
        ("train", "no stage: give one of image, video, joint, or --from RUN"),
        ("train joints", "stage 'joints': did you mean 'joint'? expected one of image, video, joint"),
        ("tokenizer train dave --out x", "tokenizer 'dave': did you mean 'dvae'? expected one of dvae, peco"),
        ("model info bass", "model 'bass': did you mean 'base'? expected one of nano, "),
        ("bench attention --device cpu --size smal", "size 'smal': did you mean 'small'? expected one of nano, "),
        ("bench step --size smal", "size 'smal': did you mean 'small'? expected one of nano, "),
        ("bench encoder --size bass", "size 'bass': did you mean 'base'? expected one of tiny, small, base"),
        ("export x --out y --format onxx", "--format 'onxx': did you mean 'onnx'? expected one of hub, program, onnx"),
        ("import-checkpoint x --out y --kind oficial", "--kind 'oficial': did you mean 'official'? expected official"),
        ("tokenizer info tokenizers/dalle", "`bevt tokenizer fetch dalle --out tokenizers/dalle`"),
        ("tokenizer info dvae-smal", "tokenizer 'dvae-smal' not found; did you mean 'dvae-small'? tried dvae-smal, "),
        ("plan k440", "unknown data set 'k440'; did you mean 'k400'? expected one of k400, in1k"),
    ],
)
def test_the_nearest_name_is_suggested_first(arguments: str, message: str) -> None:
    result = CliRunner().invoke(cli.app, arguments.split())
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate x --temporal shufle", "'normal', 'single-frame', 'shuffle'; did you mean 'shuffle'?"),
        ("train video --nproc 0", "error: Invalid value for '--nproc': "),
        ("train video --set loop.precision=fp8", "loop.precision: expected 'fp32', 'bf16' or 'fp16' (given 'fp8')"),
        ("probe x --root {here} --out y --val-share 0", "error: --val-share 0: expected a share above 0 and below 1"),
    ],
)
def test_an_unusable_value_is_refused_in_our_words(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.app(arguments.format(here=tmp_path).split())
    shown = capsys.readouterr().err
    assert message in shown
    assert not [words for words in ("Value error", "Input should", "Error:") if words in shown]
