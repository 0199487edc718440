"""Values in messages: digests are cut to 12 digits in every message that compares two of them."""

import re
from pathlib import Path

import pytest

from pipeline.job.plan import _refusal
from schemas.base import Record
from schemas.errors import UserError
from schemas.text.plain import short
from trainer.engine.checkpoint import check_identity
from trainer.testing.parts import changes

OLD, NEW = "0a" * 32, "1b" * 32


class Data(Record):
    data_digest: str


def identity_error() -> str:
    with pytest.raises(UserError) as error:
        check_identity(Path("step-1"), {"data.video": OLD}, {"data.video": NEW})
    return str(error.value)


MESSAGES = {
    "evaluate, extract": lambda: changes(Data(data_digest=OLD), Data(data_digest=NEW)),
    "tokenize": lambda: _refusal(Path("out/plan.json"), Data(data_digest=OLD), Data(data_digest=NEW), "give another"),
    "resume": identity_error,
}


@pytest.mark.parametrize("message", MESSAGES)
def test_digests_in_messages_are_short(message: str) -> None:
    text = MESSAGES[message]()
    assert re.findall("[0-9a-f]{6,}", text) == [OLD[:12], NEW[:12]]


def test_other_data_is_named_in_words() -> None:
    text = changes(Data(data_digest=OLD), Data(data_digest=NEW))
    assert text.startswith("made from other clips (files, labels or classes): 0a0a")


def test_only_digests_are_cut() -> None:
    revision = "0a" * 20
    assert short(revision) == revision[:12] and short(f"{revision}-dirty") == f"{revision[:12]}-dirty"
    for value in (None, 3, "a" * 39, "g" * 64, f"clip {OLD}"):
        assert short(value) == value
