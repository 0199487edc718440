"""`tokenizer.json`: its bytes of format version 1, which must never change, and errors that name the key."""

import json
from pathlib import Path

import pytest

from bevt_core.storage.files import write_record
from bevt_core.tokenizers import PRETRAINED
from bevt_core.tokenizers.description import DESCRIPTION, StoredTokenizer, read_description
from bevt_core.tokenizers.dvae.family import DvaeSizes
from bevt_core.tokenizers.peco.family import PecoSizes
from schemas.errors import UserError

PECO = """{
 "format_version": 1,
 "kind": "peco",
 "sizes": {
  "width": 128,
  "multipliers": [
   1,
   1,
   2,
   2,
   4
  ],
  "blocks": 2,
  "code_dim": 256,
  "vocab_size": 8192
 },
 "input_px": 224,
 "encoder_sha256": "12",
 "decoder_sha256": null,
 "origin": {
  "step": 3
 }
}
"""


@pytest.mark.parametrize("name", ["dvae-nano", "dvae-small"])
def test_a_description_is_written_again_byte_by_byte(name: str, tmp_path: Path) -> None:
    write_record(tmp_path / DESCRIPTION, read_description(PRETRAINED / name))
    assert (tmp_path / DESCRIPTION).read_bytes() == (PRETRAINED / name / DESCRIPTION).read_bytes()


def test_the_bytes_of_a_peco(tmp_path: Path) -> None:
    stored = StoredTokenizer(
        kind="peco", sizes=PecoSizes(), input_px=224, encoder_sha256="12", decoder_sha256=None, origin={"step": 3}
    )
    write_record(tmp_path / DESCRIPTION, stored)
    assert (tmp_path / DESCRIPTION).read_text() == PECO
    assert read_description(tmp_path) == stored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "pecco"}, r"tokenizer\.json: unknown kind of tokenizer 'pecco'; did you mean 'peco'\?"),
        ({"kind": "dalle"}, r"sizes\.width: unknown key"),
        ({"sizes": {"blocks": 1000}}, r"sizes\.blocks: expected a whole number from 1 to 64 \(given 1000\)"),
        ({"kind": None}, "kind: expected "),
    ],
)
def test_errors_name_the_key(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(json.dumps(json.loads(PECO) | changes))
    with pytest.raises(UserError, match=message):
        read_description(tmp_path)


def test_sizes_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes do not belong to kind 'peco'"):
        StoredTokenizer(kind="peco", sizes=DvaeSizes(), input_px=8, encoder_sha256="", decoder_sha256=None, origin={})
