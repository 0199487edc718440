"""Rows of a job pass unchanged through Ray: as blocks of a dataset, and as batches of an actor."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline.job.busy import TokenizeTimes
from pipeline.job.rows import PartMade, PartToMake
from schemas.errors import StorageError, UserError
from schemas.frames import SourceItem

MADE = PartMade(3, sources=4, frames=40, rejected=2, missing=1, times=TokenizeTimes("node:1", 1e6, 2e6, 3e6, 0.5))
MADES = {"made": MADE, "frames only": replace(MADE, times=None), "failed": PartMade(3).with_error(UserError("why"))}


def test_a_part_to_make_keeps_its_sources() -> None:
    items = [
        SourceItem(source="a \u0301\udcff.mp4", kind="video", label=3),
        SourceItem(source="b", kind="image", label=None),
    ]
    again = PartToMake.from_row(PartToMake(7, items).to_row())
    assert (again.part, again.items) == (7, items)


@pytest.mark.parametrize("made", MADES.values(), ids=MADES)
def test_a_part_that_was_made_comes_back_from_ray(made: PartMade) -> None:
    """Parts with and without times have the same columns of the same types, as the blocks of a Ray dataset must."""
    rows = [one.to_row() for one in (made, *MADES.values())]
    table = pa.Table.from_pylist(rows)
    assert PartMade.from_row(table.to_pylist()[0]) == made
    batch = {key: np.asarray(column) for key, column in made.to_batch().items()}
    assert PartMade.from_batch(batch) == made
    assert {pa.Table.from_pylist([row]).schema for row in rows} == {table.schema}


@pytest.mark.parametrize(("error", "kind"), [(UserError("a"), UserError), (StorageError(5, "b"), StorageError)])
def test_an_error_of_a_worker_is_raised_by_the_driver(error: Exception, kind: type[Exception]) -> None:
    class Narrower(kind):  # type: ignore[misc, valid-type]
        pass

    for given in (error, Narrower(*error.args)):
        with pytest.raises(kind, match=f"^{error}$"):
            PartMade.from_row(PartMade(0).with_error(given).to_row()).raise_error()
    PartMade(0).raise_error()
