"""docs/reference/format.md lists exactly the columns, keys, defaults and Zarr metadata that the code has."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from bevt_core.dataset.jpeg_layout import Layout
from schemas import frames, tokens, views
from schemas.base import FORMAT_VERSION

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "format.md").read_text()
TABLE = re.compile(r"<!-- (keys|columns) of (\w+) -->\n\|[^\n]*\n\| ---[^\n]*\n((?:\|[^\n]*\n)+)")
TABLES = {
    name: [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows.splitlines()]
    for _, name, rows in TABLE.findall(TEXT)
}
ON_DISK = [
    frames.Plan,
    frames.PoolSpec,
    frames.FrameStoreManifest,
    frames.Generation,
    frames.MixedSource,
    frames.FramePartCommit,
    frames.FileDigest,
    frames.SamplesCommit,
    frames.LeftOut,
    tokens.TokenPlan,
    tokens.TokenizerIdentity,
    tokens.TokenSetManifest,
    tokens.TokenPartCommit,
    tokens.TokenizerPlace,
    views.ViewSpec,
]
SCHEMAS = {
    "SOURCES_SCHEMA": frames.SOURCES_SCHEMA,
    "INDEX_SCHEMA": frames.INDEX_SCHEMA,
    "SAMPLES_SCHEMA": frames.SAMPLES_SCHEMA,
    "REJECTED_SCHEMA": frames.REJECTED_SCHEMA,
    "token_schema": tokens.token_schema((14, 14)),
}


def test_every_record_and_table_is_described() -> None:
    assert TABLES.keys() == {model.__name__ for model in ON_DISK} | SCHEMAS.keys()
    assert f"format version {FORMAT_VERSION}\n" in TEXT


@pytest.mark.parametrize("model", ON_DISK, ids=lambda model: model.__name__)
def test_keys_and_defaults_are_those_of_the_record(model: type[BaseModel]) -> None:
    described = {key.strip("`"): default for key, default, *_ in TABLES[model.__name__]}
    assert described == {name: default_of(model, name) for name in model.model_fields}


def default_of(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    return json.dumps(to_jsonable_python(field.get_default(call_default_factory=True)))


@pytest.mark.parametrize("name", SCHEMAS)
def test_columns_are_those_of_the_schema(name: str) -> None:
    described = [(column.strip("`"), kind, null) for column, kind, null, *_ in TABLES[name]]
    assert described == [
        (field.name, type_of(field.type), "yes" if field.nullable else "no") for field in SCHEMAS[name]
    ]


def type_of(kind: pa.DataType) -> str:
    """As pyarrow writes it, with the name of items that older and newer versions give them differently."""
    return re.sub(r"<item: ", "<element: ", str(kind))


def test_zarr_metadata_is_that_of_the_layout() -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    assert blocks == [*Layout.of(300_000, 11).metadata().values()]
