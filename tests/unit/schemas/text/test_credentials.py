"""Credentials in text: which strings are masked, and which are not."""

import json
import time
from pathlib import Path

import pytest

from bevt_core.dataset.frame_store import Rejected
from bevt_core.media.errors import MediaError
from bevt_core.storage.clouds.schemes import CLOUDS
from bevt_core.storage.descriptions import RECORD
from pipeline.job import decode_part as frames_job
from schemas.errors import UserError
from schemas.frames import PoolSpec, SourceItem
from schemas.recipes.loading import load_recipe
from schemas.text.credentials import MASK, holds_credentials, is_credential, masked, masked_command
from trainer.recipes import TRAINER_RECIPES
from trainer.runs.directory import RESUMES, open_run

KEY_ID, AWS_SECRET = "AKIA" + "IOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE" + "KEY"  # AWS's own examples
HF, GITHUB, WANDB = "hf_" + "aB3" * 12, "ghp_" + "x1Y" * 12, "0123456789abcdef0123456789abcdef01234567"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"

SECRETS = {  # text -> what must not be in it
    f"upload failed for {KEY_ID}": KEY_ID,
    f"Authorization: Basic {'dXNlcjpwdw=='}": "dXNlcjpwdw==",
    "curl -H 'Authorization: Bearer abcdef0123456789'": "abcdef0123456789",
    f"no access with {HF} to it": HF,
    f"git clone https://{GITHUB}@github.com/a/b": GITHUB,
    "wandb_v1_" + "k3Y" * 20: "k3Y",
    f"jwt {JWT}": JWT,
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----": "MIIEow",
    "s3://alice:pa55word@bucket/set": "pa55word",
    "https://alice:p@55/word@host/x.mp4 is gone": "55/word",
    "gs://alice:pa55word@bucket/set": "pa55word",
    "az://container/set?sv=2022&sig=Zm9v": "Zm9v",
    "AZURE_STORAGE_SAS_KEY=sv/2022/Zm9vYmFy": "Zm9v",
    "https:/alice:pa55word@host/x: no such file": "pa55word",
    "ray://head:s3cret@host:10001": "s3cret",
    "https://b.s3.amazonaws.com/k.mp4?X-Amz-Algorithm=A&X-Amz-Expires=60&X-Amz-Signature=0a1b2c": "0a1b2c",
    "https://b.s3.amazonaws.com/k.mp4?AWSAccessKeyId=K&Expires=1&Signature=q%2Bz": "q%2Bz",
    "https://a.blob.core.windows.net/c/k.mp4?sv=2022&se=2030-01-01&sp=r&sig=Zm9v": "Zm9v",
    "https://storage.googleapis.com/b/k?X-Goog-Credential=me&X-Goog-Signature=77aa": "77aa",
    "https://host/x?token=t0k": "t0k",
    f"AWS_SECRET_ACCESS_KEY={AWS_SECRET} bevt scan": AWS_SECRET,
    f"aws_secret_access_key = {AWS_SECRET}": AWS_SECRET,
    f"WANDB_API_KEY={WANDB}": WANDB,
    f'{{"api_key": "{WANDB}"}}': WANDB,
    "apiKey: 'abc def'": "abc def",
    "--password hunter2": "hunter2",
    "--set hub.token=s3cr3t": "s3cr3t",
    "HF_TOKEN=abcdefgh": "abcdefgh",
    "db.password=hunter2;user=me": "hunter2",
    "error: x=1: HF_TOKEN=abcdefgh": "abcdefgh",
    "api_key = ['abc123def']": "abc123def",
    "DB_PWD=hunter22": "hunter22",
    "https://0123456789abcdefghij@host/x": "0123456789abcdefghij",
    f"AccountKey=/aB3{'x' * 40}==": "aB3",
}
PLAIN = [
    "bevt train joint --video-tokens datasets/k400/tokens/dalle-v8 --image-tokens data/in1k/tokens/dvae-v2",
    "bevt tokenize --tokenizer=tokenizers/dalle --set tokenizer_dtype=float32",
    "bevt runs compare a b --key mvm_loss --key loss",
    "--seed-key 12345678 sort_key=name public_key=abcdefgh",
    "mask_token=learned cls_token: 'first' image_token=8192",
    "TOKENIZERS_PARALLELISM=false",
    "--credentials /home/me/creds.json --token-file ./token",
    "password: expected a string",
    "s3://bucket/prefix: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    *(f"{cloud.prefix}x/prefix: no credentials; {cloud.credentials}" for cloud in CLOUDS.values()),
    "https://host:8080/a@b/c.mp4?size=2&frames=16",
    "ray://head:10001 or git@github.com:me/bevt",
    "model.vocab_size is 8192, the recipe's is 1024",
    "commit 0123456789abcdef0123456789abcdef01234567-dirty",
    "HF_TOKEN=$HF_TOKEN --max-rejected 5% token=12",
    "abseiling/clip.mp4: no moov atom",
    "PWD=/data/Kinetics400 and ssh://git@github.com/me/bevt",
    "error:/data/a:b@c.mp4 and s3:/bucket/a:b@c",
]


@pytest.mark.parametrize(("text", "secret"), SECRETS.items())
def test_a_credential_is_masked(text: str, secret: str) -> None:
    shown = masked(text)
    assert secret not in shown and MASK in shown
    assert masked(shown) == shown


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_looks_like_one_stays(text: str) -> None:
    assert masked(text) == text and not holds_credentials(text)


def test_the_rest_of_a_url_stays() -> None:
    assert masked("see https://u:p@host/a.mp4?sig=1#x now") == f"see https://{MASK}@host/a.mp4?{MASK} now"


def test_options_of_a_command_are_masked_by_name() -> None:
    words = ["bevt", "x", "--api-key", "two words", "--token", "-v", "--set", "a.secret=b c", "--tokens", "my tokens"]
    assert masked_command(words) == f"bevt x --api-key {MASK} --token -v --set 'a.secret={MASK}' --tokens 'my tokens'"


def test_the_environments_credentials_are_masked_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_STORE_PASSWORD", "correct/horse battery")
    monkeypatch.setenv("BEVT_TOKENIZERS", "somewhere-else")
    text = "somewhere-else said: correct/horse battery, correct%2Fhorse%20battery"
    assert masked(text) == f"somewhere-else said: {MASK}, {MASK}"


@pytest.mark.parametrize(
    "name", ["tokens", "--image-tokens", "tokenizer", "token_set", "seed-key", "key", "mask_token"]
)
def test_names_without_credentials(name: str) -> None:
    assert not is_credential(name)


@pytest.mark.parametrize("piece", ["a", "-", "a=", "://", "eyJ-", "? ", "-----BEGIN PRIVATE KEY-----", '"', "://a:"])
def test_masking_takes_time_in_proportion_to_the_text(piece: str) -> None:
    began = time.perf_counter()
    masked(piece * (200_000 // len(piece)))
    assert time.perf_counter() - began < 5


def test_what_is_wrong_with_a_source_is_kept_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, limit_s: float) -> None:
        raise MediaError("open", "not-media", f"https://me:{AWS_SECRET}@host/a.mp4 is no video")

    monkeypatch.setattr(frames_job, "_isolated_loader", lambda decoder: fails)
    monkeypatch.setattr(frames_job, "read_through", lambda path: None)
    item = SourceItem(source="a.mp4", kind="video", label=None)
    rejected = frames_job.read_source(Path(), item, PoolSpec(), 0, 1.0, 1)
    assert isinstance(rejected, Rejected) and rejected.message == f"https://{MASK}@host/a.mp4 is no video"


def test_a_run_is_recorded_without_credentials(tmp_path: Path) -> None:
    recipe = load_recipe("nano_finetune", TRAINER_RECIPES)
    for resume in (False, True):
        open_run(tmp_path, recipe, {}, resume=resume, command=f"bevt --token {HF} x", world_size=1)
    assert json.loads((tmp_path / RECORD).read_text())["command"] == f"bevt --token {MASK} x"
    assert json.loads((tmp_path / RESUMES).read_text())["command"] == f"bevt --token {MASK} x"


@pytest.mark.parametrize("key", ["title", "root", "probe.frames", "optim.lr"])
def test_a_recipe_with_credentials_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key} is .*leave them out, and set environment variables") as refused:
        load_recipe("nano_finetune", TRAINER_RECIPES, [f"{key}=s3://me:{AWS_SECRET}@bucket/x"])
    assert AWS_SECRET not in str(refused.value)
