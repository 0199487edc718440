"""The parameters of a request."""

import pytest

from bevt_core.viewer.marks import address, hidden, link, search_box
from bevt_core.viewer.query import BadRequest, Query
from tests.support.hostile_names import NAMES
from tests.support.served_pages import ServedPage


def test_values_are_read() -> None:
    query = Query("part=3&kind=tube&name=a%20b&empty=")
    assert query.integer("part", 0, 9) == 3
    assert query.integer("absent", 0, 9, 4) == 4 and query.integer("empty", 0, 9, 5) == 5
    assert query.choice("kind", {"tube", "block"}, "block") == "tube"
    assert query.choice("absent", {"tube", "block"}, "block") == "block"
    assert query.text("name") == "a b"


@pytest.mark.parametrize("text", ["", "-1", "10", "1.5", "a", "../x", "\u0663", " 3", "3_0", "9" * 5000, "0x1"])
def test_a_number_is_in_its_range(text: str) -> None:
    with pytest.raises(BadRequest, match="expected a whole number from 0 to 9"):
        Query(f"part={text}").integer("part", 0, 9)


def test_other_queries_are_refused() -> None:
    for text in ("a=1&a=2", "&".join(f"a{n}=1" for n in range(21)), "a=%ff"):
        with pytest.raises(BadRequest):
            Query(text)
    with pytest.raises(BadRequest, match="expected one of block, tube"):
        Query("kind=other").choice("kind", {"tube", "block"}, "block")
    with pytest.raises(BadRequest, match="201 characters"):
        Query(f"name={'a' * 201}").text("name")


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_from_addresses(name: str) -> None:
    to = address("samples", name=name, page=2)
    assert Query(to.partition("?")[2]).text("name") == name
    page = ServedPage(link(name, to) + hidden("name", name) + search_box("Name", "name", name))
    assert page.faults == []
