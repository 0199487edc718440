"""The parameters of a request. Each is a number, one of a few names, or a text to search for; none is a path."""

from collections.abc import Collection
from urllib.parse import parse_qsl

from schemas.errors import UserError

MAX_FIELDS = 20


class BadRequest(UserError):
    """A parameter that a page does not take: status 400."""


class NoSuchPage(UserError):
    """A page or a sample that does not exist: status 404."""


class Query:
    """The parameters after `?` in an address."""

    def __init__(self, text: str) -> None:
        """Raises BadRequest for more than MAX_FIELDS parameters, and for one that is given twice."""
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
        except ValueError as error:
            raise BadRequest(f"the address cannot be read: {error}") from None
        self._values = dict(pairs)
        if len(self._values) < len(pairs):
            raise BadRequest("a parameter is given twice")

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number from `low` to `high`. Raises BadRequest."""
        text = self._values.get(name, "")
        if not text and default is not None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 16 and low <= int(text) <= high):
            raise BadRequest(f"{name} is {text[:40]!r}, expected a whole number from {low} to {high}")
        return int(text)

    def choice(self, name: str, options: Collection[str], default: str) -> str:
        """Return one of `options`. Raises BadRequest."""
        text = self._values.get(name) or default
        if text not in options:
            raise BadRequest(f"{name} is {text[:40]!r}, expected one of {', '.join(sorted(options)[:20])}")
        return text

    def text(self, name: str, most: int = 200) -> str:
        """Return a text of at most `most` characters, to search for. Raises BadRequest."""
        text = self._values.get(name, "")
        if len(text) > most:
            raise BadRequest(f"{name} has {len(text)} characters, expected at most {most}")
        return text
